"""Checksums of scans, remembered by size and time of change: a data set is read once for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from ..files import write_whole
from .checked import stamps

MEMORY, READERS, MANY = "checksums.json", 4, 20
"""File of a cache folder; threads, which wait for the disk most of the time; files from which on a bar is shown."""


def checksums(paths: Iterable[str | Path], cache_folder: str | Path | None = None) -> dict[str, str]:
    """SHA-256 of files, and of folders of DICOM files (of their files in the order of their names).

    Args:
        paths: files or folders that exist.
        cache_folder: where `checksums.json` remembers them; None reads all.

    Returns:
        Path -> 64 hexadecimal digits, in the order of the paths.
    """
    memory = Path(cache_folder).expanduser() / MEMORY if cache_folder else None
    known = _read(memory)
    wanted = {str(path): hashlib.sha256(json.dumps(stamps(Path(path))).encode()).hexdigest()[:32] for path in paths}
    missing = [path for path, stamp in wanted.items() if stamp not in known]
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(_checksum, missing)
        for path, digest in zip(
            missing, tqdm(found, "checksums", len(missing), disable=len(missing) < MANY), strict=True
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
