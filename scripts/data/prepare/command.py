"""`python -m scripts prepare`: from a folder of scans to a datalist, split by patient."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...labels import LABEL_MAP_DIR, ClassTable, LabelMap
from ..datalist import SECTIONS, DataError, write_datalist
from ..dicom import series as dicom
from ..file_names import natural
from .converted import add_converted
from .join import join_datalists
from .label_names import mapping_table, take_label_maps
from .layouts import LAYOUTS, Found, Wanted, read_layout
from .splits import counts, draw_split, keep_labelled, section_of

VALIDATION_FRACTION = 0.1
TEST_FRACTION = 0.2
"""With the 172 public cases of MRSpineSeg these give 120 patients to train, 17 to validate and 35 to test."""
ALONE = "labels_without_scan"
"""What the datalist's note calls labels that pair with nothing."""


def prepare(
    folder: str | Path,
    out: str | Path,
    *,
    layout: str = "auto",
    labelled_fraction: float | None = None,
    labelled_cases: int | None = None,
    label_map: str | Path | None = None,
    seed: int = 0,
    validation_fraction: float = VALIDATION_FRACTION,
    test_fraction: float = TEST_FRACTION,
    series: str = "t2",
    images: str | None = None,
    labels: str | None = None,
    patient: str | None = None,
) -> Path:
    """Write the datalist of a folder and print what it holds.

    Only patients with labels are labelled, validated on or tested on; labels of patients that count as unlabelled are
    kept as `hidden_label`. With the same seed a larger labelled subset holds the smaller, and validation and test stay.

    Args:
        folder: the data set.
        out: the datalist to write; DICOM series are converted to a folder beside it.
        layout: one of `LAYOUTS`, or "auto".
        labelled_fraction: share in (0, 1] of the training patients with labels that stay labelled, at least one.
        labelled_cases: their number instead; neither keeps all.
        label_map: name or JSON file; None takes the names that come with the labels, else the layout's own.
        seed: draws the split; for spider_space, whose split is fixed, the block of labelled patients.
        validation_fraction: share of the patients with labels, rounded down.
        test_fraction: share of them, rounded up. From three patients with labels on, no section stays empty unless its
            fraction is 0; one or two are all trained on.
        series: the series that is taken from SPIDER (t1, t2 or t2_SPACE), the contrast of DICOM series (t2, t1, stir
            or any).
        images: pattern of the scans, relative to the folder, `**` for any folders; None tells them by their names.
        labels: pattern of the labels.
        patient: regular expression, searched in a scan's path below the folder; its first group is the patient.

    Returns:
        The absolute path of the datalist.

    Raises:
        DataError: a folder that the layout does not fit, label values that nothing explains, or a subset that cannot be
            drawn.
    """
    _check_arguments(labelled_fraction, labelled_cases, seed, validation_fraction, test_fraction)
    folder, out = Path(folder).expanduser().absolute(), _file_to_write(out)
    converted = out.with_name(f"{out.stem}_nifti")
    name, found = read_layout(folder, layout, Wanted(series, images, labels, patient, without=converted))
    print(f"{folder}: layout {name}{' (detected)' if layout == 'auto' else ''}")
    if name == "dicom" or dicom.dicom_folders(folder):
        add_converted(found, folder, converted, series, patient)
        if not found.volumes:
            why = f"{folder}: there is no DICOM series to take; give another folder"
            raise DataError("\n".join([why, *found.notes]))
    source, said = _label_maps(found, _known_label_map(label_map), folder)
    split = _split(found, labelled_fraction, labelled_cases, seed, (validation_fraction, test_fraction))
    rows = _rows(found, split)
    how: dict[str, Any] = {"layout": name, "seed": seed, "labelled_patients": len(split["training"])}
    if found.alone:
        how[ALONE] = sorted(str(label) for label in found.alone)
    path = write_datalist(out, rows, label_map=source, unlabelled_classes=found.unlabelled_classes, prepared=how)
    from .fingerprint import add_grid  # with numpy, which `--help` and mistakes need not wait for

    grid = add_grid(path)
    notes = [*found.notes, *(f"{label}: left out, {why}" for label, why in found.alone.items())]
    print("\n".join([*said, *(f"note: {note}" for note in notes), *counts(rows), *grid, f"written: {path}"]))
    return path


def _file_to_write(out: str | Path) -> Path:
    """The absolute path of a datalist to write."""
    out = Path(out).expanduser().absolute()
    if out.is_dir():
        raise DataError(
            f"{out}: this is a folder; give the name of the datalist to write, for example {out / 'data.json'}"
        )
    if above := next((p for p in out.parents if p.exists() and not p.is_dir()), None):
        raise DataError(
            f"{out}: {above} is a file, nothing can be written below it; give another name for the datalist"
        )
    return out


def _check_arguments(fraction: float | None, cases: int | None, seed: int, validation: float, test: float) -> None:
    if fraction is not None and cases is not None:
        raise DataError("a labelled fraction and a number of labelled cases exclude each other; give one of them")
    if fraction is not None and not 0 < fraction <= 1:
        raise DataError(
            f"the labelled fraction must lie above 0 and not above 1, not be {fraction}; 0.1 is ten per cent"
        )
    if cases is not None and cases < 1:
        raise DataError(f"the number of labelled cases must be 1 or more, not {cases}")
    if seed < 0:
        raise DataError(f"the seed must be 0 or more, not {seed}")
    if min(validation, test) < 0 or validation + test >= 1:
        raise DataError(
            f"fractions of {validation} to validate and {test} to test leave nobody to train on; lower them"
        )


