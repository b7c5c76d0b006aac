"""One synthetic volume: field of view on the patient, image and label, storage orientation."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from .anatomy import ANOMALIES, draw_spine
from .appearance import paint_volume
from .coordinates import locate
from .outlines import draw_labels, draw_shapes
from .painter import SLICE_MM, TISSUES
from .scanners import SCANNERS, scanner_of

SLICES = (7, 13)
ORIENTATIONS = ("PIR", "PSR", "AIL", "ASR", "RPI", "LAS", "IPL", "SAR")
"""Axis codes that scanners and converters leave sagittal volumes in; the first is used unless they are mixed."""


def check_drawing(
    shape_hw: tuple[int, int], pixel_mm: float, contrast: str, scanner: str | None, anomaly: str | None
) -> None:
    """Check the settings of :func:`make_phantom`; a ValueError as there."""
    if contrast not in TISSUES:
        raise ValueError(f"contrast must be one of {', '.join(TISSUES)}, got {contrast!r}")
    if scanner is not None and scanner not in SCANNERS:
        raise ValueError(f"scanner must be one of {', '.join(SCANNERS)}, got {scanner!r}")
    if anomaly is not None and anomaly not in ANOMALIES:
        raise ValueError(f"anomaly must be one of {', '.join(ANOMALIES)}, got {anomaly!r}")
    if len(shape_hw) != 2 or min(shape_hw) < 1 or pixel_mm <= 0:
        raise ValueError(f"shape_hw (two numbers) and pixel_mm must be positive, got {shape_hw} and {pixel_mm}")


def make_phantom(
    seed: int,
    index: int,
    *,
    shape_hw: tuple[int, int] = (256, 256),
    pixel_mm: float = 1.1,
    contrast: str = "t2",
    scanner: str | None = None,
    mixed_axes: bool = False,
    anomaly: str | None = None,
) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.float64]]:
    """Make one synthetic sagittal spine volume with its label map.

    The same seed and index give the same patient, field of view and labels in every contrast and on every scanner.

    Args:
        seed: of the whole set.
        index: of the volume in the set.
        shape_hw: pixels of a slice from above downwards and from front to back.
        pixel_mm: edge of a pixel; slices are 4 mm apart.
        contrast: "t2" or "t1".
        scanner: name in `SCANNERS`; None: the volumes of a set alternate between all.
        mixed_axes: store the array in a random orientation, slightly oblique, instead of straight PIR.
        anomaly: name in `ANOMALIES`, lumbosacral transitional anatomy; None for regular spines.

    Returns:
        image: int16, (W, H, S) with axes PIR (array axes run to the back, downwards, to the right) unless mixed.
        label: uint8 of the same shape, class ids, 255 at ignored pixels.
        affine: (4, 4) from array index to mm in RAS.

    Raises:
        ValueError: unknown contrast, scanner or anomaly, or a shape or pixel size that is not positive.
    """
    check_drawing(shape_hw, pixel_mm, contrast, scanner, anomaly)
    # separate generators, so that the anatomy depends neither on the contrast nor on the scanner
    patient, view, tissue = (np.random.default_rng([seed, index, part]) for part in range(3))
    spine = draw_spine(patient, anomaly)
    slices = int(view.integers(SLICES[0], SLICES[1] + 1))
    bottom = spine.scale * (view.uniform(12, 95) if view.random() < 0.92 else view.uniform(-60, -5))
    down = bottom + pixel_mm * (np.arange(shape_hw[0]) - shape_hw[0] + 0.5)
    in_view = (spine.curve[:, 0] > down[0]) & (spine.curve[:, 0] < min(down[-1], 40.0))
    middle = float(np.mean(spine.curve[in_view, 1])) if in_view.any() else 0.0
    back = middle + pixel_mm * (np.arange(shape_hw[1]) + 0.5 - shape_hw[1] * view.uniform(0.34, 0.58))
    side = SLICE_MM * (np.arange(slices) - (slices - 1) / 2) + view.normal(0, 1.5)
    where = locate(spine, down, back, side)
    shapes = draw_shapes(spine, where)
    label = draw_labels(spine, where, shapes, pixel_mm)
    image = paint_volume(spine, where, shapes, pixel_mm, contrast, SCANNERS[scanner or scanner_of(seed, index)], tissue)
    image = np.rint(image.clip(0, np.iinfo(np.int16).max)).astype(np.int16)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, SLICE_MM], [-pixel_mm, 0, 0], [0, -pixel_mm, 0]])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array([*shape_hw[::-1], slices]) - 1) / 2) + view.normal(0, 15, 3)
    # (S, H, W) -> (W, H, S)
    return _store(image.transpose(2, 1, 0), label.transpose(2, 1, 0), affine, view if mixed_axes else None)


def _store(
    image: NDArray[np.int16], label: NDArray[np.uint8], affine: NDArray[np.float64], mixed: np.random.Generator | None
) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.float64]]:
    """Reorient arrays and affine to a random orientation, a few degrees oblique; unchanged if `mixed` is None."""
    if mixed is None:
        return np.ascontiguousarray(image), np.ascontiguousarray(label), affine
    axes = ORIENTATIONS[int(mixed.integers(len(ORIENTATIONS)))]
    turn = ornt_transform(nib.io_orientation(affine), axcodes2ornt(axes))
    tilt = np.eye(4)
    tilt[:3, :3] = Rotation.from_euler("xyz", mixed.uniform(-8, 8, 3), degrees=True).as_matrix()
    stored = [np.ascontiguousarray(nib.apply_orientation(array, turn)) for array in (image, label)]
    return stored[0], stored[1], tilt @ affine @ inv_ornt_aff(turn, image.shape)
