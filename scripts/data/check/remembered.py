"""Remember which files were checked, so that a second run starts at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...files import write_whole
from ...labels import LabelMap

MEMORY = "checked_files.json"
RULES = 4
"""Counts up when the checks become stricter, so that files are looked at again."""


class Memory:
    """What was seen in scans that have no errors, and in their labels; a second check need not open them.

    Args:
        folder: where `checked_files.json` lies; None remembers nothing.
        label_map: labels are looked at again when another map is used.
        window_mm: or another window of training.
    """

    def __init__(
        self, folder: str | Path | None, label_map: LabelMap, window_mm: Sequence[float] | None = None
    ) -> None:
        self.file = Path(folder).expanduser() / MEMORY if folder else None
        self.rules = [RULES, sorted(label_map.mapping.items()), list(window_mm or ())]
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


def stamps(path: Path) -> list[tuple[str, int, int, int]]:
    """Path, size and times of a file, or of all files of a folder: of the last change of its content, and of any.

    The first is kept by `cp -p` and `rsync -t`, which may bring other content of the same size; the second never is (on
    Windows it is the time when the file was made).
    """
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found = [(str(f.absolute()), f.stat()) for f in files]
    return [(name, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in found]


CHECKSUMS, READERS, MANY = "checksums.json", 4, 20
"""File of a cache folder; threads, which wait for the disk most of the time; files from which on a bar is shown."""


def checksums(paths: Iterable[str | Path], cache_folder: str | Path | None = None) -> dict[str, str]:
    """SHA-256 of files, and of folders of DICOM files (of their files in the order of their names).

    Args:
        paths: files or folders that exist.
        cache_folder: where `checksums.json` remembers them; None reads all.

    Returns:
        Path -> 64 hexadecimal digits, in the order of the paths.
    """
    memory = Path(cache_folder).expanduser() / CHECKSUMS if cache_folder else None
    known = _read(memory)
    wanted = {str(path): hashlib.sha256(json.dumps(stamps(Path(path))).encode()).hexdigest()[:32] for path in paths}
    missing = [path for path, stamp in wanted.items() if stamp not in known]
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(_checksum, missing)
        for path, digest in zip(
            missing, tqdm(found, "checksums", len(missing), disable=len(missing) < MANY or None), strict=True
        ):
            known[wanted[path]] = digest
    if memory and missing:
        write_whole(memory, json.dumps(known))
    return {path: known[stamp] for path, stamp in wanted.items()}


def _read(memory: Path | None) -> dict[str, str]:
    if memory is None or not memory.is_file():
        return {}
    try:
        return dict(json.loads(memory.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return {}  # a damaged memory costs time, nothing else


def _checksum(path: str) -> str:
    digest = hashlib.sha256()
    for file in sorted(Path(path).iterdir()) if Path(path).is_dir() else [Path(path)]:
        with file.open("rb") as content:
            while part := content.read(1 << 20):
                digest.update(part)
    return digest.hexdigest()
