"""`benchmark verdicts`: what a network's verdict says of scans that are made wrong on purpose, and of untouched ones.

Each scan of a folder is cropped, resampled, padded or replaced in several ways and labelled; a table counts the
verdicts of every way. Crops go by the spine that the network finds in the untouched scan.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...bundle.launch import BUNDLE_ROOT, bundle_runs
from ...data.check.volumes import read_volume
from ...data.scans import find_scans
from ...files import write_nifti, write_whole
from ...ops.levels.verdict import OK, VERDICTS
from ...report.tables import format_table
from ...weights import model_settings
from ..accuracy.grid import device_name

OUT = BUNDLE_ROOT / "docs" / "results"
SHARES = (20, 40, 60)
"""Percent of the spine that the crops leave."""
SLICE_MM = 4.0
"""Distance of the slices of scans that are resampled to another plane, and 1 mm within them."""
OTHER_NAMES = 0.1
"""Share of the voxels with another level than in the untouched scan from which names count as others."""
PUT_ASIDE = "not labelled, all others are"
"""With which inference ends if it put scans aside."""
HEAD = ["scan", "wanted", "scans", *VERDICTS, "not labelled", "ok under other names", "first reason of the first scan"]

Volume = NDArray[Any]


@dataclass(frozen=True)
class Made:
    """A scan on axes towards right, front and head.

    Attributes:
        array: (X, Y, Z) grey values, or class ids.
        affine: (4, 4) to millimetres.
        low: row of the spine's lower end.
        high: one more than that of its upper end.
        order: of interpolation: 1 for grey values, 0 for class ids.
    """

    array: Volume
    affine: NDArray[np.float64]
    low: int
    high: int
    order: int = 1


Change = Callable[[Made], tuple[Volume, NDArray[np.float64]]]


def run(args: argparse.Namespace) -> int:
    """Make the scans, label them, and write the table."""
    with contextlib.ExitStack() as stack:
        work = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rows = table_rows(args.data, args.ckpt_dir.absolute(), Path(work).absolute(), args.scans, args.seed)
    page = args.out / "verdicts.md"
    write_whole(page, markdown(rows, model_settings(args.ckpt_dir) or {}, args.seed))
    print(page.read_text(encoding="utf-8"), page, sep="\n")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m scripts benchmark verdicts`."""
    add = parser.add_argument
    add("--ckpt-dir", type=Path, required=True, metavar="DIR", help="the folder `models` of a run of stage 2")
    add("--data", type=Path, required=True, metavar="FOLDER", help="scans that the network was not trained on")
    add("--out", type=Path, default=OUT, help="folder of the table verdicts.md")
    add("--scans", type=int, default=8, help="so many of the folder's scans are taken, the first ones")
    add("--seed", type=int, default=0, help="of the noise")
    add("--work", type=Path, help="folder for the scans and label maps; a temporary one without")


def table_rows(data: Path, models: Path, work: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """A row for each way: the verdicts, how many scans were ok under other names, and a reason."""
    scans = {entry["case"]: canonical(*read_volume(entry["image"])) for entry in find_scans(data)[:count]}
    for name, (array, affine) in scans.items():
        _write(work / "scans" / f"{name}.nii.gz", array, affine)
    _label(work / "scans", work / "untouched", models)
    truth = {}
    for name, (array, affine) in scans.items():
        label = canonical(*read_volume(work / "untouched" / f"{name}_seg.nii.gz"))[0]
        rows = np.flatnonzero(label.any((0, 1)))
        low, high = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, array.shape[2])
        truth[name] = Made(label, affine, low, high, order=0)
    changes = ways(np.random.default_rng(seed))
    for way, (change, _) in changes.items():
        for name, (array, affine) in scans.items():
            of = truth[name]
            made = change(Made(array, affine, of.low, of.high))
            _write(work / "made" / _folder(way) / f"{name}.nii.gz", *made)
    _label(work / "made", work / "labelled", models)
    table = [_row("untouched", OK, {name: _found(work / "untouched", name) for name in scans}, {})]
    for way, (change, wanted) in changes.items():
        found = {name: _found(work / "labelled", f"{_folder(way)}_{name}") for name in scans}
        other = {}
        for name, report in found.items():
            if report and report["verdict"] == OK:
                label = read_volume(work / "labelled" / f"{_folder(way)}_{name}_seg.nii.gz")[0]
                other[name] = other_names(label, change(truth[name])[0])
        table.append(_row(way, wanted, found, other))
    return table


def ways(rng: np.random.Generator) -> dict[str, tuple[Change, str]]:
    """How scans are made wrong, and the verdict that is wanted of each."""
    upper = {f"upper {n} % of the spine": (_crop(n, True), f"not {OK}") for n in SHARES}
    lower = {f"lower {n} % of the spine": (_crop(n, False), "its names" if n > 20 else f"not {OK}") for n in SHARES}
    return {
        **upper,
        **lower,
        "half as large, as a cervical spine": (
            lambda s: (s.array, s.affine @ np.diag([0.5, 0.5, 0.5, 1])),
            f"not {OK}",
        ),
        "twice as large": (lambda s: (s.array, s.affine @ np.diag([2.0, 2.0, 2.0, 1])), f"not {OK}"),
        "axial slices": (lambda s: _resampled(s, (1.0, 1.0, SLICE_MM)), f"not {OK}"),
        "coronal slices": (lambda s: _resampled(s, (1.0, SLICE_MM, 1.0)), f"not {OK}"),
        "two spines, one above the other": (lambda s: (np.concatenate([s.array] * 2, 2), s.affine), f"not {OK}"),
        "upside down": (lambda s: (s.array[:, :, ::-1], s.affine), f"not {OK}"),
        "noise": (lambda s: (_noise(s, rng), s.affine), f"not {OK}"),
        "padded with zeros": (_padded, "its names"),
    }


