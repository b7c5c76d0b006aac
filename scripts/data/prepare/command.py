"""`python -m scripts prepare`: from a folder of scans to a datalist, split by patient."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...labels import LABEL_MAP_DIR, ClassTable, LabelMap
from ..datalist import SECTIONS, DataError, load_datalist, write_datalist
from ..dicom import series as dicom
from ..dicom.choice import choose_series
from .layouts import LAYOUTS, Found, Volume, read_layout
from .splits import draw_split, keep_labelled, section_of

VALIDATION_FRACTION = 0.1
TEST_FRACTION = 0.2
"""With the 172 public cases of MRSpineSeg these give 120 patients to train, 17 to validate and 35 to test."""


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
        label_map: name or JSON file; None is the layout's own.
        seed: draws the split; for spider_space, whose split is fixed, the block of labelled patients.
        validation_fraction: share of the patients with labels, rounded down.
        test_fraction: share of them, rounded up. From three patients with labels on, no section stays empty unless its
            fraction is 0; one or two are all trained on.
        series: the series that is taken from SPIDER (t1, t2 or t2_SPACE), the contrast of DICOM series (t2, t1, stir
            or any).

    Returns:
        The absolute path of the datalist.

    Raises:
        DataError: a folder that the layout does not fit, or a subset that cannot be drawn.
    """
    _check_arguments(labelled_fraction, labelled_cases, seed, validation_fraction, test_fraction)
    folder, out = Path(folder).expanduser().absolute(), Path(out).expanduser().absolute()
    if out.is_dir():
        raise DataError(
            f"{out}: this is a folder; give the name of the datalist to write, for example {out / 'data.json'}"
        )
    if above := next((p for p in out.parents if p.exists() and not p.is_dir()), None):
        raise DataError(
            f"{out}: {above} is a file, nothing can be written below it; give another name for the datalist"
        )
    name, found = read_layout(folder, layout, series)
    print(f"{folder}: layout {name}{' (detected)' if layout == 'auto' else ''}")
    if name == "dicom":
        found = _convert(folder, out.with_name(f"{out.stem}_nifti"), series)
    source = _label_map(label_map, out) or found.label_map
    if source is None and any(v.label for v in found.volumes):
        found.notes.append("label values are taken for class ids; name a --label-map where they are not")
    split = _split(found, labelled_fraction, labelled_cases, seed, (validation_fraction, test_fraction))
    rows = _rows(found, split)
    how = {"layout": name, "seed": seed, "labelled_patients": len(split["training"])}
    path = write_datalist(out, rows, label_map=source, unlabelled_classes=found.unlabelled_classes, prepared=how)
    load_datalist(path)
    print("\n".join([*(f"note: {note}" for note in found.notes), *_summary(rows), f"written: {path}"]))
    return path


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


def _label_map(source: str | Path | None, out: Path) -> str | None:
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


def _convert(folder: Path, target: Path, sequence: str) -> Found:
    """Write the series of a folder that are wanted as NIfTI. Patients are numbered: nothing tells who they are."""
    choice = choose_series(dicom.list_series(folder), sequence)
    found = Found([], notes=[*choice.notes, *choice.warnings])
    numbers: dict[str, int] = {}
    names: set[str] = set()
    damaged = [series for series in choice.taken if series.plane == "unreadable"]
    found.notes += [f"{series.place}: left out, it is damaged" for series in damaged]
    for series in tqdm([s for s in choice.taken if s not in damaged], desc="converting DICOM", disable=None):
        name, copy = series.name, 2
        while name in names:
            name, copy = f"{series.name}_{copy}", copy + 1
        names.add(name)
        image = target / f"{name}.nii.gz"
        try:
            dicom.convert_series(series, image)
        except RuntimeError as error:
            found.notes.append(f"{series.place}: left out, it cannot be read ({str(error).strip().splitlines()[-1]})")
            continue
        number = numbers.setdefault(series.patient or f"series {name}", len(numbers) + 1)
        found.volumes.append(Volume(name, f"patient_{number:03d}", image))
    if not found.volumes:
        raise DataError("\n".join([f"{folder}: there is no DICOM series to take; give another folder", *found.notes]))
    return found


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


def _rows(found: Found, split: dict[str, list[str]]) -> dict[str, list[dict[str, Any]]]:
    """Section -> entries; scans without a label of patients that are validated or tested on are left out."""
    rows: dict[str, list[dict[str, Any]]] = {section: [] for section in SECTIONS}
    sections = section_of(split)
    for volume in found.volumes:
        section = sections.get(volume.patient, "unlabelled")
        row = {"image": str(volume.image), "case": volume.case, "patient": volume.patient}
        if volume.label is None and section in ("validation", "test"):
            found.notes.append(f"{volume.image}: left out, no label, and its patient is in {section}")
        elif volume.label is None or section == "unlabelled":
            hidden = {"hidden_label": str(volume.label)} if volume.label else {}
            rows["unlabelled"].append({**row, **hidden})
        else:
            rows[section].append({**row, "label": str(volume.label)})
    return rows


def _summary(rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    lines = [f"{'section':<12}{'patients':>10}{'volumes':>10}"]
    return lines + [f"{s:<12}{len({r['patient'] for r in rows[s]}):>10}{len(rows[s]):>10}" for s in SECTIONS]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments of `python -m scripts prepare`."""
    parser.add_argument("folder", type=Path, help="folder of the data set")
    parser.add_argument("--out", type=Path, required=True, help="datalist to write (JSON)")
    parser.add_argument("--layout", choices=("auto", *LAYOUTS), default="auto", help="how the folder is laid out")
    subset = parser.add_mutually_exclusive_group()
    subset.add_argument("--labelled-fraction", type=float, help="share of training patients that stay labelled, 0..1")
    subset.add_argument("--labelled-cases", type=int, help="number of training patients that stay labelled")
    parser.add_argument("--label-map", help="name of a label map or a JSON file; the layout's own by default")
    parser.add_argument("--seed", type=int, default=0, help="draws the split, or the block of spider_space")
    parser.add_argument("--validation-fraction", type=float, default=VALIDATION_FRACTION)
    parser.add_argument("--test-fraction", type=float, default=TEST_FRACTION)
    parser.add_argument(
        "--series",
        default="t2",
        choices=("t1", "t2", "t2_SPACE", "stir", "any"),
        help="which series of SPIDER (t1, t2, t2_SPACE) or of a DICOM study (t2, t1, stir, any)",
    )


def run(args: argparse.Namespace) -> int:
    """Run `python -m scripts prepare`; 0, or 1 after an error in one sentence."""
    names = ("layout", "labelled_fraction", "labelled_cases", "label_map", "seed", "validation_fraction")
    try:
        prepare(args.folder, args.out, **{k: getattr(args, k) for k in (*names, "test_fraction", "series")})
    except (DataError, ModuleNotFoundError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
