"""Signed distance functions (mm, negative inside) of bodies, discs and sacrum, and the label map made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..labels import IGNORE, ClassTable
from .anatomy import NAMES, S1, Array, Spine
from .coordinates import Coordinates

MIN_VISIBLE = 0.3
"""A vertebra or disc of which less than this share lies in the image is labelled `IGNORE`."""


@dataclass(frozen=True)
class Shapes:
    """Signed distances in mm to the surfaces; S slices of H x W pixels.

    Attributes:
        body: (S, H, W) vertebral bodies and sacral segments.
        disc: (S, H, W) discs, the rudimentary ones of the sacrum included.
        depth: (H, W) half the depth of the column at each place along the curve.
    """

    body: Array
    disc: Array
    depth: Array


def rounded(first: Array, second: Array, radius: float) -> Array:
    """Signed distance to the intersection of two shapes with rounded corners."""
    first, second = first + radius, second + radius
    inside = np.minimum(np.maximum(first, second), 0)
    return np.hypot(np.maximum(first, 0), np.maximum(second, 0)) + inside - radius


def draw_shapes(spine: Spine, where: Coordinates) -> Shapes:
    """Signed distances of the column: bodies with a waist and hollow end plates, discs between them."""
    depth = spine.at(spine.half_depth, where.arc)
    width = spine.at(spine.half_width, where.arc)
    height = spine.half_height[where.body]
    # off the midline the bodies get shallower, and they end at their half width
    ratio = ((np.abs(where.posterior) / depth) ** 2.5 + np.abs(where.lateral / width) ** 2.5) ** 0.4
    across = (ratio - 1) * depth
    sacral = where.body < S1
    waist = np.where(sacral, 0, 0.08 * depth * (1 - np.minimum(np.abs(where.above) / height, 1) ** 2))
    waist = waist * (1 - (where.lateral / width) ** 2).clip(0, 1)
    hollow = np.where(sacral, 0, 0.07 * height * (1 - np.minimum(np.abs(where.posterior) / depth, 1) ** 2))
    body = rounded(across + waist, np.abs(where.above) - height + hollow, 1.8 * spine.scale)
    bulge = np.where(where.posterior > 0, spine.bulge[where.disc], 0.3)
    disc = np.maximum(across - bulge, np.abs(where.off_disc) - spine.gap[where.disc] / 2 - hollow)
    disc = np.maximum(disc, np.abs(where.lateral) - 0.88 * width)
    beyond = (where.arc < spine.centre[0] - spine.half_height[0]) | (where.arc > spine.centre[-1])
    return Shapes(body.astype(np.float32), np.where(beyond, 9.0, disc).astype(np.float32), depth)


def draw_labels(spine: Spine, where: Coordinates, shapes: Shapes, pixel_mm: float) -> NDArray[np.uint8]:
    """Label map (S, H, W) of class ids; structures above T9 and slivers at the image border are `IGNORE`."""
    table = ClassTable.load()
    body_ids = np.array([_class_id(table, name) for name in NAMES], np.uint8)
    disc_ids = np.array([_disc_class_id(table, index) for index in range(len(NAMES))], np.uint8)
    in_body = shapes.body < 0
    in_disc = (shapes.disc < 0) & ~in_body
    label = np.where(in_body, body_ids[where.body], np.where(in_disc, disc_ids[where.disc], 0)).astype(np.uint8)
    full = {table.id_of("S"): 4 * spine.half_height[S1] * spine.half_depth[S1]}
    for index in range(S1, len(NAMES)):
        full.setdefault(int(body_ids[index]), 4 * spine.half_height[index] * spine.half_depth[index])
        full.setdefault(int(disc_ids[index]), 2 * spine.gap[index] * spine.half_depth[index])
    # largest area of each structure on a slice, compared with that of a whole structure
    area = np.stack([np.bincount(plane.ravel(), minlength=256) for plane in label]).max(0) * pixel_mm**2
    slivers = [i for i, whole in full.items() if i != IGNORE and 0 < area[i] < MIN_VISIBLE * whole]
    label[np.isin(label, slivers)] = IGNORE
    return label


def _class_id(table: ClassTable, name: str) -> int:
    """Class of a body: the sacrum for all of its segments, `IGNORE` for levels without a class."""
    if name.startswith("S"):
        return table.id_of("S")
    return table.id_of(name) if name in table.names else IGNORE


def _disc_class_id(table: ClassTable, lower: int) -> int:
    """Class of the disc above a body; between sacral segments it belongs to the sacrum."""
    if lower < S1:
        return table.id_of("S")
    name = f"{NAMES[min(lower + 1, len(NAMES) - 1)]}/{'S' if lower == S1 else NAMES[lower]}"
    return table.id_of(name) if name in table.names else IGNORE
