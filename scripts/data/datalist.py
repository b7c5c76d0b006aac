"""Datalists: JSON files that list the volumes of a data set, split by patient; problems found in them."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import write_whole
from ..labels import ClassTable, LabelMap

SECTIONS = ("training", "unlabelled", "validation", "test")
MAY_BE_EMPTY = ("unlabelled", "validation")
"""Sections that may be empty: training is then supervised, or without validation."""


class DataError(ValueError):
    """Unusable data or settings; each line of the message names the file and says what to do."""


@dataclass(frozen=True)
class Datalist:
    """A datalist as read.

    Attributes:
        path: the file.
        table: the classes.
        label_map: how the data set's label values become class ids.
        sections: section -> entries with `image`, `case`, `patient`, `unlabelled_classes` (ids), and, where there are
            any, `label`, `hidden_label` and `label_map` (for `MapLabelValuesd`). Paths are absolute.
    """

    path: Path
    table: ClassTable
    label_map: LabelMap
    sections: dict[str, list[dict[str, Any]]]


def load_datalist(path: str | Path, *, class_table: str | Path | None = None) -> Datalist:
    """Read a datalist and resolve its paths and classes; the files themselves are not opened.

    Args:
        path: the JSON file.
        class_table: JSON file of the class table; None is the bundle's own.

    Raises:
        DataError: a missing file, bad JSON, an unknown label map or class, an entry without an image.
    """
    path = Path(path).expanduser().absolute()
    raw = _read_json(path)
    table = ClassTable.load(class_table)
    source, label_map = _label_map(path, raw.get("label_map"), table)
    default = raw.get("unlabelled_classes", label_map.unlabelled_classes)
    common: dict[str, Any] = {} if source is None else {"label_map": source}
    sections: dict[str, list[dict[str, Any]]] = {}
    mistakes: list[str] = []
    for section in (s for s in SECTIONS if s in raw):
        sections[section] = []
        if not isinstance(raw[section], list):
            raise DataError(f'{path}: "{section}" must be a list of entries {{"image": ..., "label": ...}}')
        for number, row in enumerate(raw[section]):
            try:
                sections[section].append(_entry(path.parent, section, row, default, table, common))
            except DataError as error:
                mistakes.append(f'{path}: entry {number} of "{section}" {error}')
    if mistakes:
        raise DataError("\n".join(mistakes))
    return Datalist(path, table, label_map, sections)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(
            f"{path}: there is no such datalist; write one with `python -m scripts prepare FOLDER --out {path}`"
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: this is not JSON ({error}); correct it, or write it anew with prepare") from error
    if not isinstance(raw, dict):
        raise DataError(f'{path}: a datalist is a table {{"training": [...], ...}}, not a {type(raw).__name__}')
    return raw


def _label_map(path: Path, source: Any, table: ClassTable) -> tuple[str | dict[str, Any] | None, LabelMap]:
    """The label map as a source that does not depend on the working folder, and as loaded."""
    if isinstance(source, Mapping):
        source = dict(source) if "map" in source else {"map": dict(source)}
    elif source is not None and (path.parent / str(source)).is_file():
        source = str(path.parent / str(source))
    try:
        return source, LabelMap.load(source, table)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        advice = 'name one of those, or a JSON file with {"map": {"1": "S", ...}}'
        raise DataError(f'{path}: "label_map" cannot be used ({error}); {advice}') from error


def _entry(
    folder: Path, section: str, row: Any, default: Sequence[str | int], table: ClassTable, common: dict[str, Any]
) -> dict[str, Any]:
    """One entry with absolute paths; errors continue the phrase 'entry 3 of "training" ...'."""
    if not isinstance(row, dict) or not row.get("image"):
        raise DataError('names no image; add the key "image" with the path of a scan')
    for key in ("image", "label", "hidden_label"):
        if not isinstance(row.get(key) or "", str):
            raise DataError(f'has {row[key]!r:.80} for "{key}"; give one path, a text')
    if section == "training" and not row.get("label"):
        raise DataError('has no label; add the key "label", or move the entry to "unlabelled"')
    if section == "unlabelled" and row.get("label"):
        raise DataError('has a label; call it "hidden_label" (training never reads it) or move the entry to "training"')
    entry = {k: str(folder / Path(row[k]).expanduser()) for k in ("image", "label", "hidden_label") if row.get(k)}
    entry = {k: os.path.normpath(v) for k, v in entry.items()}
    entry["case"] = str(row.get("case") or case_name(row["image"]))
    entry["patient"] = str(row.get("patient") or entry["case"])
    hidden = row.get("unlabelled_classes", default)
    if not isinstance(hidden, list | tuple):
        raise DataError(f'has {hidden!r:.80} for "unlabelled_classes"; give a list of names or ids')
    try:
        ids = tuple(table.id_of(c) for c in hidden)
    except ValueError as error:
        raise DataError(f'has an unknown class in "unlabelled_classes": {error}') from error
    return {**entry, "unlabelled_classes": ids, **(common if {"label", "hidden_label"} & entry.keys() else {})}


def _section(datalist: Datalist, section: str) -> list[dict[str, Any]]:
    """The entries of one section; see `MAY_BE_EMPTY`."""
    if section not in SECTIONS:
        raise DataError(
            f"{datalist.path}: no section can be called {section!r}; the sections are {', '.join(SECTIONS)}"
        )
    if section not in datalist.sections and section != "unlabelled":
        raise DataError(f'{datalist.path}: the section "{section}" is missing; add "{section}": [...] or run prepare')
    entries = datalist.sections.get(section, [])
    if not entries and section not in MAY_BE_EMPTY:
        raise DataError(f'{datalist.path}: "{section}" is an empty list; add scans with labels to it or run prepare')
    return entries


def select(datalist: str | Path | None, section: str, *, class_table: str | Path | None = None) -> list[dict[str, Any]]:
    """The entries of one section without hidden labels; none without a datalist.

    Raises:
        DataError: as `load_datalist`; a section that is missing, or empty and must not be.
    """
    if not datalist:
        return []
    entries = _section(load_datalist(datalist, class_table=class_table), section)
    hidden = ("hidden_label", "label_map") if section == "unlabelled" else ("hidden_label",)
    return [{k: v for k, v in entry.items() if k not in hidden} for entry in entries]


def select_for_scoring(
    datalist: str | Path | None, section: str, *, class_table: str | Path | None = None
) -> list[dict[str, Any]]:
    """The entries of one section that have labels, hidden ones for "unlabelled"; none without a datalist.

    Raises:
        DataError: as `select`; no entry with a label.
    """
    if not datalist:
        return []
    key = "hidden_label" if section == "unlabelled" else "label"
    entries = _section(load_datalist(datalist, class_table=class_table), section)
    scored = [{**entry, "label": entry[key]} for entry in entries if key in entry]
    if not scored:
        raise DataError(f'{datalist}: no entry of "{section}" has a "{key}", so nothing can be scored; add some')
    return [{k: v for k, v in entry.items() if k != "hidden_label"} for entry in scored]


def write_datalist(
    path: str | Path,
    sections: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    label_map: str | Mapping[str, Any] | None = None,
    unlabelled_classes: Sequence[str | int] | None = None,
    prepared: Mapping[str, Any] | None = None,
) -> Path:
    """Write a datalist atomically; paths below its own folder become relative.

    Args:
        path: the JSON file; folders are made.
        sections: section -> entries as in the file.
        label_map: name, file or table; None for class ids as they are.
        unlabelled_classes: None leaves them to the label map.
        prepared: provenance of the list, for the reader.

    Returns:
        The absolute path of the file.
    """
    path = Path(path).expanduser().absolute()
    content: dict[str, Any] = {"label_map": label_map}
    if unlabelled_classes is not None:
        content["unlabelled_classes"] = list(unlabelled_classes)
    if prepared:
        content["prepared"] = dict(prepared)
    for section in SECTIONS:
        content[section] = [
            {k: _relative(v, path.parent) if k in ("image", "label", "hidden_label") else v for k, v in row.items()}
            for row in sections.get(section, [])
        ]
    write_whole(path, json.dumps(content, indent=1) + "\n")
    return path


def _relative(file: str | Path, folder: Path) -> str:
    file = Path(os.path.normpath(Path(file).expanduser().absolute()))
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)


IMAGE_SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr")
_LABEL = r"(?:masks?|msk|labels?|seg|segmentations?)"
_IMAGE = r"(?:0000|images?|img)"
_IS_LABEL = re.compile(rf"^{_LABEL}[-_]|[-_]{_LABEL}$|^{_LABEL}$", re.IGNORECASE)
_WORDS = re.compile(rf"^(?:{_LABEL}|{_IMAGE})[-_]|[-_](?:{_LABEL}|{_IMAGE})$", re.IGNORECASE)
_LABEL_FOLDER = re.compile(r"^(?:labels?|masks?|segmentations?)(?!l?ed)", re.IGNORECASE)  # not "labelled"
_IMAGE_FOLDER = re.compile(r"^(?:images?|mr)", re.IGNORECASE)


def case_name(path: str | Path) -> str:
    """Name of a scan: its file name without the ending; for a DICOM series its folder's name."""
    name = Path(path).name
    ending = next((s for s in IMAGE_SUFFIXES if name.lower().endswith(s)), "")
    return name[: len(name) - len(ending)]


