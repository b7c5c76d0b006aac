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
RULES = 2
"""Counts up when the checks become stricter, so that files are looked at again."""


class Memory:
    """What was seen in scans that have no errors, and in their labels; a second check need not open them.

    Args:
        folder: where `checked_files.json` lies; None remembers nothing.
        label_map: labels are looked at again when another map is used.
    """

    def __init__(self, folder: str | Path | None, label_map: LabelMap) -> None:
        self.file = Path(folder).expanduser() / MEMORY if folder else None
        self.rules = [RULES, sorted(label_map.mapping.items())]
        self.known: dict[str, dict[str, Any]] = {}
        self.added = False
        if self.file and self.file.is_file():
            try:
                self.known = dict(json.loads(self.file.read_text(encoding="utf-8")))
            except (ValueError, TypeError):
                self.known = {}  # a damaged memory costs one slow check, nothing else

    def _name(self, job: Mapping[str, Any]) -> str | None:
        """Fingerprint of an image, its label and the rules; None if a file cannot be looked up."""
        try:
            files = [stamps(Path(job[key])) for key in ("image", "label") if job[key]]
        except OSError:
            return None
        rules = self.rules if job["label"] else RULES
        return hashlib.sha256(json.dumps([rules, files]).encode()).hexdigest()[:32]

    def look_up(self, job: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was remembered of image and label of `job`; None if it is new or has changed since."""
        return self.known.get(self._name(job) or "") if self.known else None

    def add(self, job: Mapping[str, Any], seen: dict[str, Any]) -> None:
        """Remember what was seen in image and label of `job`, which have no errors."""
        name = self._name(job) if self.file else None
        if name:
            self.known[name] = seen
            self.added = True

    def save(self) -> None:
        """Write what was added, whole or not at all."""
        if self.file and self.added:
            write_whole(self.file, json.dumps(self.known, sort_keys=True))


def stamps(path: Path) -> list[tuple[str, int, int]]:
    """Path, size and time of a file, or of all files of a folder."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [(str(f.absolute()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
