"""The labelled subsets of a benchmark: nested datalists split by patient, and one with all labels, the upper bound."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.datalist import load_datalist, write_datalist
from ...data.file_names import natural
from ...data.prepare.command import prepare
from ...data.prepare.splits import keep_labelled

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Source:
    """Where the scans come from: a folder as `prepare` takes it, or a datalist; one of them.

    Attributes:
        data: folder of the scans, in `layout`.
        datalist: a datalist; its labelled patients are those that subsets are cut from.
    """

    data: Path | None
    layout: str
    datalist: Path | None


@dataclass(frozen=True)
class Cell:
    """The data of some runs: a number of labelled patients and a seed.

    Attributes:
        datalist: of these patients.
        hidden: its unlabelled patients have hidden labels to score against.
    """

    labelled: int
    seed: int
    datalist: Path
    hidden: bool


def cell(source: Source, labelled: int, seed: int, folder: Path) -> Cell:
    """Some labelled patients, drawn by the seed; a larger subset of the same seed holds the smaller one.

    Args:
        source: where the scans come from.
        labelled: number of patients.
        seed: as `prepare` takes it; a datalist's labelled patients are shuffled by it.
        folder: gets `datalist_<labelled>_<seed>.json`; one that is there stays as it is.

    Raises:
        DataError: there are not that many labelled patients.
    """
    path = folder / f"datalist_{labelled}_{seed}.json"
    if not path.is_file():
        if source.datalist is not None:
            cut(source.datalist, path, labelled, seed)
        else:
            prepare(source.data or "", path, layout=source.layout, labelled_cases=labelled, seed=seed)
    return _cell(path, seed)


def full_cell(source: Source, labelled: int, seed: int, folder: Path) -> Cell:
    """All training patients that have labels, hidden ones too, labelled; see :func:`cell` for the arguments."""
    whole = load_datalist(source.datalist or cell(source, labelled, seed, folder).datalist).sections
    known = [row for row in whole.get("unlabelled", []) if "hidden_label" in row]
    shown = [{**{k: v for k, v in row.items() if k != "hidden_label"}, "label": row["hidden_label"]} for row in known]
    training = [*whole["training"], *shown]
    path = folder / f"datalist_{len(patients(training))}_{seed}.json"
    if not path.is_file():
        rest = [row for row in whole.get("unlabelled", []) if "hidden_label" not in row]
        _write(path, {**whole, "training": training, "unlabelled": rest})
    return _cell(path, seed)


def cut(source: Path, out: Path, labelled: int, seed: int) -> Path:
    """A copy of a datalist in which so many labelled patients stay labelled, and the labels of the others are hidden.

    Raises:
        DataError: there are not that many.
    """
    whole = load_datalist(source).sections
    order = patients(whole.get("training", []))
    random.Random(seed).shuffle(order)
    kept = set(keep_labelled(order, None, labelled))
    stay = [row for row in whole["training"] if row["patient"] in kept]
    hide = [
        {**{k: v for k, v in row.items() if k != "label"}, "hidden_label": row["label"]}
        for row in whole["training"]
        if row["patient"] not in kept
    ]
    return _write(out, {**whole, "training": stay, "unlabelled": [*hide, *whole.get("unlabelled", [])]})


def patients(rows: Rows) -> list[str]:
    """The patients of some entries, in natural order."""
    return sorted({row["patient"] for row in rows}, key=natural)


def _cell(path: Path, seed: int) -> Cell:
    sections = load_datalist(path).sections
    hidden = any("hidden_label" in row for row in sections.get("unlabelled", []))
    return Cell(len(patients(sections["training"])), seed, path, hidden)


def _write(path: Path, sections: Mapping[str, Rows]) -> Path:
    """Write entries as `load_datalist` gives them; the label map is the same for all."""
    label_map = next((row["label_map"] for rows in sections.values() for row in rows if "label_map" in row), None)
    plain = {s: [{k: v for k, v in row.items() if k != "label_map"} for row in rows] for s, rows in sections.items()}
    return write_datalist(path, plain, label_map=label_map, unlabelled_classes=[])