def is_image(path: Path) -> bool:
    """True for the name of a NIfTI, MetaImage or NRRD file that is not hidden."""
    return path.name.lower().endswith(IMAGE_SUFFIXES) and not path.name.startswith(".")


def image_files(root: Path) -> list[Path]:
    """Image files below a folder, sorted; without hidden folders, with linked folders and broken links."""
    found: list[Path] = []
    entered: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = () if real in entered else sorted(f for f in folders if not f.startswith("."))
        found += [Path(folder) / name for name in names if real not in entered and is_image(Path(name))]
        entered.add(real)
    return sorted(found)


def is_label(path: Path, root: Path) -> bool:
    """True for a label: "mask_1", "x_seg", "x_label", or a file in a folder "labels..." or "masks..." below `root`."""
    return bool(_IS_LABEL.search(case_name(path))) or home(path, root)[2]


def home(path: Path, root: Path) -> tuple[Path, str, bool]:
    """Common parent of image and label folder, suffix of the folder ("Tr"), and whether it is a label folder."""
    name = path.parent.name if path.parent != root else ""
    for word, holds_labels in ((_LABEL_FOLDER, True), (_IMAGE_FOLDER, False)):
        if word.match(name):
            return path.parent.parent, word.sub("", name), holds_labels
    return path.parent, "", False


