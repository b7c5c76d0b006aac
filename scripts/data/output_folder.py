"""The folder of results: `manifest.json` tells what this program wrote from what somebody made, which is kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ..files import sha256, take_turns, whole_file, write_whole
from .datalist import DataError

MANIFEST, LOCK = "manifest.json", ".manifest.lock"
PICTURES = "pictures/{}"
"""Where the pictures of scans lie below the folder."""
MEND = "name another --output_dir, or give --overwrite True to replace it"


class OutputFolder:
    """A folder of results in which no file is replaced but those that this program wrote and nobody changed since.

    `manifest.json` has an entry for each file: `source`, the scan it was made from; `sha256` of what was written;
    `model`, the SHA-256 of the network's weights; and `date`. Several processes may share the folder.

    Args:
        folder: made with the first file.
        weights: file of the network.
        overwrite: replace any file.
        endings: of the results of a scan, behind its name ("_seg.nii.gz").
        files: names of the results of a whole run ("summary.json").
        pictures: endings of a scan's pictures below `pictures/`, behind its name (".png").
    """

    def __init__(
        self,
        folder: str | Path,
        weights: str | Path = "",
        overwrite: bool = False,
        endings: Sequence[str] = (),
        files: Sequence[str] = (),
        pictures: Sequence[str] = (),
    ) -> None:
        self.folder, self.weights, self.overwrite = Path(folder), Path(weights), overwrite
        self.results = [f"{{}}{ending}" for ending in endings] + [PICTURES + ending for ending in pictures]
        self.files = tuple(files)

    def refuse(self, scans: Mapping[str, str], texts: Mapping[str, str], kept: Iterable[str | Path] = ()) -> None:
        """Refuse a run that would replace what it may not, before its first scan.

        Args:
            scans: name of the results -> the scan's path.
            texts: name of a file for the whole folder -> its content, which all runs into the folder have to share.
            kept: files that the run reads, which are no results.

        Raises:
            DataError: one sentence, which names the first file and the mend.
        """
        if self.overwrite:
            return
        written, ids = self.entries(), {_id(path) for path in kept} - {None}
        wanted = [(result.format(name), source) for name, source in scans.items() for result in self.results]
        found = []
        for name, source in [*wanted, *((name, "") for name in self.files)]:
            if _id(self.folder / name) in ids:
                found.append(f"{self.folder / name} is a scan or label that this run reads, or that the datalist names")
            elif reason := self._reason(name, source, written):
                found.append(reason)
        for name, text in texts.items():
            path = self.folder / name
            if path.is_file() and path.read_bytes() != text.encode():
                found.append(f"{path} tells of other classes than this run's, or was not written by this program")
        if found:
            more = f" ({len(found) - 1} more of its files are kept in the same way)" if len(found) > 1 else ""
            raise DataError(f"{found[0]}; {MEND}{more}")

    def holds(self, name: str, source: str) -> bool:
        """Whether a file is there already, made from this scan, or by somebody.

        Raises:
            DataError: it was made from another scan.
        """
        if not (self.folder / name).is_file():
            return False
        other = self._other_source(name, source, self.entries())
        if other and not self.overwrite:
            raise DataError(f"{other}; {MEND}")
        return not other

    def source(self, name: str) -> str:
        """The scan that a file was made from; "" if that is not known."""
        return str(self.entries().get(name, {}).get("source", ""))

    def is_own(self, name: str) -> bool:
        """Whether a file is there, and is what this program wrote."""
        path = self.folder / name
        return path.is_file() and sha256(path) in _checksums(self.entries().get(name, {}))

    def write(self, name: str, content: bytes, source: str = "") -> None:
        """Write a file, recorded before it appears, so that a killed run knows its own files.

        Args:
            name: of the file.
            content: of the file.
            source: the scan it was made from; "" for several.

        Raises:
            DataError: the file is one that may not be replaced.
            StorageError: it cannot be written.
        """
        path = self.folder / name
        with take_turns(self.folder / LOCK):
            written = self.entries()
            reason = "" if self.overwrite else self._reason(name, source, written)
            if reason:
                raise DataError(f"{reason}; {MEND}")
            entry = {
                "source": source,
                "sha256": hashlib.sha256(content).hexdigest(),
                "model": self._model,
                "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            }
            if path.is_file() and (before := sha256(path)) in _checksums(written.get(name, {})):
                entry["replaces"] = before  # still ours if this run is killed before the file is there
            content_of = json.dumps({"files": {**written, name: entry}}, indent=1, ensure_ascii=False)
            write_whole(self.folder / MANIFEST, content_of + "\n")
        with whole_file(path) as file:
            file.write(content)

    def write_text(self, path: str | Path, text: str) -> None:
        """Write a text for the whole folder; one that is there already with the same content is left alone."""
        if not Path(path).is_file() or Path(path).read_bytes() != text.encode():
            self.write(Path(path).name, text.encode())

    @cached_property
    def _model(self) -> str | None:
        return sha256(self.weights) if self.weights.is_file() else None

    def entries(self) -> dict[str, dict[str, Any]]:
        """Name of each written file -> its entry of the manifest; empty if there is none.

        Raises:
            DataError: it is damaged.
        """
        try:
            return dict(json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))["files"])
        except FileNotFoundError:
            return {}
        except (KeyError, TypeError, ValueError) as error:
            mend = "without it nothing tells whose files these are: name another --output_dir"
            raise DataError(f"{self.folder / MANIFEST} is damaged; {mend}") from error

    def _reason(self, name: str, source: str, written: Mapping[str, Mapping[str, Any]]) -> str:
        """Why a file may not be replaced; "" if it may."""
        path = self.folder / name
        if not os.path.lexists(path):
            return ""
        if name not in written:
            return f"{path} was not written by this program"
        if not path.is_file() or sha256(path) not in _checksums(written[name]):
            return f"{path} was changed since this program wrote it"
        return self._other_source(name, source, written)

    def _other_source(self, name: str, source: str, written: Mapping[str, Mapping[str, Any]]) -> str:
        other = written.get(name, {}).get("source", "")
        if not (source and other) or os.path.realpath(source) == os.path.realpath(other):
            return ""
        return f"{self.folder / name} was made from {other}, and {source} has the same name"


def _checksums(entry: Mapping[str, Any]) -> set[Any]:
    return {entry.get("sha256"), entry.get("replaces")} - {None}


def _id(path: str | Path) -> tuple[int, int] | None:
    """What tells a file whatever links lead to it; None if it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
