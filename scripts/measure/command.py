"""`python -m scripts measure`: report and tables of a folder of label maps, which a person may have corrected."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..data.check.volumes import UnusableError, label_mistakes, read_volume
from ..data.datalist import DataError, Problem
from ..data.file_names import case_name, image_files
from ..data.output_folder import OutputFolder
from ..data.scans import find_scans
from ..data.transforms import LABEL_MAP, file_stem
from ..labels import IGNORE, ClassTable, LabelMap
from ..ops.levels.structures import measure
from ..ops.levels.verdict import Trained
from ..report.spine_picture import spine_picture
from ..weights import model_settings
from .outline import Array
from .page import PAGE, PICTURE, REPORT, SCANS, STRUCTURES, picture_name
from .scan_report import Scan, level_report, read_scan, with_measurements
from .spine import POSTERIOR
from .tables import finish_folder, read_report

MODELS = Path(__file__).resolve().parents[2] / "models"
SEG = LABEL_MAP.split(".")[0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("labels", type=Path, metavar="LABELS", help="label maps: a folder, or one file")
    add("--scans", type=Path, help="their scans, of the same names, for signals; without, those that were labelled")
    add("--out", type=Path, help="folder of the results; without, that of the label maps")
    add("--label-map", metavar="NAME|FILE", help="what their values mean; without, class ids")
    add("--ckpt-dir", type=Path, default=MODELS, help="folder of a network, for its sizes of structures: models")
    add("--overwrite", action="store_true", help="replace files in the folder that others made or changed")


def run(args: argparse.Namespace) -> int:
    """Measure every label map; write `<scan>_levels.json`, a picture where there is a scan, tables and page.

    Raises:
        DataError: no label map, two of one name, files that may not be replaced; at the end, label maps that cannot
            be used.
    """
    folder = args.labels if args.labels.is_dir() else args.labels.parent
    labels = find_label_maps(args.labels)
    beside = OutputFolder(folder)
    sources = {name: beside.source(path.relative_to(folder).as_posix()) for name, path in labels.items()}
    if args.scans:
        scans = {file_stem(entry["case"]): entry["image"] for entry in find_scans(args.scans)}
        sources = {name: scans.get(name, "") for name in labels}
        if missing := [name for name in labels if not sources[name]]:
            logging.getLogger(__name__).warning("%s: no scan of this name for %s", args.scans, ", ".join(missing))
    of_all = [STRUCTURES, SCANS, PAGE]
    outputs = OutputFolder(
        args.out or folder, overwrite=args.overwrite, endings=[REPORT], files=of_all, pictures=[PICTURE]
    )
    outputs.refuse(sources, {}, labels.values())
    table = ClassTable.load()
    label_map = LabelMap.load(args.label_map, table)
    settings = model_settings(args.ckpt_dir) or {}
    problems = []
    for name, path in tqdm(labels.items(), desc="measuring", disable=None):
        try:
            label, affine = read_label(path, label_map)
        except UnusableError as error:
            problems.append(Problem(str(path), str(error)))
            continue
        old = known_report(beside, path.relative_to(folder).as_posix(), name)
        scan = read_scan(sources[name], label.shape, affine)
        report = measured(label, affine, sources[name], table, settings, old, scan)
        if scan.array is not None:
            outputs.write(picture_name(name), spine_picture(scan.array, label, affine, table), sources[name])
        outputs.write(f"{name}{REPORT}", (json.dumps(report, indent=1) + "\n").encode(), sources[name])
    finish_folder(outputs)
    if len(problems) < len(labels):
        print(f"{len(labels) - len(problems)} measured: {outputs.folder / STRUCTURES}, {outputs.folder / SCANS}")
    if problems:
        raise DataError("\n".join([f"{len(problems)} not measured:", *map(str, problems)]))
    return 0


def find_label_maps(root: Path) -> dict[str, Path]:
    """Name of the scan -> label map, of all image files below a folder, or of those that labelling wrote if any.

    Raises:
        DataError: there is none, or two have the same name.
    """
    if not root.exists():
        raise DataError(f"{root}: there is no such folder or file; give the path of label maps")
    files = image_files(root) if root.is_dir() else [root]
    files = [path for path in files if path.name.endswith(LABEL_MAP)] or files
    if not files:
        raise DataError(f"{root}: there is no label map here; NIfTI, MHA and NRRD are read")
    found: dict[str, Path] = {}
    for path in files:
        parts = path.relative_to(root).parts[:-1] if root.is_dir() else ()
        name = "_".join((*parts, case_name(path).removesuffix(SEG)))
        if name in found:
            raise DataError(f"{found[name]} and {path} have the same name, {name}; rename one")
        found[name] = path
    return found


def read_label(path: Path, label_map: LabelMap) -> tuple[NDArray[np.uint8], Array]:
    """Class ids (X, Y, Z), pixels to be ignored as background, and the affine (4, 4) of a label map.

    Raises:
        UnusableError: it cannot be read, or holds values that the label map does not know.
    """
    array, affine = read_volume(path, single_slices=True)
    if mistakes := label_mistakes(array, label_map):
        raise UnusableError(mistakes[0])
    values, where = np.unique(np.round(array).astype(np.int64), return_inverse=True)
    ids = [label_map.mapping[value] for value in values.tolist()]
    return np.array([0 if c == IGNORE else c for c in ids], dtype=np.uint8)[where].reshape(array.shape), affine


def known_report(beside: OutputFolder, label_map: str, name: str) -> dict[str, Any] | None:
    """The report that labelling wrote of a label map, if nobody changed either since."""
    report = f"{name}{REPORT}"
    return read_report(beside.folder / report) if beside.is_own(label_map) and beside.is_own(report) else None


def measured(
    label: NDArray[np.uint8],
    affine: Array,
    source: str,
    table: ClassTable,
    settings: Mapping[str, Any],
    old: Mapping[str, Any] | None = None,
    scan: Scan | None = None,
) -> dict[str, Any]:
    """The report of a label map.

    Args:
        label: (X, Y, Z) class ids.
        affine: (4, 4) to scanner millimetres, RAS.
        source: path of the scan; "" for none.
        table: the classes.
        settings: of a network, for its sizes of structures.
        old: what labelling said of this very label map: its verdict and confidence hold.
        scan: its grey values; None if nobody read it.
    """
    # where a label map has no sacrum nobody labelled it, as in most data sets
    chain = tuple(c.id for c in table.chain if c.group != "sacrum" or (label == c.id).any())
    planes = tuple((settings.get("training_ranges") or {}).get("planes") or ("sagittal",))
    trained = Trained(table, chain, settings.get("structure_sizes") or {}, planes)
    if old is None:
        return level_report(label, affine, trained, source, scan)
    posterior = old.get("spine", {}).get(POSTERIOR)
    report = {**old, "source": source or old["source"]}
    return with_measurements(report, label, affine, trained, measure(label, affine), posterior, scan)
