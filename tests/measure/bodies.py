"""Vertebral bodies and discs as prisms of known size and place, on any grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from scripts.labels import ClassTable

TABLE = ClassTable.load()
LUMBAR = ("L5/S", "L5", "L4/L5", "L4", "L3/L4", "L3", "L2/L3", "L2", "L1/L2", "L1", "T12/L1")
HALF_MM = 12.0
"""From the middle to either side: a whole number of the slices that the tests draw."""
FREE_MM = 4.0
"""Between bodies, so that none covers a part of another."""


@dataclass(frozen=True)
class Body:
    """A wedge with hollow or bulging endplates, in the sagittal plane.

    Attributes:
        front: height at the front wall, mm.
        back: height at the back wall.
        width: from wall to wall.
        hollow: by how much either endplate lies lower in its middle than at its ends.
        tilt: degrees of its mid-plane; positive where the front is higher.
        centre: (2,) mm forwards and upwards.
    """

    front: float
    back: float
    width: float
    hollow: float = 0.0
    tilt: float = 0.0
    centre: tuple[float, float] = (0.0, 0.0)

    def height(self, along: float | np.ndarray) -> float | np.ndarray:
        """Height in mm at -1 (back wall) to 1 (front wall)."""
        wedge = (self.front + self.back) / 2 + (self.front - self.back) / 2 * along
        return wedge - 2 * self.hollow * (1 - along**2)

    def point(self, along: float, above: float) -> np.ndarray:
        """(2,) mm of a place along the mid-plane, -1 to 1, and in shares of half the height above it."""
        turn = np.radians(self.tilt)
        t, h = along * self.width / 2, above * self.height(along) / 2
        return self.centre + np.array([t * np.cos(turn) - h * np.sin(turn), t * np.sin(turn) + h * np.cos(turn)])

    @property
    def area(self) -> float:
        """mm² in the sagittal plane."""
        return self.width * ((self.front + self.back) / 2 - 4 / 3 * self.hollow)

    def inside(self, forwards: np.ndarray, upwards: np.ndarray) -> np.ndarray:
        """Whether places in mm lie in it."""
        turn = np.radians(self.tilt)
        y, z = forwards - self.centre[0], upwards - self.centre[1]
        along = (y * np.cos(turn) + z * np.sin(turn)) / (self.width / 2)
        return (np.abs(along) <= 1) & (np.abs(z * np.cos(turn) - y * np.sin(turn)) <= self.height(along) / 2)


def spine(rng: np.random.Generator, names: Sequence[str] = LUMBAR, steepest: float = -30.0) -> dict[str, Body]:
    """A lordotic spine, each body on the last, with slips of a few millimetres."""
    found: dict[str, Body] = {}
    tilts = np.linspace(steepest, -steepest / 2, len(names)) + rng.uniform(-2, 2, len(names))
    for name, tilt in zip(names, tilts, strict=True):
        disc = "/" in name
        front = rng.uniform(9, 13) if disc else rng.uniform(25, 30)
        back = front - rng.uniform(0, 4)
        hollow = -rng.uniform(0, 0.8) if disc else rng.uniform(0, 1.5)
        body = Body(front, back, rng.uniform(31, 37), hollow, float(tilt))
        if found:
            below = list(found.values())[-1]
            forwards = below.centre[0] + rng.uniform(-2, 2)
            body = replace(body, centre=(forwards, below.centre[1] + (below.front + body.front) / 2 + FREE_MM))
        found[name] = body
    middle = np.mean([body.centre for body in found.values()], axis=0)
    return {name: replace(body, centre=tuple(np.array(body.centre) - middle)) for name, body in found.items()}


def draw(
    bodies: Mapping[str, Body],
    spacing: Sequence[float],
    rotation: np.ndarray | None = None,
    roll: float = 0.05,
    margin: float = 12.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Label map (X, Y, Z) on axes towards right, front and head, and its affine.

    Args:
        bodies: by name; where two overlap the later one is drawn.
        spacing: mm.
        rotation: (3, 3) of the grid against the patient, about the middle.
        roll: rise of the bodies from left to right, mm a mm.
        margin: about the bodies, mm.
    """
    ends = np.array([b.point(a, u) for b in bodies.values() for a in (-1, 1) for u in (-1, 1)])
    low, high = ends.min(0) - margin, ends.max(0) + margin
    half = np.array([HALF_MM + 4 * spacing[0], *np.maximum(-low, high)])
    shape = np.ceil((2 * half / spacing).round(6)).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if rotation is None else rotation) @ np.diag(spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((shape - 1) / 2)
    places = np.argwhere(np.ones(shape, bool)) @ affine[:3, :3].T + affine[:3, 3]
    label = np.zeros(len(places), np.uint8)
    for name, body in bodies.items():
        reach = np.hypot(body.front + 2, body.width) / 2 + 2
        near = np.flatnonzero((np.abs(places[:, 2] - body.centre[1]) < reach) & (np.abs(places[:, 0]) <= HALF_MM))
        across, forwards, upwards = places[near].T
        label[near[body.inside(forwards, upwards - roll * across)]] = TABLE.id_of(name)
    return label.reshape(shape), affine


def angle(of: np.ndarray) -> float:
    """Degrees of a direction forwards and upwards."""
    return float(np.degrees(np.arctan2(of[1], of[0])))


def truths(bodies: Mapping[str, Body]) -> dict[str, float]:
    """What is to be measured: "L4.width_mm", "slip_mm_L4_L5" and so on."""
    found: dict[str, float] = {}
    for name, body in bodies.items():
        found[f"{name}.height_anterior_mm"] = float(body.height(0.8))
        found[f"{name}.height_middle_mm"] = float(body.height(0.0))
        found[f"{name}.height_posterior_mm"] = float(body.height(-0.8))
        found[f"{name}.width_mm"] = body.width
        found[f"{name}.tilt_degrees"] = body.tilt
        found[f"{name}.volume_ml"] = body.area * 2 * HALF_MM / 1000
        if "/" in name:
            found[f"disc_height_index_{name.replace('/', '_')}"] = float(
                (body.height(0.8) + body.height(-0.8)) / (2 * body.width)
            )
    for below, above in pairwise([name for name in bodies if "/" not in name]):
        upper, lower = bodies[above], bodies[below]
        endplate = lower.point(1, 1) - lower.point(-1, 1)
        way = upper.point(-1, -1) - lower.point(-1, 1)
        found[f"slip_mm_{above}_{below}"] = float(way @ endplate / np.linalg.norm(endplate))
    if "L1" in bodies and "L5" in bodies:
        upper, lower = bodies["L1"], bodies["L5"]
        one, other = upper.point(1, 1) - upper.point(-1, 1), lower.point(1, -1) - lower.point(-1, -1)
        found["lordosis_degrees"] = angle(one) - angle(other)
    return found
