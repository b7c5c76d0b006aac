"""Label maps of spines made of boxes, whose volumes and heights follow by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from scripts.labels import ClassTable

TABLE = ClassTable.load()
CHAIN = tuple(c.id for c in TABLE.chain if c.name != "S")
LUMBAR = ("L5/S", "L5", "L4/L5", "L4", "L3/L4", "L3", "L2/L3", "L2", "L1/L2", "L1")
SPACING = (2.0, 1.0, 4.0)
"""Millimetres from front to back, from head to foot, and between slices."""
PIR = np.array([[0, 0, -4.0, 20], [-2.0, 0, 0, 100], [0, -1.0, 0, 130], [0, 0, 0, 1]])
"""Affine of the boxes' grid: axes towards posterior, inferior, right."""
HEIGHT, DEPTH, SLICES = {"vertebra": 26, "disc": 10, "sacrum": 60}, 34, 8
"""Millimetres from head to foot and from front to back, and slices, of a box: 28.288 ml a vertebra, 10.88 ml a disc."""


@dataclass
class Spine:
    """Boxes one above the other; what is not named is regular.

    Attributes:
        names: from the lowest upwards.
        below: millimetres of the image below the lowest.
        above: above the highest.
        height: of single structures, mm.
        depth: of single structures, mm.
        slices: of single structures.
        free: millimetres without a label below single structures.
    """

    names: tuple[str, ...] = LUMBAR
    below: int = 60
    above: int = 20
    height: Mapping[str, int] = field(default_factory=dict)
    depth: Mapping[str, int] = field(default_factory=dict)
    slices: Mapping[str, int] = field(default_factory=dict)
    free: Mapping[str, int] = field(default_factory=dict)

    def draw(self) -> np.ndarray:
        """(X, Y, Z) uint8 label map on the grid of `PIR`."""
        heights = [self.height.get(n, HEIGHT[TABLE.classes[TABLE.id_of(n)].group]) for n in self.names]
        rows = self.above + sum(heights) + sum(self.free.values()) + self.below
        label = np.zeros((80, rows, 10), np.uint8)
        foot = rows - self.below
        for name, height in zip(self.names, heights, strict=True):
            foot -= self.free.get(name, 0)
            columns, slices = self.depth.get(name, DEPTH) // 2, self.slices.get(name, SLICES)
            label[10 : 10 + columns, foot - height : foot, 1 : 1 + slices] = TABLE.id_of(name)
            foot -= height
        return label
