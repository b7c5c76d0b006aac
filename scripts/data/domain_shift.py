"""Ranges of size, spacing and grey values of the training scans, and detection of scans outside (domain shift)."""

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
    "width_mm": "{:.0f} mm from left to right",
    "pixel_mm": "pixels of {:.2g} mm",
    "slice_mm": "slices every {:.2g} mm",
}
FACTOR = 1.5
"""A length may be this factor above the largest or below the smallest of training."""
ONLY_LARGE = ("width_mm",)
"""Lengths of which less is nothing new to the network: in fewer slices there is no tissue that it has not seen."""
ACROSS = ("slice_mm", "width_mm")
"""Lengths that a single slice has not."""
GREY = {"grey_10": "dark tenth", "grey_50": "median", "grey_90": "bright tenth"}
GREY_SLACK = 0.35
"""Tolerance of a quantile of the normalised grey values beyond the range of training."""
CONTRAST_SLACK = 0.5
"""Tolerance of the mean normalised grey value of a group of structures."""
FEW_PIXELS = 20


def grey_values(slices: np.ndarray) -> dict[str, float]:
    """Quantiles of normalised grey values of any shape, without padding (exactly 0)."""
    values = slices[slices != 0].astype(np.float32)
    if not values.size:
        return {}
    return {name: float(np.percentile(values, int(name.removeprefix("grey_")))) for name in GREY}


def contrast(slices: np.ndarray, label: np.ndarray, table: ClassTable) -> dict[str, float]:
    """Mean normalised grey value of every group of structures in a label of the same shape; tells T1 from T2."""
    found = {}
    for group in table.groups:
        inside = np.isin(label, table.group(group))
        if inside.sum() >= FEW_PIXELS:
            found[f"grey_of_{group}"] = float(slices[inside].astype(np.float32).mean())
    return found


class TrainingRanges:
    """Ranges over all training scans, computed at the first call (when a model is written).

    Args:
        datasets: labelled and unlabelled slices.
        table: class table.
    """

    def __init__(self, datasets: Sequence[SliceDataset], table: ClassTable) -> None:
        self.datasets, self.table = list(datasets), table
        self._found: dict[str, Any] | None = None

    def __call__(self) -> dict[str, Any]:
        """Return the number of `scans`, their `planes`, and `ranges`: measure -> [smallest, largest]."""
        if self._found is None:
            planes: set[str] = set()
            measures: dict[str, list[float]] = {}
            for dataset in self.datasets:
                for case, entry in enumerate(dataset.data):
                    measured = self._measure(dataset, case, entry)
                    planes.add(measured.pop("plane", "any"))
                    for name, value in measured.items():
                        measures.setdefault(name, []).append(value)
            ranges = {name: [round(min(values), 3), round(max(values), 3)] for name, values in measures.items()}
            count = sum(len(dataset.data) for dataset in self.datasets)
            self._found = {"scans": count, "planes": sorted(planes), "ranges": ranges}
        return self._found

    def _measure(self, dataset: SliceDataset, case: int, entry: Mapping[str, Any]) -> dict[str, Any]:
        slices, label = np.asarray(dataset.image(case)), dataset.label(case)
        found: dict[str, Any] = grey_values(slices)
        if label is not None:
            found |= contrast(slices, np.asarray(label), self.table)
        with contextlib.suppress(UnusableError, OSError):  # the scan is cached and its file is gone
            found |= _lengths(_grid_of_file(entry["image"]))
        return found


def _grid_of_file(path: str) -> Grid:
    """Voxel grid of a scan; of NIfTI only the header is read."""
    if Path(path).name.lower().endswith((".nii", ".nii.gz")):
        header = nibabel.load(path)
        return grid_of(header.shape[:3], header.affine)
    array, affine = read_volume(path)
    return grid_of(array.shape, affine)


def _lengths(grid: Grid) -> dict[str, Any]:
    return {"plane": grid.plane, **{name: getattr(grid, name) for name in MILLIMETRES}}


def domain_shift(
    training: Mapping[str, Any] | None, grid: Grid, slices: np.ndarray, label: np.ndarray, table: ClassTable
) -> str | None:
    """Sentence that says in what a scan lies outside the ranges of training (out of distribution); None if in nothing.

    Args:
        training: value of `TrainingRanges`; None or without ranges for no check.
        grid: voxel grid of the scan file.
        slices: preprocessed (normalised) slices, any shape.
        label: predicted class ids, same shape.
        table: class table.
    """
    if not training or not training.get("ranges"):
        return None
    found, ranges = [], training["ranges"]
    if grid.plane in ("coronal", "axial") and grid.plane not in training["planes"]:
        found.append(f"{grid.plane} slices ({', '.join(p for p in training['planes'] if p != 'any') or 'sagittal'})")
    for name, words in MILLIMETRES.items():
        low, high = ranges.get(name, (0.0, np.inf))
        size, least = getattr(grid, name), 0.0 if name in ONLY_LARGE else low / FACTOR
        if not least <= size <= high * FACTOR and not (name in ACROSS and grid.slices == 1):
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
