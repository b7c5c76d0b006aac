"""`benchmark measurements`: how far measurements of predicted label maps lie from those of the true ones.

Bland and Altman's figures: the mean difference and the limits between which 95 % of differences lie if they are normal.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ...bundle.launch import BUNDLE_ROOT
from ...data.check.grid import same_grid
from ...data.datalist import DataError
from ...data.output_folder import OutputFolder
from ...data.scans import find_scans
from ...data.transforms import file_stem
from ...files import write_whole
from ...labels import ClassTable, LabelMap
from ...measure.command import find_label_maps, known_report, measured, read_label
from ...measure.scan_report import read_scan
from ...measure.shapes import MEASURES
from ...measure.spine import POSTERIOR
from ...report.tables import format_table
from ..accuracy.grid import device_name

OUT = BUNDLE_ROOT / "docs" / "results"
SAME = 0.5
"""Dice up to which two structures of one name are not the same one."""
WITHIN = 1.96
"""Standard deviations about the mean difference within which 95 % of a normal distribution lie."""
GROUPS = {"vertebra": "vertebrae", "disc": "discs"}
LABELLED = "labelled volume, ml"
HEAD = ["measurement", "n", "only one", "mean of the true", "bias", "limits of agreement", "mean absolute"]


class Pair(NamedTuple):
    """One measurement of one structure or spine in both label maps; None where it is not measured."""

    kind: str
    true: float | None
    predicted: float | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m scripts benchmark measurements`."""
    add = parser.add_argument
    add("--labels", type=Path, required=True, metavar="TRUE", help="folder of true label maps")
    add("--predicted", type=Path, required=True, metavar="PRED", help="folder that labelling wrote; scans by name")
    add("--label-map", metavar="NAME|FILE", help="what the values of the true label maps mean; without, class ids")
    add("--scans", type=Path, help="the scans, of the same names, for signals; without, those that were labelled")
    add("--out", type=Path, default=OUT, help="folder of the table measurements.md")


def run(args: argparse.Namespace) -> int:
    """Measure both, and write the table."""
    true, predicted = find_label_maps(args.labels), find_label_maps(args.predicted)
    names = sorted(set(true) & set(predicted))
    if not names:
        raise DataError(f"{args.labels} and {args.predicted}: no label map of the one has a name of the other")
    beside = OutputFolder(args.predicted)
    scans = {file_stem(e["case"]): e["image"] for e in find_scans(args.scans)} if args.scans else {}
    table = ClassTable.load()
    label_map = LabelMap.load(args.label_map, table)
    pairs, other = [], 0
    for name in tqdm(names, desc="measuring", disable=None):
        file = predicted[name].relative_to(args.predicted).as_posix()
        source = scans.get(name, beside.source(file))
        truth, affine = read_label(true[name], label_map)
        found, own = read_label(predicted[name], LabelMap.load(None, table))
        grids = ({"shape": truth.shape, "affine": affine}, {"shape": found.shape, "affine": own})
        if not same_grid(*grids):
            raise DataError(f"{predicted[name]} is not on the grid of {true[name]}; label the scan of that grid")
        scan = read_scan(source, truth.shape, affine)
        reports = (
            measured(truth, affine, source, table, {}, None, scan),
            measured(found, own, source, table, {}, known_report(beside, file, name), scan),
        )
        same = {c.id for c in table.foreground if _dice(truth == c.id, found == c.id) > SAME}
        voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
        other += sum(row["class_id"] not in same for row in reports[1]["structures"])
        pairs += [*structure_pairs(reports, same, table, voxel_ml), *spine_pairs(reports)]
    page = args.out / "measurements.md"
    write_whole(page, markdown(pairs, args, len(names), other))
    print(page.read_text(encoding="utf-8"), page, sep="\n")
    return 0