def _crop(percent: int, upper: bool) -> Change:
    def change(scan: Made) -> tuple[Volume, NDArray[np.float64]]:
        rows = max(round((scan.high - scan.low) * percent / 100), 1)
        if not upper:
            return scan.array[:, :, : scan.low + rows], scan.affine
        return scan.array[:, :, scan.high - rows :], _moved(scan.affine, (0, 0, scan.high - rows))

    return change


def _scaled(factor: float) -> Change:
    return lambda scan: (scan.array, scan.affine @ np.diag([factor, factor, factor, 1.0]))


def _resampled(scan: Made, spacing: Sequence[float]) -> tuple[Volume, NDArray[np.float64]]:
    factor = np.linalg.norm(scan.affine[:3, :3], axis=0) / spacing
    size = np.maximum(np.round(scan.array.shape * factor), 1)
    array = ndimage.zoom(scan.array, size / scan.array.shape, order=scan.order, grid_mode=True, mode="nearest")
    step = np.array(scan.array.shape) / array.shape
    return array, scan.affine @ np.diag([*step, 1.0])


def _padded(scan: Made) -> tuple[Volume, NDArray[np.float64]]:
    rim = [0, *(n // 4 for n in scan.array.shape[1:])]
    return np.pad(scan.array, [(n, n) for n in rim]), _moved(scan.affine, [-n for n in rim])


def _noise(scan: Made, rng: np.random.Generator) -> Volume:
    values = rng.normal(scan.array.mean(), scan.array.std(), scan.array.shape)
    return np.clip(values, scan.array.min(), scan.array.max()).astype(scan.array.dtype)


def _moved(affine: NDArray[np.float64], voxels: Sequence[float]) -> NDArray[np.float64]:
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ voxels
    return moved


def other_names(label: Volume, wanted: Volume) -> bool:
    """Whether a label map names the levels otherwise than another one of the same grid where both have a label."""
    if label.shape != wanted.shape:
        return True
    both = (label > 0) & (wanted > 0)
    return not both.any() or bool((label != wanted)[both].mean() > OTHER_NAMES)


def canonical(array: Volume, affine: NDArray[np.float64]) -> tuple[Volume, NDArray[np.float64]]:
    """A volume on axes towards right, front and head."""
    turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(array, affine))
    return np.asarray(turned.dataobj), np.asarray(turned.affine)


def markdown(rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], seed: int) -> str:
    """The page: a table of the ways, and the rate of false alarms."""
    cells = [
        [row["scan"], row["wanted"], str(sum(row["verdicts"].values()))]
        + [str(row["verdicts"].get(verdict, 0)) for verdict in (*VERDICTS, "")]
        + [str(row["other_names"]), row["reason"]]
        for row in rows
    ]
    untouched = rows[0]["verdicts"]
    alarms, all_of = sum(n for verdict, n in untouched.items() if verdict != OK), sum(untouched.values())
    wrong = [row for row in rows if row["wanted"] == f"not {OK}"]
    passed, made = sum(row["verdicts"].get(OK, 0) for row in wrong), sum(sum(row["verdicts"].values()) for row in wrong)
    height, width = settings.get("image_size", ("?", "?"))
    cases = (settings.get("structure_sizes") or {}).get("cases", "an unknown number of")
    lines = [
        "# Verdicts on scans made wrong on purpose",
        "",
        "Written by `python -m scripts benchmark verdicts`; what the verdicts mean is in "
        "[read_the_report.md](../read_the_report.md).",
        "",
        format_table(HEAD, cells, markdown=True),
        "",
        f"False alarms: {alarms} of {all_of} untouched scans are not ok. Passed as ok: {passed} of {made} scans that "
        "no network can name. *Its names*: ok or not, but not ok under other names than in the untouched scan.",
        "",
        f"The network was trained on {cases} labelled volumes, on slices of {height} x {width} pixels of "
        f"{settings.get('pixel_mm', '?')} mm. An untouched scan that it labels wrongly counts as a false alarm, too.",
        "",
        f"{device_name()}, {os.cpu_count()} cores, Python {platform.python_version()}; seed {seed}; "
        f"{datetime.date.today()}.",
    ]
    return "\n".join(lines) + "\n"


def _row(way: str, wanted: str, found: Mapping[str, Any], other: Mapping[str, bool]) -> dict[str, Any]:
    verdicts = Counter(report["verdict"] if report else "" for report in found.values())
    first = next((report["reasons"][0] for report in found.values() if report and report["reasons"]), "")
    return {"scan": way, "wanted": wanted, "verdicts": verdicts, "other_names": sum(other.values()), "reason": first}


def _label(scans: Path, out: Path, models: Path) -> None:
    """Label a folder; scans that cannot be used end the run with an error, but the others are labelled."""
    log = out.with_name(f"{out.name}.txt")
    overrides = {"input_dir": scans, "output_dir": out, "ckpt_dir": models, "overwrite": True, "page": False}
    try:
        bundle_runs([("inference", ["inference.yaml"], overrides)], log)
    except RuntimeError:
        if PUT_ASIDE not in log.read_text(encoding="utf-8"):
            raise


def _found(folder: Path, name: str) -> dict[str, Any] | None:
    path = folder / f"{name}_levels.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _folder(way: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in way)


def _write(path: Path, array: Volume, affine: NDArray[np.float64]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(path, nibabel.Nifti1Image(np.ascontiguousarray(array), affine))
