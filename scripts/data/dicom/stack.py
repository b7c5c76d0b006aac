"""Places of the slices or frames of a DICOM series: whether they make one regular grid, and its geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

IRREGULAR = 0.1
"""Largest difference of a step between slices from the usual one, as a share of it; beyond `GAP` slices are missing."""
GAP = 1.5
SAME_PLACE = 0.01
TURNED = 1e-3
"""Largest difference of direction cosines within a stack."""
SHEARED = 0.05
"""Largest shift of slices against each other within their plane, as a share of their distance."""


@dataclass(frozen=True)
class Stack:
    """Slices in the order in which they are stored.

    Attributes:
        positions: (n, 3) centre of the first voxel of every slice in mm, LPS.
        orientations: (n, 6) direction cosines along rows and columns.
        spacing: distance of rows and of columns in mm; None if they are not known.
    """

    positions: np.ndarray
    orientations: np.ndarray
    spacing: tuple[float, float] | None = None

    @property
    def normal(self) -> np.ndarray:
        """Direction across the first slice."""
        return np.cross(self.orientations[0, :3], self.orientations[0, 3:])

    @property
    def order(self) -> np.ndarray:
        """Indices of the slices along their normal."""
        return np.argsort(self.positions @ self.normal, kind="stable")

    def problem(self) -> str | None:
        """Why the slices are not one regular grid, as a sentence without its subject; None if they are."""
        count = len(self.positions)
        if np.abs(self.orientations - self.orientations[0]).max() > TURNED:
            return f"holds slices of several orientations ({count} slices)"
        if count < 2:
            return None
        places = self.positions[self.order]
        moves = np.diff(places, axis=0)
        steps = moves @ self.normal
        usual = float(np.sort(steps)[len(steps) // 2])
        if steps.min() < SAME_PLACE * max(steps.max(), 1e-3):
            return f"holds several slices at the same place ({count} slices), as several echoes or time points have"
        if steps.max() > GAP * usual:
            lost = int(sum(round(step / usual) - 1 for step in steps))
            return f"lacks about {lost} slices (a gap of {steps.max():.1f} mm among steps of {usual:.1f} mm)"
        if np.abs(steps - usual).max() > IRREGULAR * usual:
            return f"has slices at irregular distances ({steps.min():.1f} to {steps.max():.1f} mm)"
        if np.linalg.norm(moves - steps[:, None] * self.normal, axis=1).max() > SHEARED * usual:
            return "has slices that are shifted against each other, which is no rectangular grid"
        return None


def frames_of(file: str | Path) -> Stack:
    """Places of the frames of an enhanced multi-frame file.

    Raises:
        RuntimeError: pydicom is not installed, or the header does not place every frame.
    """
    try:
        from pydicom import dcmread
    except ModuleNotFoundError as error:
        raise RuntimeError(
            "is a multi-frame file, and the places of its frames are read with pydicom; "
            "run `pip install -r requirements-dicom.txt`"
        ) from error
    try:
        return _placed(dcmread(file, stop_before_pixels=True))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise RuntimeError("is a multi-frame file with a damaged header; export it again") from error


def _placed(header: Any) -> Stack:
    shared: Any = next(iter(header.get("SharedFunctionalGroupsSequence", [])), {})

    def value(frame: Any, group: str, name: str) -> Sequence[float]:
        for source in (frame, shared):
            for item in source.get(group, []):
                if name in item:
                    return [float(number) for number in item[name].value]
        raise RuntimeError(
            f"is a multi-frame file that does not say the {group.removesuffix('Sequence')} of its frames"
        )

    frames = header.get("PerFrameFunctionalGroupsSequence", [])
    if len(frames) != int(header.get("NumberOfFrames", 1)):
        raise RuntimeError("is a multi-frame file that does not say where its frames lie")
    spacing = [value(frame, "PixelMeasuresSequence", "PixelSpacing") for frame in frames]
    if np.ptp(spacing, axis=0).max() > TURNED:
        raise RuntimeError("holds frames of several pixel sizes")
    return Stack(
        np.array([value(frame, "PlanePositionSequence", "ImagePositionPatient") for frame in frames]),
        np.array([value(frame, "PlaneOrientationSequence", "ImageOrientationPatient") for frame in frames]),
        (spacing[0][0], spacing[0][1]),
    )
