"""Random anatomy of a synthetic spine: sizes of vertebral bodies and discs, curvature, scoliosis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter1d

Array = NDArray[np.floating]

# One row a body, lowest first: height, depth and half width in mm, gap to the body above in mm, tilt of the curve in
# degrees relative to the sacral end plate (positive: going up leads forward). T8 to T3 have no class, but are visible.
BODIES: dict[str, tuple[float, float, float, float, float]] = {
    "S5": (15.0, 9.0, 22.0, 0.8, -35.0),
    "S4": (17.0, 12.0, 28.0, 0.9, 0.0),
    "S3": (19.0, 16.0, 36.0, 1.0, 20.0),
    "S2": (23.0, 21.0, 45.0, 2.2, 18.0),
    "S1": (29.0, 32.0, 52.0, 9.5, 7.0),
    "L5": (27.0, 35.0, 26.0, 11.0, -16.0),
    "L4": (27.5, 34.5, 25.0, 10.5, -30.0),
    "L3": (27.5, 34.0, 24.0, 9.5, -42.0),
    "L2": (27.0, 32.5, 23.0, 8.0, -50.0),
    "L1": (26.0, 31.0, 21.5, 6.5, -54.0),
    "T12": (24.5, 30.0, 20.5, 5.5, -54.0),
    "T11": (23.0, 29.0, 19.0, 5.0, -52.0),
    "T10": (22.0, 28.0, 17.5, 4.5, -49.0),
    "T9": (21.0, 27.0, 16.5, 4.3, -45.0),
    "T8": (20.5, 26.5, 16.0, 4.2, -41.0),
    "T7": (20.0, 26.0, 15.5, 4.0, -37.0),
    "T6": (19.5, 25.0, 15.0, 4.0, -33.0),
    "T5": (19.0, 24.0, 14.5, 3.8, -29.0),
    "T4": (18.5, 23.0, 14.0, 3.6, -26.0),
    "T3": (18.0, 22.0, 13.5, 3.5, -24.0),
}
ANOMALIES: dict[str, dict[str, tuple[float, float, float, float, float]]] = {
    # L5 grown together with the sacrum: the disc L5/S is rudimentary, and the body as broad as S1
    "sacralised_l5": {"S1": (29.0, 32.0, 52.0, 2.4, 7.0), "L5": (28.0, 33.0, 46.0, 10.5, -6.0)},
    # S1 as a sixth lumbar vertebra: a full disc S1/S2, and a slender body above it; its label stays the sacrum's
    "lumbarised_s1": {"S2": (25.0, 29.0, 50.0, 8.5, 14.0), "S1": (28.0, 33.0, 28.0, 10.0, -4.0)},
}
"""Lumbosacral transitional anatomy: rows of `BODIES` that replace its own. Ribs are not drawn, so anomalies of the
twelfth rib cannot be."""
NAMES = tuple(BODIES)
S1, L5, L4, L3, L1, T12 = (NAMES.index(name) for name in ("S1", "L5", "L4", "L3", "L1", "T12"))
CURVE_STEP_MM = 1.0
CURVE_MARGIN_MM = 90.0


@dataclass(frozen=True)
class Spine:
    """Sizes and centreline of one spine; K bodies, lowest first; M points along the centreline.

    Attributes:
        scale: size of the patient relative to the table, about 0.85..1.15.
        centre: (K,) place of the body centres along the curve in mm; 0 is the sacral end plate, up is positive.
        half_height, half_depth, half_width: (K,) mm.
        gap: (K,) height of the disc above each body, mm.
        health: (K,) of the disc above each body: 1 bright and full, 0 dark and thin.
        bulge: (K,) how far the disc above each body reaches behind the bodies, mm.
        arc: (M,) mm along the curve.
        curve: (M, 2) its points in the sagittal plane: mm downwards and mm backwards from the sacral end plate.
        tilt: (M,) radians; positive: going up leads forward.
        drift: (M,) how far scoliosis and turning of the patient carry the curve sideways, mm.
        conus: where the cord ends along the curve, mm.
        waves: (V, 5) small unevenness of all surfaces: shift downwards and backwards in mm, the two components of the
            wave vector in radians a mm, and the phase.
    """

    scale: float
    centre: Array
    half_height: Array
    half_depth: Array
    half_width: Array
    gap: Array
    health: Array
    bulge: Array
    arc: Array
    curve: Array
    tilt: Array
    drift: Array
    conus: float
    waves: Array

    def at(self, values: Array, arc: Array) -> Array:
        """Values of the bodies, (K,), interpolated to places along the curve."""
        return np.interp(arc, self.centre, values).astype(np.float32)


def draw_spine(rng: np.random.Generator, anomaly: str | None = None) -> Spine:
    """Draw one patient's spine at random, with an anomaly of `ANOMALIES` or without."""
    bodies = BODIES | (ANOMALIES[anomaly] if anomaly else {})
    height, depth, width, gap, angle = np.array(list(bodies.values())).T
    count = len(NAMES)
    scale = rng.uniform(0.84, 1.16)
    # neighbouring bodies may swap their order of size, so that the size of a body does not tell its level
    height = scale * rng.uniform(0.92, 1.08) * height * rng.normal(1, 0.025, count).clip(0.93, 1.07)
    depth = scale * rng.uniform(0.92, 1.08) * depth * rng.normal(1, 0.015, count).clip(0.95, 1.05)
    health = _draw_health(rng)
    wear = np.where(np.arange(count) < S1, 1.0, (0.6 + 0.45 * health) * rng.uniform(0.9, 1.1, count))
    gap = scale * gap * wear
    centre = np.cumsum(height) - height / 2 + np.concatenate([[0.0], np.cumsum(gap)[:-1]])
    centre -= centre[S1] + height[S1] / 2
    arc, curve, tilt = _draw_curve(rng, centre, angle)
    bulge = scale * np.where(rng.random(count) < 0.75 - 0.65 * health, rng.uniform(1.5, 4.0, count), 0.3)
    return Spine(
        scale=scale,
        centre=_single(centre),
        half_height=_single(height / 2),
        half_depth=_single(depth / 2),
        half_width=_single(scale * width),
        gap=_single(gap),
        health=_single(health),
        bulge=_single(bulge),
        arc=arc,
        curve=curve,
        tilt=tilt,
        drift=_draw_drift(rng, arc),
        conus=float(np.interp(rng.normal(L1, 0.6), np.arange(count), centre)),
        waves=_draw_waves(rng),
    )


