"""Landmarks of a spine: its discs, found along the centre line, and what is measured of each: tilt, size, distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, maximum_filter1d
from scipy.signal import find_peaks
from torch import Tensor

from ..check_shape import check_shape
from .ordering import spine_rows

Array = NDArray[np.float64]
SMOOTH_MM, APART_MM, HALF_HEIGHT_MM = 1.8, 14.0, 9.0
"""Smoothing of the profile along the spine; least distance of two landmarks; half the height that a landmark takes."""
PROMINENCE, SHARE = 0.15, 0.25
"""Of a peak in the landmark's share of the tissue at a row."""
LEVEL_MM = 36.0
"""Usual distance of two levels; only where a table has one type of structure, whose profile is compared with it."""
LEAST_MM2 = 20.0
"""Area in a slice from which the long axis of a landmark is measured."""


@dataclass(frozen=True)
class Landmarks:
    """Landmarks of one volume from the lowest upwards.

    Attributes:
        rows: (n,) row of the grid, from the top, at which each crosses the spine's centre line.
        tilt: (n,) degrees of its long axis against the horizontal, in (-90, 90]; positive where the front is higher.
        area: (n,) mm² in the sagittal plane, > 0, mean over the slices that show it.
        height: rows of the grid.
        pixel_mm: size of a pixel.
    """

    rows: Array
    tilt: Array
    area: Array
    height: int
    pixel_mm: float

    def __len__(self) -> int:
        """Number of landmarks."""
        return len(self.rows)

    @property
    def place(self) -> Array:
        """Distance below the middle of the field of view in mm, (n,)."""
        return (self.rows - (self.height - 1) / 2) * self.pixel_mm


def find_landmarks(tissue: Tensor, kind: int, pixel_mm: float) -> tuple[Landmarks, Tensor]:
    """Find the landmarks of a volume: peaks of one tissue type's share of the spine along its centre line.

    Args:
        tissue: (S, H, W) int64 tissue type, 0 is background; rows from superior to inferior, columns from anterior to
            posterior.
        kind: tissue type of the landmarks.
        pixel_mm: size of a pixel.

    Returns:
        The landmarks, and the row of the centre line that belongs to each pixel, (S, H, W) int64.
    """
    height = check_shape("tissue", tissue, "S H W")["H"]
    on = tissue > 0
    rows = spine_rows(on.float())
    spine, marks = (
        np.bincount(rows[mask].cpu().numpy(), minlength=height).astype(float) for mask in (on, tissue == kind)
    )
    peaks = find_peaks(
        _share(marks, spine, pixel_mm), distance=max(APART_MM / pixel_mm, 1), prominence=PROMINENCE, height=SHARE
    )[0]
    slices, y, x = (tissue == kind).nonzero(as_tuple=True)
    points = torch.stack([slices, y, x, rows[slices, y, x]], 1).cpu().numpy()
    near = HALF_HEIGHT_MM / pixel_mm
    found = [(row, *_measure(points[np.abs(points[:, 3] - row) <= near], pixel_mm)) for row in peaks[::-1]]
    values = np.array([values for values in found if values[2] > 0], dtype=float).reshape(-1, 3)
    return Landmarks(values[:, 0], values[:, 1], values[:, 2], height, pixel_mm), rows


def _share(marks: Array, spine: Array, pixel_mm: float) -> Array:
    """Share (H,) in [0, 1] of the landmarks' tissue at each row; where there is no other, against its largest near."""
    sigma = SMOOTH_MM / pixel_mm
    marks, total = gaussian_filter1d(marks, sigma), gaussian_filter1d(spine, sigma)
    if np.array_equal(marks, total):
        total = maximum_filter1d(total, max(round(LEVEL_MM / pixel_mm), 1))
    return marks / (total + 0.02 * spine.max(initial=1e-6))


def _measure(points: Array, pixel_mm: float) -> tuple[float, float]:
    """Tilt in degrees and area in mm², weighted by the pixels in each slice; area 0 where no slice shows enough.

    Args:
        points: (M, 4) slice, row, column and row of the centre line of each pixel.
        pixel_mm: size of a pixel.
    """
    slices = [points[points[:, 0] == s, 1:3] for s in np.unique(points[:, 0])]
    slices = [pixels for pixels in slices if len(pixels) * pixel_mm**2 >= LEAST_MM2]
    if not slices:
        return 0.0, 0.0
    counts = [len(pixels) for pixels in slices]
    tilt = np.average([_long_axis(pixels) for pixels in slices], weights=counts)
    return float(tilt), float(np.average(counts, weights=counts)) * pixel_mm**2


def _long_axis(pixels: Array) -> float:
    """Angle of the principal axis of pixels (M, 2), row and column, in degrees, in (-90, 90]."""
    centred = pixels - pixels.mean(0)
    down, back = np.linalg.eigh(centred.T @ centred)[1][:, 1]
    angle = np.degrees(np.arctan2(down, back))
    return float(-((-angle + 90) % 180 - 90))
