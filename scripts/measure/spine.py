"""What is measured of a whole spine: lordosis, and of each level the disc's height and signal, and the slip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .outline import Array, Outline, Sections
from .shapes import Structure

if TYPE_CHECKING:
    from ..labels import ClassTable, StructureClass

LORDOSIS, TO_SACRUM, POSTERIOR = "lordosis_degrees", "lordosis_L1_S1_degrees", "levels_posterior"
INDEX, SLIP, SIGNAL = "disc_height_index_{}", "slip_mm_{}", "disc_signal_{}"
NO_SCAN = "no scan was read beside the label map"
FEWEST_INSIDE = 10
"""Voxels that have to be left of a structure without its border for its signal; else the border counts, too."""

Spine = dict[str, float | None]
Reasons = dict[str, str]


class NotMeasuredError(Exception):
    """The reason why something is not measured."""


def columns(table: ClassTable) -> list[str]:
    """Names of all measurements of a spine, in the order of the table."""
    names = [_level(of[1]) for of in _levels(table)]
    return [LORDOSIS, POSTERIOR, TO_SACRUM, *(key.format(name) for key in (INDEX, SLIP, SIGNAL) for name in names)]


def measure_spine(
    structures: Mapping[int, Structure], table: ClassTable, scan: NDArray[np.generic] | None, no_scan: str = NO_SCAN
) -> tuple[Spine, Reasons]:
    """Everything of `columns` but the posterior of the levels, and the reason for what is None.

    Args:
        structures: of the label map, by class id.
        table: the classes.
        scan: (X, Y, Z) grey values on the label map's axes; None if there is no scan.
        no_scan: why there is none.
    """
    values: Spine = {}
    reasons: Reasons = {}
    shapes = _Shapes(structures, table)
    signals: dict[int, float] = {}

    def signal(c: StructureClass) -> float:
        if scan is None:
            raise NotMeasuredError(no_scan)
        shapes.of(c)
        if c.id not in signals:
            signals[c.id] = _mean_inside(scan, structures[c.id].sections)
        return signals[c.id]

    tasks: dict[str, Callable[[], float]] = {
        LORDOSIS: lambda: _lordosis(shapes.named("L1"), shapes.named("L5").lower),
        TO_SACRUM: lambda: _lordosis(shapes.named("L1"), shapes.named("S").upper),
    }
    for above, disc, below in _levels(table):
        name, beside = _level(disc), [of for of in (above, below) if of.group == "vertebra"]
        tasks[INDEX.format(name)] = partial(_height_index, shapes, disc)
        tasks[SLIP.format(name)] = partial(_slip, shapes, above, below)
        tasks[SIGNAL.format(name)] = partial(_ratio, signal, disc, beside)
    for key, task in tasks.items():
        try:
            values[key] = round(task(), 1 if key.endswith("degrees") else 2 if "_mm_" in key else 3)
        except NotMeasuredError as reason:
            values[key], reasons[key] = None, str(reason)
    return values, reasons


class _Shapes:
    """Outlines by class, or the reason why there is none."""

    def __init__(self, structures: Mapping[int, Structure], table: ClassTable) -> None:
        self.structures, self.table = structures, table

    def of(self, c: StructureClass) -> Outline:
        if c.id not in self.structures:
            raise NotMeasuredError(f"{c.name} is not labelled")
        found = self.structures[c.id]
        if found.outline is None:
            raise NotMeasuredError(f"{c.name}: {found.reason}")
        return found.outline

    def named(self, name: str) -> Outline:
        if name not in self.table.names:
            raise NotMeasuredError(f"the class table has no {name}")
        return self.of(self.table.classes[self.table.names.index(name)])


def _levels(table: ClassTable) -> Iterator[tuple[StructureClass, StructureClass, StructureClass]]:
    """The structure above, the disc, and the structure below, of every level from the lowest upwards."""
    chain = table.chain
    for below, disc, above in zip(chain, chain[1:], chain[2:], strict=False):
        if disc.group == "disc" and "disc" not in (below.group, above.group):
            yield above, disc, below


def _level(disc: StructureClass) -> str:
    return disc.name.replace("/", "_")


def _lordosis(upper: Outline, lower: Array) -> float:
    """Degrees from the upper endplate of the one to an endplate (3, 2) below; positive where they open to the front."""
    one, other = (points[0] - points[2] for points in (upper.upper, lower))
    return float(np.degrees(np.arctan2(other[0] * one[1] - other[1] * one[0], one @ other)))


def _height_index(shapes: _Shapes, disc: StructureClass) -> float:
    shape = shapes.of(disc)
    front, _, back = shape.heights
    return float((front + back) / (2 * shape.width))


def _slip(shapes: _Shapes, above: StructureClass, below: StructureClass) -> float:
    """Millimetres by which the back corner above lies in front of that below, along the lower body's upper endplate."""
    upper, lower = shapes.of(above), shapes.of(below)
    endplate = lower.upper[0] - lower.upper[2]
    return float((upper.corners[1, 1] - lower.corners[0, 1]) @ endplate / np.linalg.norm(endplate))


def _mean_inside(scan: NDArray[np.generic], sections: Sections) -> float:
    """Mean grey value of a structure in its middle slices, without the voxels of its border there."""
    inside = ndimage.binary_erosion(sections.mask, np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]]))
    mask = inside if inside.sum() >= FEWEST_INSIDE else sections.mask
    return float(scan[sections.box][mask].astype(np.float64).mean())


def _ratio(signal: Callable[[StructureClass], float], disc: StructureClass, beside: Sequence[StructureClass]) -> float:
    """Mean grey value of a disc over that of the vertebrae beside it."""
    values = [signal(of) for of in (disc, *beside)]
    if not beside:
        raise NotMeasuredError("there is no vertebra beside it")
    if min(values) <= 0:
        raise NotMeasuredError("the grey values are not positive, so they have no ratio")
    return values[0] / float(np.mean(values[1:]))
