"""Several datalists as one: sections side by side, every patient in one split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..datalist import SECTIONS, DataError, Datalist, load_datalist, write_datalist
from .splits import counts

SPLIT = {"training": "training", "unlabelled": "training", "validation": "validation", "test": "test"}
Rows = dict[str, list[dict[str, Any]]]


def join_datalists(lists: Sequence[str | Path], out: str | Path, distinct_patients: bool = False) -> list[str]:
    """Write one datalist that holds the entries of several, each with its own label map and unlabelled classes.

    Args:
        lists: the datalists.
        out: the datalist to write.
        distinct_patients: patients of equal names are different people, and are called after their list, too. Else they
            are one person, who must not be in two splits.

    Returns:
        Lines that say what was written.

    Raises:
        DataError: fewer than two lists, a list that cannot be read, or a patient in two splits.
    """
    if len(lists) < 2:
        raise DataError("--join takes two datalists or more")
    read = [load_datalist(path) for path in lists]
    titles = _titles([datalist.path for datalist in read])
    rows: Rows = {section: [] for section in SECTIONS}
    split: dict[str, tuple[str, Path]] = {}
    cases, patients = (Counter(n for d in read for n in {r[key] for r in _rows(d)}) for key in ("case", "patient"))
    for datalist, title in zip(read, titles, strict=True):
        for section, entries in datalist.sections.items():
            for entry in entries:
                row = _row(entry, datalist)
                if cases[row["case"]] > 1:
                    row["case"] = f"{title}_{row['case']}"
                if distinct_patients and patients[row["patient"]] > 1:
                    row["patient"] = f"{title}/{row['patient']}"
                of, first = split.setdefault(row["patient"], (SPLIT[section], datalist.path))
                if of != SPLIT[section]:
                    raise DataError(
                        f"{datalist.path}: the patient {row['patient']} is in {SPLIT[section]}, in {first} in {of}; "
                        "prepare both with the same split, or give --distinct-patients if they are two people"
                    )
                rows[section].append(row)
    path = write_datalist(out, rows, prepared={"joined": [str(datalist.path) for datalist in read]})
    from .fingerprint import add_grid  # with numpy, which `--help` and mistakes need not wait for

    grid = add_grid(path)
    shared = sorted(name for name, count in patients.items() if count > 1 and not distinct_patients)
    lines = [f"note: in several lists, taken for one person each: {', '.join(shared[:5])}"] if shared else []
    return [*lines, *counts(rows), *grid, f"written: {path}"]


def _rows(datalist: Datalist) -> list[dict[str, Any]]:
    return [row for entries in datalist.sections.values() for row in entries]


def _row(entry: dict[str, Any], datalist: Datalist) -> dict[str, Any]:
    """An entry that says by itself what its list said for all."""
    row = {**entry, "unlabelled_classes": [datalist.table.names[c] for c in entry["unlabelled_classes"]]}
    if {"label", "hidden_label"} & row.keys():
        identity = {str(value): c for value, c in datalist.label_map.mapping.items()}
        row["label_map"] = entry.get("label_map") or {"map": identity}
    return row


def _titles(paths: Sequence[Path]) -> list[str]:
    """A short name of its own for every list: the file's, with its folder or a number where files share it."""
    stems = Counter(path.stem for path in paths)
    titles = [path.stem if stems[path.stem] == 1 else f"{path.parent.name}_{path.stem}" for path in paths]
    return [t if titles.count(t) == 1 else f"{t}_{number}" for number, t in enumerate(titles, 1)]