def _known_label_map(source: str | Path | None) -> str | None:
    """A known name as it is, a file by its absolute path.

    Raises:
        DataError: neither, or a file that does not fit the class table.
    """
    if source is None:
        return None
    known = (LABEL_MAP_DIR / f"{source}.json").is_file()
    source = str(source) if known else str(Path(source).expanduser().absolute())
    try:
        LabelMap.load(source, ClassTable.load())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{source}: no label map ({error}); name a known one or correct the file") from error
    return source


def _split(
    found: Found, fraction: float | None, cases: int | None, seed: int, shares: tuple[float, float]
) -> dict[str, list[str]]:
    """Section -> patients; who is named in none is unlabelled."""
    with_label = sorted({v.patient for v in found.volumes if v.label}, key=natural)
    if found.split:
        split = {section: [p for p in order if p in set(with_label)] for section, order in found.split.items()}
    else:
        split = draw_split(with_label, seed, *shares)
    # a drawn order has the seed in it already
    return {**split, "training": keep_labelled(split["training"], fraction, cases, seed if found.split else 0)}


def _label_maps(found: Found, label_map: str | None, folder: Path) -> tuple[Any, list[str]]:
    """The label map of all labels, and lines that say what their values were taken for.

    Where labels have different ones, every volume gets its own, and there is none for all.
    """
    own = {volume.label: volume.label_map or found.label_map for volume in found.volumes if volume.label}
    found.volumes = [replace(volume, label_map=None) for volume in found.volumes]
    table = ClassTable.load()
    if label_map is not None or not own:
        source = label_map or found.label_map
        lines = mapping_table([LabelMap.load(source, table)], [], table) if source and own else []
        return source, [f"label values, by the label map {source}:", *lines] if lines else []
    maps, lines = take_label_maps(own, folder, table)
    if len({json.dumps(source, sort_keys=True) for source in maps.values()}) == 1:
        return next(iter(maps.values())), lines
    found.volumes = [replace(v, label_map=maps[v.label]) if v.label else v for v in found.volumes]
    return None, lines


def _rows(found: Found, split: dict[str, list[str]]) -> dict[str, list[dict[str, Any]]]:
    """Section -> entries; scans without a label of patients that are validated or tested on are left out."""
    rows: dict[str, list[dict[str, Any]]] = {section: [] for section in SECTIONS}
    sections = section_of(split)
    for volume in found.volumes:
        section = sections.get(volume.patient, "unlabelled")
        row: dict[str, Any] = {"image": str(volume.image), "case": volume.case, "patient": volume.patient}
        if volume.label_map is not None:
            row["label_map"] = volume.label_map
        if volume.label is None and section in ("validation", "test"):
            found.notes.append(f"{volume.image}: left out, no label, and its patient is in {section}")
        elif volume.label is None or section == "unlabelled":
            hidden = {"hidden_label": str(volume.label)} if volume.label else {}
            rows["unlabelled"].append({**row, **hidden})
        else:
            rows[section].append({**row, "label": str(volume.label)})
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments of `python -m scripts prepare`."""
    add = parser.add_argument
    add("folder", type=Path, nargs="?", help="folder of the data set")
    add("--out", type=Path, required=True, help="datalist to write (JSON)")
    add("--layout", default="auto", choices=("auto", *LAYOUTS), help="how the folder is laid out")
    subset = parser.add_mutually_exclusive_group()
    subset.add_argument("--labelled-fraction", type=float, help="share of training patients that stay labelled, 0..1")
    subset.add_argument("--labelled-cases", type=int, help="number of training patients that stay labelled")
    add("--label-map", help="name or JSON file; else names that come with the labels, or the layout's own")
    add("--seed", type=int, default=0, help="draws the split, or the block of spider_space")
    add("--validation-fraction", type=float, default=VALIDATION_FRACTION, help="share of patients to validate on")
    add("--test-fraction", type=float, default=TEST_FRACTION, help="share of patients to test on")
    series = "which series of SPIDER (t1, t2, t2_SPACE) or of a DICOM study (t2, t1, stir, any)"
    add("--series", default="t2", choices=("t1", "t2", "t2_SPACE", "stir", "any"), help=series)
    add("--images", metavar="GLOB", help='the scans, relative to the folder ("*/t2.nii.gz"), where names do not tell')
    add("--labels", metavar="GLOB", help="the labels; what the wildcards stand for pairs them with the scans")
    add("--patient", metavar="REGEX", help="its first group is the patient, searched in a scan's path")
    add("--join", type=Path, nargs="+", metavar="LIST", help="join datalists instead of reading a folder")
    add("--distinct-patients", action="store_true", help="with --join: patients of equal names are different people")


def run(args: argparse.Namespace) -> int:
    """Run `python -m scripts prepare`; 0, or 1 after an error in one sentence or with labels that pair with nothing."""
    names = (
        *("layout", "labelled_fraction", "labelled_cases", "label_map", "seed", "validation_fraction", "test_fraction"),
        *("series", "images", "labels", "patient"),
    )
    try:
        if bool(args.join) == bool(args.folder):
            raise DataError("give either a folder of scans or --join with the datalists to join")
        if args.join:
            print("\n".join(join_datalists(args.join, _file_to_write(args.out), args.distinct_patients)))
            return 0
        path = prepare(args.folder, args.out, **{k: getattr(args, k) for k in names})
        alone = json.loads(path.read_text(encoding="utf-8"))["prepared"].get(ALONE, [])
    except (DataError, ModuleNotFoundError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if alone:
        mend = (
            "the datalist is written without them; correct their names, move them away, or say by --labels which count"
        )
        print(f"error: {len(alone)} labels pair with no scan ({alone[0]}, ...); {mend}", file=sys.stderr)
    return int(bool(alone))
