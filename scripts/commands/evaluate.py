"""`python -m scripts evaluate`: score a folder of label maps against a folder of labels, paired by name."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.check.grid import same_grid
from ..data.check.volumes import UnusableError, grid_mistakes, label_mistakes, read_volume
from ..data.datalist import DataError
from ..data.file_names import IMAGE_WORDS, case_name, image_files, name_parts, of_label, place
from ..data.output_folder import OutputFolder
from ..data.prepare.label_names import take_label_maps
from ..evaluation.cases import CaseScores
from ..labels import IGNORE, ClassTable, LabelMap
from ..report.tables import format_table, percent

FILES = ("summary.json", "per_case.csv")


def evaluate(
    pred: str | Path,
    truth: str | Path,
    out: str | Path,
    *,
    label_map: str | None = None,
    pred_label_map: str | None = None,
    unlabelled: Sequence[str] = (),
    distances: bool = True,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Score label maps and write `summary.json` and `per_case.csv` as an evaluation does (docs/data.md).

    Args:
        pred: folder of the label maps, or one.
        truth: folder of the labels, or one; each needs its label map, on the same grid.
        out: folder of the two files.
        label_map: name or JSON file of what the labels' values mean; None goes by names that lie beside them, as
            `prepare` does, or takes class ids.
        pred_label_map: the same of the label maps.
        unlabelled: names of classes that the labels' scans show but do not label; they enter no score.
        distances: compute HD95 and ASSD, which take longest.
        overwrite: replace files in `out` that this program did not write.

    Returns:
        The contents of `summary.json`.

    Raises:
        DataError: a label without a label map, two of one name, grids that differ, values that mean nothing.
    """
    table = ClassTable.load()
    pairs = pair_by_name(Path(pred), Path(truth))
    hidden = tuple(table.id_of(name) for name in unlabelled)
    outputs = OutputFolder(out, overwrite=overwrite, files=FILES)
    outputs.refuse({}, {}, [path for both in pairs.values() for path in both])
    maps = [
        _label_maps([both[side] for both in pairs.values()], Path(folder), source, table)
        for side, folder, source in ((0, pred, pred_label_map), (1, truth, label_map))
    ]
    scores = CaseScores(table, distances=distances)
    with tqdm(pairs.items(), desc="scoring", disable=None) as bar:
        for case, files in bar:
            bar.set_description(case)
            found: list[np.ndarray] = []
            grids: list[dict[str, Any]] = []
            for path, of_path in zip(files, maps, strict=True):
                array, affine = _class_ids(path, of_path[path])
                found.append(array)
                grids.append({"shape": array.shape, "affine": affine})
            if not same_grid(grids[1], grids[0]):
                wrong = grid_mistakes(grids[1], grids[0]) or ["lies on another grid (same place, other axes or voxels)"]
                mend = f"resample it onto the grid of {files[1]}"
                raise DataError(f"{files[0]}: {wrong[0].split(';')[0].replace('its image', 'its label')}; {mend}")
            predicted = np.where(found[0] == IGNORE, 0, found[0])  # a level that no class is of counts as not found
            spacing = np.linalg.norm(grids[1]["affine"][:3, :3], axis=0).tolist()
            classes = {*hidden, *maps[1][files[1]].unlabelled_classes}
            scores.add(case, predicted, found[1], spacing, sorted(classes))
    path = scores.write(out, outputs.write_text)
    return dict(json.loads(path.read_text(encoding="utf-8")))


def pair_by_name(pred: Path, truth: Path) -> dict[str, tuple[Path, Path]]:
    """Case -> label map and label of equal names, but for words as "seg", "label" and "mask" and folders of those.

    Raises:
        DataError: no such folder, two files of one name, or a label without a label map.
    """
    both = []
    for root in (pred, truth):
        if not root.exists():
            raise DataError(f"{root}: there is no such folder or file; give a folder of label maps")
        files = image_files(root) if root.is_dir() else [root]
        named: dict[str, Path] = {}
        for path in files:
            name = case_of(path, root if root.is_dir() else root.parent)
            if name in named:
                raise DataError(f"{path}: {named[name]} is of the same case, {name}; move one of them away")
            named[name] = path
        if not named:
            raise DataError(f"{root}: there is no label map here; NIfTI, MHA and NRRD files are read")
        both.append(named)
    predicted, labels = both
    if pred.is_file() and truth.is_file():
        return {next(iter(labels)): (pred, truth)}
    if missing := [labels[case] for case in labels if case not in predicted]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        mend = "label that scan, too, or move the label away"
        raise DataError(f"{missing[0]}{more}: {pred} holds no label map of that name; {mend}")
    return {case: (predicted[case], path) for case, path in labels.items()}


