"""Tissue around the synthetic spine: abdomen, pelvis, lung and vessels in front, muscle, fat and skin behind."""

from __future__ import annotations

import numpy as np

from .anatomy import L4, NAMES, S1, T12, Array, Spine
from .coordinates import Coordinates
from .outlines import Shapes, rounded
from .painter import Painter


def draw_skin(spine: Spine, where: Coordinates, rng: np.random.Generator) -> Array:
    """Signed distance (H, W) in mm to the skin of the back, positive outside."""
    course = np.interp(-where.down, -spine.curve[:, 0], spine.curve[:, 1])
    level = np.linspace(-1, 1, 41) * 80
    smooth = np.mean([np.interp(where.down + shift, where.down, course) for shift in level], 0)
    dent = rng.uniform(0, 8) * np.exp(-(((where.down + 90) / 50) ** 2))
    return (where.back - (smooth + spine.scale * rng.uniform(68, 98) - dent)[:, None]).astype(np.float32)


def paint_front(painter: Painter, spine: Spine, where: Coordinates, shapes: Shapes) -> None:
    """Abdomen, pelvis, lung, psoas and the great vessels."""
    rng, signal, scale = painter.rng, painter.signal, spine.scale
    coarse, middle, fine = (painter.texture(size) for size in (24.0, 12.0, 5.0))
    # loops of bowel are the valleys of one noise field, their walls its zero line; fat fills what lies between
    loops = signal["bowel"] * (0.75 + 0.5 * np.abs(middle) + 0.12 * fine)
    share = (0.5 + 1.5 * coarse + 0.4 * middle + (where.down[:, None] / 60).clip(-0.5, 0.9)).clip(0, 1)
    painter.image += loops + share * (0.8 * signal["fat"] * (1 + 0.1 * fine) - loops)
    painter.rim(10 * np.where(share < 0.9, middle, 9), signal["fascia"], 2.0)
    painter.paint(np.maximum(8 * (1.9 - painter.texture(14.0)), where.posterior + 40 * scale), signal["air"])
    dome = float(np.interp(T12 + rng.normal(-0.3, 1.0), np.arange(len(NAMES)), spine.centre))
    ahead = ((-where.posterior - 20) / 45).clip(0, 3)
    liver = dome - 18 * ahead + 12 * ahead**2 - where.arc + 3 * coarse
    painter.paint(np.maximum(liver - 70 * ahead, where.posterior + 45), signal["muscle"] * (1.4 + 0.1 * fine), 0.8)
    painter.paint(np.maximum(liver, where.posterior + 14), signal["lung"] * (1.5 + 0.3 * fine))
    lateral = np.abs(where.lateral)
    psoas = np.hypot((where.posterior + 4) / 20, (lateral - 34 * scale) / 15) - 1
    fade = ((spine.centre[T12] - where.arc) / 40).clip(0, 1)
    painter.paint(np.where(where.arc > spine.centre[S1], psoas + 1 - fade, 1) * 14, signal["muscle"])
    split = spine.centre[L4] + rng.normal(0, 14)
    for side, radius in ((8, 8.5), (-13, 9.5)):
        ahead_mm = shapes.depth + scale * (radius + 4)
        tube = np.hypot(where.posterior + ahead_mm, where.lateral - scale * side) - scale * radius
        painter.paint(np.maximum(tube, split - where.arc), signal["vessel"])


def paint_back(painter: Painter, spine: Spine, where: Coordinates, shapes: Shapes, skin: Array) -> None:
    """Muscles with streaks of fat behind the column, their fascia, fat under the skin, and the skin."""
    rng, signal, scale = painter.rng, painter.signal, spine.scale
    thickness = rng.uniform(10, 34)
    fascia = skin + thickness * (1 + 0.25 * painter.texture(60.0)[:1]) + 12 * (-where.arc / 60).clip(-0.3, 1)
    fatty = rng.uniform(0.6, 1.6) - 0.5 * (where.arc / 150).clip(-0.4, 1)
    streaks = (0.25 * fatty + 0.3 * fatty * painter.texture(5.0, 4.0)).clip(0, 0.9)
    muscle = signal["muscle"] + streaks * (signal["fat"] - signal["muscle"])
    wall = shapes.depth + 2 * scale - where.posterior
    painter.paint(wall, muscle)
    least = shapes.depth + 46 * scale - where.posterior - 30 / (1 + np.exp(where.arc / 12))
    fascia = rounded(-fascia, least, 12.0)
    painter.paint(fascia, signal["fat"] * (1 + 0.06 * painter.texture(9.0)))
    painter.rim(fascia, signal["fascia"], 1.2)
    painter.rim(skin + 1.0, signal["skin"], 2.0)
