"""Fingerprint of a data set, and the network's grid that follows from it, as nnU-Net plans one."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError

from ...files import write_whole
from ...labels import IGNORE, ClassTable, LabelMap
from ..check.grid import grid_of
from ..check.volumes import UnusableError, label_values, read_volume
from ..datalist import Datalist, load_datalist

GRID = "grid"
"""Key of the datalist."""
MOST_PIXELS = {"cuda": 256 * 128, "cpu": 192 * 96}
"""Pixels of a slice on a GPU, as `configs/train.yaml` has them, and on a CPU, where a step's time goes with them."""
DIVISOR = 16
"""The network halves its input four times."""
MARGIN = 1.1
"""How much farther than the labels at hand structures of other patients may reach."""
LEAST_WIDTH = 0.5
"""Of the height: a spine lies elsewhere in other patients' images than in those of a few labelled ones."""
SAMPLE = 24
"""Scans and labels that are looked at, evenly over the list."""


@dataclass(frozen=True)
class Fingerprint:
    """What a grid has to hold, of the scans that are trained on.

    Attributes:
        height_mm: from head to foot, what has to be seen.
        width_mm: from front to back.
        scan_pixel_mm: median over the scans of the edge of a pixel of their sagittal slices.
    """

    height_mm: float
    width_mm: float
    scan_pixel_mm: float


def fingerprint(datalist: Datalist) -> Fingerprint | None:
    """Look at scans of training and unlabelled patients, and at labels of those to train and to validate on.

    Training cuts a window out of the middle of a scan. It has to hold what the labels show, and a tenth more, and be
    half as wide as high; no more than the largest scan.

    Returns:
        None if no scan or no label can be read; `check` says why.
    """
    sections = datalist.sections
    scans = [*sections.get("training", ()), *sections.get("unlabelled", ())]
    grids = [grid_of(*found) for entry in _sample(scans) if (found := _header(entry["image"]))]
    labelled = [*sections.get("training", ()), *sections.get("validation", ())]
    reaches = [reach for entry in _sample(labelled) if (reach := _reach(entry, datalist))]
    if not grids or not reaches:
        return None
    height, width = (MARGIN * max(values) for values in zip(*reaches, strict=True))
    height = min(height, max(grid.height_mm for grid in grids))
    width = min(max(width, LEAST_WIDTH * height), max(grid.depth_mm for grid in grids))
    return Fingerprint(round(height, 1), round(width, 1), round(statistics.median(g.pixel_mm for g in grids), 3))


def fitting_grid(found: Fingerprint, most_pixels: int) -> dict[str, Any]:
    """The finest grid of at most so many pixels that sees all and is not finer than the scans.

    Returns:
        `image_size`, height and width in pixels, multiples of 16; and `pixel_mm`, to a hundredth.
    """
    hundredths = math.ceil(max(found.scan_pixel_mm, 0.01) * 100 - 1e-6)
    while True:
        size = [
            DIVISOR * max(1, math.ceil(mm / (hundredths / 100) / DIVISOR - 1e-6))
            for mm in (found.height_mm, found.width_mm)
        ]
        if size[0] * size[1] <= max(most_pixels, DIVISOR**2):
            return {"image_size": size, "pixel_mm": hundredths / 100}
        hundredths += 1


def add_grid(path: str | Path) -> list[str]:
    """Write the grid that fits, and what it follows from, into a datalist; return a line that says so."""
    found = fingerprint(load_datalist(path))
    if found is None:
        return ["note: no grid was derived, as no scan or no label can be read; check names the files"]
    grid = fitting_grid(found, MOST_PIXELS["cuda"])
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    write_whole(path, json.dumps({**content, GRID: {**grid, **asdict(found)}}, indent=1) + "\n")
    return [
        f"grid that fits: image_size {grid['image_size']}, pixel_mm {grid['pixel_mm']} (for {found.height_mm:.0f} x "
        f"{found.width_mm:.0f} mm; the scans' pixels: {found.scan_pixel_mm:.2f} mm); `train` takes it, coarser on a CPU"
    ]


def read_fingerprint(path: str | Path) -> Fingerprint | None:
    """The fingerprint that a datalist holds; made now if it holds none, as one that was written by hand."""
    datalist = load_datalist(path)
    content: Mapping[str, Any] = json.loads(datalist.path.read_text(encoding="utf-8")).get(GRID) or {}
    try:
        return Fingerprint(*(float(content[key]) for key in Fingerprint.__dataclass_fields__))
    except (KeyError, TypeError, ValueError):
        return fingerprint(datalist)


def _sample(entries: Sequence[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    count = min(len(entries), SAMPLE)
    return (entries[number * len(entries) // count] for number in range(count))


def _header(path: str) -> tuple[tuple[int, ...], np.ndarray] | None:
    """Shape and affine of a scan, of NIfTI by its header alone; None if it cannot be read."""
    try:
        if path.lower().endswith((".nii", ".nii.gz")):
            image = nibabel.load(path)
            shape, affine = tuple(image.shape)[:3], np.asarray(image.affine)
        else:
            array, affine = read_volume(path)
            shape = array.shape
    except (UnusableError, OSError, ImageFileError):
        return None
    usable = len(shape) == 3 and np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-9
    return (shape, affine) if usable else None


def _reach(entry: Mapping[str, Any], datalist: Datalist) -> tuple[float, float] | None:
    """Height and width in mm of the window about the middle of a scan that holds all of its structures."""
    table: ClassTable = datalist.table
    image = _header(entry["image"])
    try:
        array, affine = read_volume(entry["label"])
        mapping = LabelMap.load(entry.get("label_map"), table).mapping
        shown = [value for value in label_values(np.rint(array)) if mapping.get(value, 0) not in (0, IGNORE)]
    except (UnusableError, ValueError):
        return None
    if image is None or not shown or not abs(np.linalg.det(affine[:3, :3])) > 1e-9:
        return None
    middle = np.linalg.solve(affine, image[1] @ np.append((np.array(image[0]) - 1) / 2, 1.0))  # voxels of the label
    axes = nibabel.io_orientation(affine)[:, 0].astype(int).tolist()
    voxels = np.argwhere(np.isin(array, shown))
    sizes = []
    for patient in (2, 1):  # up, forward
        axis = axes.index(patient)
        ends = np.array([voxels[:, axis].min() - 0.5, voxels[:, axis].max() + 0.5])
        sizes.append(2 * float(np.abs(ends - middle[axis]).max()) * float(np.linalg.norm(affine[:3, axis])))
    return sizes[0], sizes[1]