def case_of(path: Path, root: Path) -> str:
    """Name of a case by a label's folders and name, without the words that say that it is a label."""
    words = [word for part in (*place(path, root), case_name(path)) for word in name_parts(part)]
    return "_".join([word for word in words if word not in IMAGE_WORDS and not of_label(word)] or words)


def _label_maps(paths: Sequence[Path], root: Path, source: str | None, table: ClassTable) -> Mapping[Path, LabelMap]:
    """What the values of each file mean."""
    if source is not None:
        known = LabelMap.load(source, table)
        return dict.fromkeys(paths, known)
    maps, lines = take_label_maps(dict.fromkeys(paths), root if root.is_dir() else root.parent, table)
    found = {path: LabelMap.load(of, table) for path, of in maps.items()}
    if any(value != c for of in found.values() for value, c in of.mapping.items() if c != IGNORE):
        print("\n".join([f"{root}:", *lines]))  # of class ids there is nothing to say
    return found


def _class_ids(path: Path, label_map: LabelMap) -> tuple[np.ndarray, np.ndarray]:
    """Class ids (X, Y, Z) of a file, and its affine."""
    try:
        array, affine = read_volume(path)
    except UnusableError as error:
        raise DataError(f"{path}: {error}") from error
    if wrong := [mistake for mistake in label_mistakes(array, label_map) if "labels no structure" not in mistake]:
        raise DataError(f"{path}: {wrong[0]}")
    values = np.rint(array).astype(np.int64)
    ids = np.zeros_like(values)
    for value, class_id in label_map.mapping.items():
        ids[values == value] = class_id
    return ids, affine


def short_table(summary: Mapping[str, Any]) -> str:
    """Mean Dice, levels right, and a row for each group."""
    rows = [["all structures", percent(summary["mdice"]), percent(summary["miou"]), "–", str(summary["n_cases"])]]
    for group, scores in summary["groups"].items():
        if scores["n"]:
            hd95 = "–" if scores["hd95_mm"] is None else f"{scores['hd95_mm']:.2f}"
            rows.append([group, percent(scores["dice"]), percent(scores["iou"]), hd95, str(scores["n"])])
    table = format_table(["", "Dice %", "IoU %", "HD95 mm", "cases"], rows)
    return f"{table}\nlevels L5 to L1 right in {percent(summary['levels_right'])} % of the cases"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("pred", type=Path, metavar="PRED", help="folder of label maps, as `label` or another program wrote them")
    add("truth", type=Path, metavar="TRUTH", help="folder of labels of the same names, on the same grids")
    add("--out", "--output_dir", type=Path, metavar="OUT", help="folder of summary.json and per_case.csv; else PRED")
    add("--label-map", help="name or JSON file of what the labels' values mean; else by names beside them, as prepare")
    add("--pred-label-map", help="the same of the label maps; else class ids")
    add("--unlabelled-classes", nargs="+", default=[], metavar="CLASS", help="shown but not labelled: not scored, as S")
    add("--no-distances", action="store_true", help="leave out HD95 and ASSD, which take longest")
    add("--overwrite", nargs="?", const="True", choices=("True", "False"), help="replace files that others made")


def run(args: argparse.Namespace) -> int:
    """Score, and print a short table."""
    out = args.out or (args.pred if args.pred.is_dir() else args.pred.parent)
    summary = evaluate(
        args.pred,
        args.truth,
        out,
        label_map=args.label_map,
        pred_label_map=args.pred_label_map,
        unlabelled=args.unlabelled_classes,
        distances=not args.no_distances,
        overwrite=args.overwrite == "True",
    )
    print(f"{short_table(summary)}\nin {out}: {', '.join(FILES)}")
    return 0
