"""Where a volume's voxels lie in the patient: plane and tilt of its slices, spacing, field of view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel
import numpy as np

PLANES = ("sagittal", "coronal", "axial")
THICK = 1.5
"""An axis whose spacing is that many times the next larger one's is taken for the one across the slices."""


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
