"""Parts of a label map that are no structures of the spine: those that lie away from it, and specks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from .structures import ANY_TOUCH, Affine, Volume, as_volume, upwards

NEAR_MM = 10.0
"""A part this near to the chain of structures belongs to it: about the height of a disc that was missed."""
BESIDE_MM = 20.0
"""So far from the chain's centre line may the centre of a part farther along lie: structures between may be missing."""
SPREAD = 0.25
"""Millimetres by which that grows with each millimetre beyond the end of the line, which is only guessed there."""
STRAIGHT_MM = 60.0
"""A shorter chain has a straight centre line, a longer one a curved line (a parabola)."""
SPECK_ML = 0.05
"""A structure of less, all its voxels together, is none: the discs of an adult's lumbar spine have some millilitres."""


def off_spine(label: Volume, affine: Affine) -> tuple[NDArray[np.bool_], int]:
    """Find the parts of a label map that lie away from the spine.

    The chain begins with the largest connected part of all structures together. What lies within `NEAR_MM` of it
    belongs to it, and so on; then what lies on its centre line, and what is near to that.

    Args:
        label: (X, Y, Z) or (X, Y) class ids, 0 background.
        affine: (4, 4) to millimetres, RAS.

    Returns:
        Mask of the voxels away from the spine, of the label map's shape, and the number of their connected parts.
    """
    foreground = as_volume(label) > 0
    mask = np.zeros(foreground.shape, dtype=bool)
    (box,) = ndimage.find_objects(foreground.view(np.uint8)) or (None,)
    if box is None:
        return mask.reshape(label.shape), 0
    parts, count = ndimage.label(foreground[box], ANY_TOUCH)
    away = ~_kept(parts, count, np.asarray(affine, dtype=np.float64))  # where the box lies does not matter
    away[0] = False
    mask[box] = away[parts]
    return mask.reshape(label.shape), int(away.sum())


def specks(label: Volume, affine: Affine) -> NDArray[np.bool_]:
    """Mask of the structures with less than `SPECK_ML`, of the label map's shape: a few voxels with a name too many.

    Args:
        label: (X, Y, Z) or (X, Y) class ids, 0 background.
        affine: (4, 4) to millimetres, RAS.
    """
    voxel_ml = abs(np.linalg.det(np.asarray(affine)[:3, :3])) / 1000
    small = np.bincount(label.ravel()) * voxel_ml < SPECK_ML
    small[0] = False
    return small[label]


def _kept(parts: NDArray[np.int32], count: int, affine: Affine) -> NDArray[np.bool_]:
    """Whether each part belongs to the spine, (count + 1,) with the background first."""
    if count < 2:
        return np.ones(count + 1, dtype=bool)
    foreground = parts > 0
    surface = foreground & ~ndimage.binary_erosion(foreground)
    of, points = parts[surface], _places(np.argwhere(surface), affine)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    whole = _places(np.argwhere(foreground), affine)
    owner = parts[foreground]
    centres = (
        np.stack([np.bincount(owner, whole[:, k], count + 1) for k in range(3)], 1) / np.maximum(sizes, 1)[:, None]
    )
    up, _ = upwards(affine)
    kept = np.zeros(count + 1, dtype=bool)
    new = np.zeros_like(kept)
    new[sizes.argmax()] = True
    while new.any():
        while new.any():  # what is near to what was added last
            tree = cKDTree(points[new[of]])
            kept |= new
            rest = ~kept[of]
            near = np.isfinite(tree.query(points[rest], distance_upper_bound=NEAR_MM)[0])
            new = np.zeros_like(kept)
            new[of[rest][near]] = True
        if not kept[1:].all():
            new = _next_on_line(whole[kept[owner]], centres, kept, up)
    return kept


def _next_on_line(chain: Affine, centres: Affine, kept: NDArray[np.bool_], up: Affine) -> NDArray[np.bool_]:
    """The part not yet kept that lies on the centre line of the chain, the nearest along it if there are several."""
    along = chain @ up
    low, high = float(along.min()), float(along.max())
    across = chain - along[:, None] * up
    middle, half = (low + high) / 2, max((high - low) / 2, 1.0)
    degree = min(int(high > low) + int(high - low > STRAIGHT_MM), len(np.unique(along)) - 1)
    line = np.polynomial.polynomial.polyfit((along - middle) / half, across, degree)
    at = (centres @ up - middle) / half
    ends = np.clip(at, -1, 1)
    slope = np.polynomial.polynomial.polyder(line) if degree else np.zeros((1, 3))
    there = _values(line, ends) + (at - ends)[:, None] * _values(slope, ends)  # beyond its ends the line is straight
    off = np.linalg.norm(centres - (centres @ up)[:, None] * up - there, axis=1)
    beyond = np.abs(at - ends) * half
    fits = ~kept & (off <= BESIDE_MM + SPREAD * beyond)
    fits[0] = False
    new = np.zeros_like(kept)
    if fits.any():
        new[np.where(fits, beyond, np.inf).argmin()] = True
    return new


def _values(line: Affine, at: Affine) -> Affine:
    return np.polynomial.polynomial.polyval(at, line).T


def _places(voxels: NDArray[np.integer], affine: Affine) -> Affine:
    return voxels @ affine[:3, :3].T + affine[:3, 3]
