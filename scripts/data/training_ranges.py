"""What the scans of a training look like, in a few numbers, and in what another scan differs from them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from ..labels import ClassTable
from .cache import SliceDataset
from .check.grid import Grid, grid_of
from .check.volumes import UnusableError, read_volume

MILLIMETRES = {
    "height_mm": "{:.0f} mm from head to foot",
    "depth_mm": "{:.0f} mm from front to back",
    "pixel_mm": "pixels of {:.2g} mm",
    "slice_mm": "slices every {:.2g} mm",
}
FACTOR = 1.5
"""How many times larger or smaller than all of training's a length may be."""
GREY = {"grey_10": "dark tenth", "grey_50": "median", "grey_90": "bright tenth"}
GREY_SLACK = 0.35
"""How far beyond training's a quantile of the normalised grey values may lie, in standard deviations of the scan."""
CONTRAST_SLACK = 0.5
"""The same for the mean grey value of a group of structures."""
FEW_PIXELS = 20


def grey_values(slices: np.ndarray) -> dict[str, float]:
    """Quantiles of normalised grey values without what was filled up, which is exactly 0.

    Args:
        slices: any shape, in standard deviations of the scan around its mean.
    """
    values = slices[slices != 0].astype(np.float32)
    if not values.size:
        return {}
    return {name: float(np.percentile(values, int(name.removeprefix("grey_")))) for name in GREY}


def contrast(slices: np.ndarray, label: np.ndarray, table: ClassTable) -> dict[str, float]:
    """Mean normalised grey value of every group of structures that is there: what tells a T1 from a T2 scan.

    Args:
        slices: any shape, normalised.
        label: the same shape, class ids.
        table: the classes.
    """
    found = {}
    for group in table.groups:
        inside = np.isin(label, table.group(group))
        if inside.sum() >= FEW_PIXELS:
            found[f"grey_of_{group}"] = float(slices[inside].astype(np.float32).mean())
    return found


class SeenScans:
    """Ranges of what training sees; called once a model is written, and computed then, once.

    Args:
        datasets: labelled and unlabelled slices.
        table: the classes.
    """

    def __init__(self, datasets: Sequence[SliceDataset], table: ClassTable) -> None:
        self.datasets, self.table = list(datasets), table
        self._found: dict[str, Any] | None = None

    def __call__(self) -> dict[str, Any]:
        """The acquired `planes`, the number of `scans`, and `ranges`: measure -> [smallest, largest]."""
        if self._found is None:
            planes: set[str] = set()
            measures: dict[str, list[float]] = {}
            for dataset in self.datasets:
                for case, entry in enumerate(dataset.data):
                    look = self._look(dataset, case, entry)
                    planes.add(look.pop("plane", "any"))
                    for name, value in look.items():
                        measures.setdefault(name, []).append(value)
            ranges = {name: [round(min(values), 3), round(max(values), 3)] for name, values in measures.items()}
            count = sum(len(dataset.data) for dataset in self.datasets)
            self._found = {"scans": count, "planes": sorted(planes), "ranges": ranges}
        return self._found

    def _look(self, dataset: SliceDataset, case: int, entry: Mapping[str, Any]) -> dict[str, Any]:
        slices, label = np.asarray(dataset.image(case)), dataset.label(case)
        found: dict[str, Any] = grey_values(slices)
        if label is not None:
            found |= contrast(slices, np.asarray(label), self.table)
        with contextlib.suppress(UnusableError, OSError):  # the scan lies in the cache, its file was taken away since
            found |= _lengths(_grid_of_file(entry["image"]))
        return found


def _grid_of_file(path: str) -> Grid:
    """The grid of a scan; a NIfTI's header is enough for it."""
    if Path(path).name.lower().endswith((".nii", ".nii.gz")):
        header = nibabel.load(path)
        return grid_of(header.shape[:3], header.affine)
    array, affine = read_volume(path)
    return grid_of(array.shape, affine)


def _lengths(grid: Grid) -> dict[str, Any]:
    return {"plane": grid.plane, **{name: getattr(grid, name) for name in MILLIMETRES}}


def unlike_training(
    seen: Mapping[str, Any] | None, grid: Grid, slices: np.ndarray, label: np.ndarray, table: ClassTable
) -> str | None:
    """In what a scan differs from all that the network was trained on, in one sentence; None if in nothing.

    Args:
        seen: what `SeenScans` gave; None or without ranges, for a network that was trained without, is like all.
        grid: the scan's own grid.
        slices: its slices as the network takes them, any shape, normalised.
        label: the same shape, predicted class ids.
        table: the classes.
    """
    if not seen or not seen.get("ranges"):
        return None
    found, ranges = [], seen["ranges"]
    if grid.plane in ("coronal", "axial") and grid.plane not in seen["planes"]:
        found.append(f"{grid.plane} slices ({', '.join(p for p in seen['planes'] if p != 'any') or 'sagittal'})")
    for name, words in MILLIMETRES.items():
        low, high = ranges.get(name, (0.0, np.inf))
        size = getattr(grid, name)
        if not low / FACTOR <= size <= high * FACTOR and not (name == "slice_mm" and grid.slices == 1):
            found.append(f"{words.format(size)} ({low:.3g} to {high:.3g})")
    measured = {**grey_values(slices), **contrast(slices, label, table)}
    for name, value in measured.items():
        if name in ranges:
            low, high = ranges[name]
            slack = GREY_SLACK if name in GREY else CONTRAST_SLACK
            if not low - slack <= value <= high + slack:
                what = f"{GREY[name]} of the grey values" if name in GREY else name.replace("_", " ")
                found.append(f"{what} at {value:.2f} ({low:.2f} to {high:.2f})")
    if not found:
        return None
    return f"does not look like the scans of the training (theirs in brackets): {'; '.join(found)}"