def structure_pairs(
    reports: Sequence[Mapping[str, Any]], same: set[int], table: ClassTable, voxel_ml: float
) -> Iterator[Pair]:
    """Pairs of the measurements of each structure that both label maps have.

    Args:
        reports: of the true and of the predicted label map.
        same: class ids of structures that lie in the same place in both.
        table: the classes.
        voxel_ml: volume of a voxel.
    """
    true, predicted = ({row["class_id"]: row for row in report["structures"]} for report in reports)
    for c in sorted(same & set(true) & set(predicted)):
        group = GROUPS.get(table.classes[c].group, table.classes[c].group)
        for key in MEASURES:
            yield Pair(f"{group}: {words(key)}", true[c][key], predicted[c][key])
        yield Pair(f"{group}: {LABELLED}", true[c]["voxels"] * voxel_ml, predicted[c]["voxels"] * voxel_ml)


def spine_pairs(reports: Sequence[Mapping[str, Any]]) -> Iterator[Pair]:
    """Pairs of the measurements of the spine; those of its levels are taken together."""
    true, predicted = (report["spine"] for report in reports)
    for key in (key for key in true if key != POSTERIOR):
        kind = next((kind for kind in ("disc_height_index", "slip_mm", "disc_signal") if key.startswith(kind)), key)
        yield Pair(f"spine: {words(kind)}", true[key], predicted[key])


def words(key: str) -> str:
    """A column in words, its unit at the end."""
    for unit in ("mm", "ml", "degrees"):
        if key.endswith(f"_{unit}"):
            return f"{key.removesuffix(f'_{unit}').replace('_', ' ')}, {unit}"
    return key.replace("_", " ")


def agreement(pairs: Sequence[Pair]) -> dict[str, float]:
    """Figures of the pairs of one kind, predicted minus true.

    Returns:
        `n` pairs, `one`, the number of those that only one label map has, `mean` of the true values, `bias`, the limits
        `low` and `high` (NaN below two pairs), and `absolute`, the mean absolute difference; NaN without a pair.
    """
    both = np.array([(p.true, p.predicted) for p in pairs if p.true is not None and p.predicted is not None])
    one = sum((p.true is None) != (p.predicted is None) for p in pairs)
    if not len(both):
        return {"n": 0, "one": one, **dict.fromkeys(("mean", "bias", "low", "high", "absolute"), float("nan"))}
    difference = both[:, 1] - both[:, 0]
    bias = float(difference.mean())
    reach = WITHIN * float(difference.std(ddof=1)) if len(both) > 1 else float("nan")
    return {
        "n": len(both),
        "one": one,
        "mean": float(both[:, 0].mean()),
        "bias": bias,
        "low": bias - reach,
        "high": bias + reach,
        "absolute": float(np.abs(difference).mean()),
    }


def markdown(pairs: Sequence[Pair], args: argparse.Namespace, scans: int, other: int) -> str:
    """The page."""
    cells = []
    for kind in dict.fromkeys(pair.kind for pair in pairs):
        of = agreement([pair for pair in pairs if pair.kind == kind])
        if of["n"] or of["one"]:
            digits = 3 if "index" in kind or "signal" in kind else 2
            mean, bias, low, high, absolute = (
                f"{of[key]:.{digits}f}" if np.isfinite(of[key]) else "–"
                for key in ("mean", "bias", "low", "high", "absolute")
            )
            cells.append([kind, f"{of['n']:.0f}", f"{of['one']:.0f}", mean, bias, f"{low} to {high}", absolute])
    lines = [
        "# Measurements of predicted label maps against those of the true ones",
        "",
        f"Written by `python -m scripts benchmark measurements --labels {args.labels.name} "
        f"--predicted {args.predicted.name}`; what is measured is in [measurements.md](../measurements.md).",
        "",
        f"Predicted minus true, {scans} scans. Bias is the mean difference, the limits of agreement are the bias ± "
        f"{WITHIN} standard deviations (Bland and Altman 1986). *Only one*: measured in one of the two label maps "
        f"alone. Structures are compared under their names where their Dice is above {SAME}; {other} predicted "
        "structures have none such. Structures of one patient are not independent of each other.",
        "",
        format_table(HEAD, cells, markdown=True),
        "",
        f"{device_name()}, {os.cpu_count()} cores, Python {platform.python_version()}; {datetime.date.today()}.",
    ]
    return "\n".join(lines) + "\n"


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 0.0
