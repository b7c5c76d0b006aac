"""Where a volume's voxels lie in the patient: plane and tilt of its slices, spacing, field of view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel
import numpy as np

PLANES = ("sagittal", "coronal", "axial")
THICK = 1.5
"""An axis whose spacing is that many times the next larger one's is taken for the one across the slices."""
TOLERANCE = 0.5
"""How far, in sides of the smallest voxel, the corners of a label may lie from its image's."""


@dataclass(frozen=True)
class Grid:
    """The grid of a volume as the network's preprocessing takes it: slices along the axis nearest to left-right.

    Attributes:
        plane: the plane that was acquired, "sagittal", "coronal" or "axial"; "any" for a volume of about equal spacing.
        tilt_degrees: angle between the acquired slices' normal and the nearest axis of the patient; 0 for "any".
        slices: number of sagittal slices.
        slice_mm: distance between them.
        height_mm: field of view from head to foot.
        depth_mm: field of view from front to back.
        pixel_mm: the larger edge of a pixel of the sagittal slices.
        rows: their pixels from head to foot.
        columns: their pixels from front to back.
    """

    plane: str
    tilt_degrees: float
    slices: int
    slice_mm: float
    height_mm: float
    depth_mm: float
    pixel_mm: float
    rows: int
    columns: int

    @property
    def width_mm(self) -> float:
        """Field of view from left to right."""
        return self.slices * self.slice_mm


def grid_of(shape: Sequence[int], affine: np.ndarray) -> Grid:
    """Describe a grid.

    Args:
        shape: (X, Y, Z), or (X, Y) for a single slice.
        affine: (4, 4) to millimetres, RAS; invertible.
    """
    sizes = np.array([*shape, 1][:3])
    columns = np.asarray(affine, dtype=np.float64)[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    patient_axis = nibabel.io_orientation(affine)[:, 0].astype(int)  # 0 right, 1 forward, 2 up for each array axis
    place = {int(patient): array for array, patient in enumerate(patient_axis)}
    order = np.argsort(spacing)
    thick = int(order[-1])
    flat = int(np.argmin(sizes)) if (sizes == 1).sum() == 1 else None
    plane, tilt = "any", 0.0
    if flat is not None or spacing[thick] >= THICK * spacing[order[-2]]:
        normal = thick if flat is None else flat
        plane = PLANES[patient_axis[normal]]
        cosine = abs(columns[patient_axis[normal], normal]) / spacing[normal]
        tilt = float(np.degrees(np.arccos(min(cosine, 1.0))))
    across, front, up = place[0], place[1], place[2]
    return Grid(
        plane,
        tilt,
        int(sizes[across]),
        float(spacing[across]),
        float(sizes[up] * spacing[up]),
        float(sizes[front] * spacing[front]),
        float(max(spacing[up], spacing[front])),
        int(sizes[up]),
        int(sizes[front]),
    )


def _corners(shape: Sequence[int]) -> np.ndarray:
    """Indices of the outermost voxels, (8, 4) homogeneous."""
    ends = np.array([[x, y, z, 1.0] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    ends[:, :3] *= np.array([*shape, 1][:3]) - 1
    return ends


def corner_distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Largest distance in mm between the places of the same corner voxel in two grids of one shape.

    Args:
        one: `shape` (X, Y, Z) and `affine` (4, 4).
        other: the same.
    """
    return float(np.linalg.norm((_corners(one["shape"]) @ (one["affine"] - other["affine"]).T)[:, :3], axis=1).max())


def same_grid(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True if every voxel of two grids, see :func:`corner_distance`, has the same index and the same place."""
    side = float(np.linalg.norm(one["affine"][:3, :3], axis=0).min())
    return tuple(one["shape"]) == tuple(other["shape"]) and corner_distance(one, other) <= TOLERANCE * side


def covers(label: Mapping[str, Any], image: Mapping[str, Any]) -> bool:
    """True if every voxel of an image's grid lies in a label's, however that is stored; grids as `corner_distance`'s.

    Half a voxel of either may be missing at the border.
    """
    affine = np.asarray(label["affine"], dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        return False
    step = np.linalg.solve(affine, np.asarray(image["affine"], dtype=np.float64))  # image voxel -> label voxel
    place = (_corners(image["shape"]) @ step.T)[:, :3]
    slack = np.maximum(0.5, TOLERANCE * np.abs(step[:3, :3]).sum(1)) + 1e-6
    return bool((place >= -slack).all() and (place <= np.array(label["shape"]) - 1 + slack).all())


def fits(label: Mapping[str, Any], image: Mapping[str, Any]) -> bool:
    """True if a label can be brought onto its image's voxels: it lies on them, or its field of view covers theirs.

    Args:
        label: `shape` and `affine`; with `cropped` all outside of its grid is background, which then may be smaller.
        image: `shape` and `affine`.
    """
    return same_grid(image, label) or covers(label, image) or (bool(label.get("cropped")) and covers(image, label))