def _single(values: Array) -> Array:
    """Cast to float32, which halves the time of drawing."""
    return values.astype(np.float32)


def _draw_health(rng: np.random.Generator) -> Array:
    """(K,) health of the discs; degeneration is more frequent at the lower lumbar levels."""
    count = len(NAMES)
    worn = np.full(count, 0.28 * rng.uniform(0.2, 1.8))
    worn[[S1, L5]] *= 1.5
    return np.where(rng.random(count) < worn, rng.uniform(0.0, 0.35, count), rng.uniform(0.6, 1.0, count))


def _draw_curve(rng: np.random.Generator, centre: Array, angle: Array) -> tuple[Array, Array, Array]:
    """(M,) arc, (M, 2) points and (M,) tilt of a curve with lordosis, kyphosis and the bend of the sacrum."""
    slope = rng.normal(38, 6)
    bend = np.where(np.arange(len(NAMES)) > S1, rng.uniform(0.7, 1.2), rng.uniform(0.8, 1.2))
    degrees = slope * (0.55 + 0.45 * bend) + bend * angle + rng.normal(0, 1.5, len(NAMES))
    arc = np.arange(centre[0] - CURVE_MARGIN_MM, centre[-1] + CURVE_MARGIN_MM, CURVE_STEP_MM)
    # beyond the drawn bodies the curve runs straight on
    tilt = np.deg2rad(PchipInterpolator(centre, degrees)(arc.clip(centre[0], centre[-1])))
    tilt = gaussian_filter1d(tilt, 6 / CURVE_STEP_MM, mode="nearest")
    points = np.cumsum(np.stack([-np.cos(tilt), -np.sin(tilt)], 1), 0) * CURVE_STEP_MM
    points -= [np.interp(0.0, arc, points[:, i]) for i in (0, 1)]
    return arc, points, tilt


def _draw_drift(rng: np.random.Generator, arc: Array) -> Array:
    """(M,) lateral course: rotation of the patient, and scoliosis in some."""
    bow = rng.normal(0, 3.0) * (2.0 if rng.random() < 0.2 else 1.0)
    wave = np.sin(2 * np.pi * (arc - rng.uniform(50, 250)) / rng.uniform(260, 420))
    return rng.normal(0, 2.0) + np.tan(np.deg2rad(rng.normal(0, 1.0))) * (arc - 120) + bow * wave


def _draw_waves(rng: np.random.Generator, count: int = 6) -> Array:
    """(V, 5) waves of 12 to 45 mm in all directions, see :class:`Spine`."""
    length, angle = rng.uniform(12, 45, count), rng.uniform(0, 2 * np.pi, count)
    shift = rng.normal(0, 0.014, (2, count)) * length
    vector = 2 * np.pi / length * np.stack([np.cos(angle), np.sin(angle)])
    return np.stack([*shift, *vector, rng.uniform(0, 2 * np.pi, count)], 1)