def pair_key(path: Path) -> str:
    """Key that a scan and its label share: the file name without words for image and label."""
    return _WORDS.sub("", case_name(path)).lower()


def natural(text: str) -> list[tuple[int, str]]:
    """Natural sort key (Case2 before Case10)."""
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.split(r"(\d+)", text)]


@dataclass(frozen=True)
class Problem:
    """One error or warning about a file.

    Attributes:
        path: the file: a scan, a label, or the datalist.
        message: what is wrong and what to do; in a warning, what a run will do about it.
        section: section of the datalist, "" for several.
        level: "error" or "warning".
    """

    path: str
    message: str
    section: str = ""
    level: str = "error"

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def errors(problems: Iterable[Problem]) -> list[Problem]:
    """The problems that stop a run."""
    return [p for p in problems if p.level == "error"]


def raise_problems(problems: Iterable[Problem]) -> None:
    """Log all warnings and raise all errors as one, one per line.

    Raises:
        DataError: there is an error.
    """
    found = list(problems)
    for problem in found:
        if problem.level != "error":
            logging.getLogger(__name__).warning("%s", problem)
    lines = [str(problem) for problem in errors(found)]
    if lines:
        count = f"{len(lines)} problems with the data:\n" if len(lines) > 1 else ""
        raise DataError(count + "\n".join(lines))


def problem_table(problems: Sequence[Problem]) -> list[str]:
    """Lines of a table, errors first: level, section, file and sentence."""
    ordered = sorted(problems, key=lambda p: p.level)  # stable, and "error" comes before "warning"
    return [f"{p.level:<9}{p.section or '-':<12}{p}" for p in ordered]


def write_json(path: str | Path, datalist: str | Path, problems: Sequence[Problem], **counts: Any) -> None:
    """Write all problems as JSON, atomically."""
    wrong = len(errors(problems))
    content = {"datalist": str(datalist), "errors": wrong, "warnings": len(problems) - wrong, **counts}
    content["problems"] = [asdict(problem) for problem in problems]
    write_whole(path, json.dumps(content, indent=1) + "\n")
