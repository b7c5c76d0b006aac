"""Remember which files were checked, so that a second run starts at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import write_whole
from ..labels import LabelMap

MEMORY = "checked_files.json"
RULES = 1
"""Counts up when the checks become stricter, so that files are looked at again."""


class Memory:
    """Fingerprints of scans that were found good, together with their labels; a second check need not open them.

    Args:
        folder: where `checked_files.json` lies; None remembers nothing.
        label_map: labels are looked at again when another map is used.
    """

    def __init__(self, folder: str | Path | None, label_map: LabelMap) -> None:
        self.file = Path(folder).expanduser() / MEMORY if folder else None
        self.rules = [RULES, sorted(label_map.mapping.items())]
        self.known: set[str] = set()
        self.added = False
        if self.file and self.file.is_file():
            try:
                self.known = set(json.loads(self.file.read_text(encoding="utf-8")))
            except (ValueError, TypeError):
                self.known = set()  # a damaged memory costs one slow check, nothing else

    def _name(self, job: Mapping[str, Any]) -> str | None:
        """Fingerprint of an image, its label and the rules; None if a file cannot be looked up."""
        try:
            files = [stamps(Path(job[key])) for key in ("image", "label") if job[key]]
        except OSError:
            return None
        rules = self.rules if job["label"] else RULES
        return hashlib.sha256(json.dumps([rules, files]).encode()).hexdigest()[:32]

    def knows(self, job: Mapping[str, Any]) -> bool:
        """True if image and label of `job` were found good and have not changed since."""
        return bool(self.known) and self._name(job) in self.known

    def add(self, job: Mapping[str, Any]) -> None:
        """Remember that image and label of `job` are good."""
        name = self._name(job) if self.file else None
        if name:
            self.known.add(name)
            self.added = True

    def save(self) -> None:
        """Write what was added, whole or not at all."""
        if self.file and self.added:
            write_whole(self.file, json.dumps(sorted(self.known)))


def stamps(path: Path) -> list[tuple[str, int, int]]:
    """Path, size and time of a file, or of all files of a folder."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [(str(f.absolute()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
