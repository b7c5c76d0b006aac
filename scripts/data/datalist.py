"""Datalists: JSON files that list the volumes of a data set, split by patient; problems found in them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import PROGRAM, write_whole
from ..labels import ClassTable, LabelMap
from .file_names import case_name

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
        label_map: how the data set's label values become class ids; entries may have another.
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
    hidden = raw.get("unlabelled_classes")
    sections: dict[str, list[dict[str, Any]]] = {}
    mistakes: list[str] = []
    for section in (s for s in SECTIONS if s in raw):
        sections[section] = []
        if not isinstance(raw[section], list):
            raise DataError(f'{path}: "{section}" must be a list of entries {{"image": ..., "label": ...}}')
        for number, row in enumerate(raw[section]):
            try:
                own, of = source, label_map
                if isinstance(row, dict) and row.get("label_map") is not None:
                    own, of = _label_map(path, row["label_map"], table)
                classes = of.unlabelled_classes if hidden is None else hidden
                sections[section].append(_entry(path.parent, section, row, classes, table, own))
            except DataError as error:
                why = str(error).removeprefix(f"{path}: ")
                mistakes.append(f'{path}: entry {number} of "{section}" {why}')
    if mistakes:
        raise DataError("\n".join(mistakes))
    return Datalist(path, table, label_map, sections)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path}: there is no such datalist; write one with `{PROGRAM} prepare FOLDER --out {path}`")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: this is not JSON ({error}); correct it, or write it anew with prepare") from error
    if not isinstance(raw, dict):
        raise DataError(f'{path}: a datalist is a table {{"training": [...], ...}}, not a {type(raw).__name__}')
    return raw


def _label_map(path: Path, source: Any, table: ClassTable) -> tuple[str | dict[str, Any] | None, LabelMap]:
    """The label map as a source that does not depend on the working folder, and as loaded."""
    plain = source
    if isinstance(source, Mapping):
        source = dict(source) if "map" in source else {"map": dict(source)}
        plain = {"map": source["map"]}  # the unlabelled classes have a key of their own in every entry
    elif source is not None and (path.parent / str(source)).is_file():
        plain = source = str(path.parent / str(source))
    try:
        return plain, LabelMap.load(source, table)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        advice = 'name one of those, or a JSON file with {"map": {"1": "S", ...}}'
        raise DataError(f'{path}: "label_map" cannot be used ({error}); {advice}') from error


def _entry(
    folder: Path,
    section: str,
    row: Any,
    default: Sequence[str | int],
    table: ClassTable,
    label_map: str | dict[str, Any] | None,
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
    mapped = label_map is not None and {"label", "hidden_label"} & entry.keys()
    return {**entry, "unlabelled_classes": ids, **({"label_map": label_map} if mapped else {})}


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
