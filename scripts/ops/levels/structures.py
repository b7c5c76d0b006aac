"""Size and place in the patient of every structure of a label map, in the map's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

STRAY = 0.1
"""Share of a structure's voxels that a connected part of it must hold to count for its height; the largest does."""
OUTLIERS = 0.01
"""Share of these voxels that the height leaves out at either end."""
ANY_TOUCH = np.ones((3, 3, 3), dtype=bool)
"""Voxels that share a corner are connected."""

Volume = NDArray[np.integer]
Affine = NDArray[np.floating]


@dataclass(frozen=True)
class Field:
    """What of the patient an image shows.

    Attributes:
        low_mm: lower border in mm along the array axis nearest to head-foot.
        high_mm: upper border.
        voxel_mm: edge of a voxel along that axis.
        stack_mm: width from left to right.
    """

    low_mm: float
    high_mm: float
    voxel_mm: float
    stack_mm: float


@dataclass(frozen=True)
class Measured:
    """One structure.

    Attributes:
        voxels: their number.
        volume_ml: their volume.
        low_mm: lower end along the array axis nearest to head-foot, without stray voxels (`STRAY`, `OUTLIERS`).
        high_mm: upper end.
        centre_mm: (x, y, z) of the centroid, RAS.
        components: connected parts.
    """

    voxels: int
    volume_ml: float
    low_mm: float
    high_mm: float
    centre_mm: tuple[float, float, float]
    components: int

    @property
    def height_mm(self) -> float:
        """Extent along the axis nearest to head-foot."""
        return self.high_mm - self.low_mm


def as_volume(label: Volume) -> Volume:
    """(X, Y) or (X, Y, Z) as (X, Y, Z)."""
    return label.reshape(*label.shape, *[1] * (3 - label.ndim))


def upwards(affine: Affine) -> tuple[Affine, float]:
    """Unit vector (3,) of the array axis nearest to head-foot, towards the head, and its voxels' edge in mm."""
    axis = _axis(affine, 2)
    column = affine[:3, axis]
    edge = float(np.linalg.norm(column))
    return column / edge * (1.0 if column[2] >= 0 else -1.0), edge


def field_of(shape: Sequence[int], affine: Affine) -> Field:
    """Field of view of a grid of (X, Y, Z) voxels with an affine (4, 4) to millimetres, RAS."""
    affine = np.asarray(affine, dtype=np.float64)
    up, edge = upwards(affine)
    axis = _axis(affine, 2)
    across = _axis(affine, 0, but=axis)
    middle = float((affine[:3, :3] @ (np.array(shape) - 1) / 2 + affine[:3, 3]) @ up)  # the middle
    half = shape[axis] * edge / 2
    return Field(middle - half, middle + half, edge, float(np.linalg.norm(affine[:3, across]) * shape[across]))


def _axis(affine: Affine, patient: int, but: int | None = None) -> int:
    """The array axis nearest to an axis of the patient: 0 left-right, 2 head-foot."""
    share = np.abs(affine[patient, :3]) / np.linalg.norm(affine[:3, :3], axis=0)
    if but is not None:
        share[but] = -1.0
    return int(share.argmax())


def measure(label: Volume, affine: Affine) -> dict[int, Measured]:
    """Measure every structure.

    Args:
        label: (X, Y, Z) or (X, Y) class ids, 0 background.
        affine: (4, 4) to millimetres, RAS.

    Returns:
        Class id -> its size and place; classes without a voxel are left out.
    """
    label = as_volume(label)
    affine = np.asarray(affine, dtype=np.float64)
    up, edge = upwards(affine)
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    found = {}
    boxes = ndimage.find_objects(label.astype(np.int32))
    for number, box in enumerate(boxes, 1):
        if box is None:
            continue
        inside = label[box] == number
        voxels = np.argwhere(inside) + [part.start for part in box]
        points = voxels @ affine[:3, :3].T + affine[:3, 3]  # (n, 3) mm
        parts, count = ndimage.label(inside, ANY_TOUCH)
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        along = np.sort((points @ up)[sizes[parts[inside]] >= min(STRAY * len(voxels), sizes.max())])
        left_out = int(OUTLIERS * len(along))
        low, high = float(along[left_out]) - edge / 2, float(along[-1 - left_out]) + edge / 2
        x, y, z = points.mean(0).tolist()
        found[number] = Measured(len(voxels), len(voxels) * voxel_ml, low, high, (x, y, z), int(count))
    return found
