"""Who works on what, where several processes or machines share a folder: one lock file for each piece of work."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

DEAD_AFTER_S, SILENT_AFTER_S = 30, 600
"""Seconds without a sign of life after which a lock is broken: of a process of this host that is gone, of any."""


class Locks:
    """Lock files in a folder; a holder shows that it lives by touching them.

    Args:
        folder: shared by all who work.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: set[Path] = set()
        self.me = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})

    def claim(self, name: str) -> bool:
        """Take a lock that nobody holds, or whose holder is dead; False if somebody does."""
        path = self.folder / f"{name}.lock"
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._stale(path):
            self._break(path)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(self.me)
        except FileExistsError:
            return False
        self.held.add(path)
        return True

    def release(self, name: str) -> None:
        """Give a lock back."""
        path = self.folder / f"{name}.lock"
        self.held.discard(path)
        path.unlink(missing_ok=True)

    def release_all(self) -> None:
        """Give back what is still held."""
        for path in self.held:
            path.unlink(missing_ok=True)
        self.held.clear()

    def show_life(self) -> None:
        """Touch all locks that are held; to be called every few seconds."""
        for path in self.held:
            path.touch()

    def _stale(self, path: Path) -> bool:
        try:
            age, text = time.time() - path.stat().st_mtime, path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return False
        if age > SILENT_AFTER_S:
            return True
        try:
            holder = json.loads(text)
        except json.JSONDecodeError:  # made in this moment, and still empty
            return False
        # hosts of one name exist, in containers above all: a process that is not here may live there, and touches
        here = holder["host"] == socket.gethostname()
        return here and age > DEAD_AFTER_S and not _alive(holder["pid"])

    def _break(self, path: Path) -> None:
        """Remove a stale lock under a name of its own first: of two who break it, one finds it."""
        aside = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
        try:
            path.rename(aside)
        except FileNotFoundError:
            return
        if self._stale(aside):
            aside.unlink()
        else:  # another had broken it and taken the lock anew
            aside.rename(path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
