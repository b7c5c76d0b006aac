"""Plausible sizes of structures: ranges of volume and height, learned from the labelled volumes of training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .structures import Field, Measured

if TYPE_CHECKING:
    from ...labels import ClassTable

MEASURES = ("volume_ml", "height_mm")
LEAST = {"volume_ml": 2.0, "height_mm": 1.5}
"""Factor about the line over the levels that a range reaches at least, whatever the number of cases."""
ONE_CASE = {"volume_ml": 1.0, "height_mm": 0.5}
"""What is added to that with one case; with n cases the n-th part of it, since others differ from one patient."""
DEVIATIONS = 4.0
"""Standard deviations about the line that a range reaches, where that is more."""
MOST = 5.0
"""Largest factor."""
MAD = 1.4826
"""Standard deviation of a normal distribution by its median absolute deviation; few wrong labels do not change it."""
BORDER_VOXELS = 1.5
"""A structure that ends this near to the border of the image is cut by it."""


def is_cut(structure: Measured, field: Field) -> str:
    """The border, "lower" or "upper", that a structure reaches; "" if it lies inside."""
    slack = BORDER_VOXELS * field.voxel_mm
    if structure.low_mm - field.low_mm < slack:
        return "lower"
    return "upper" if field.high_mm - structure.high_mm < slack else ""


def learn_sizes(cases: Sequence[tuple[Mapping[int, Measured], Field]], table: ClassTable) -> dict[str, Any]:
    """Ranges of volume and height of every structure.

    Neighbouring levels of one type differ smoothly: a straight line is fitted to the logarithms over the levels. The
    range of a structure, also of one that no label names, is the line's value at its place divided and multiplied by a
    factor: `DEVIATIONS` standard deviations about the line, at least `LEAST` + `ONE_CASE` / n for n cases, at most
    `MOST`. Structures that the image's border cuts are left out, unless all of their type are cut.

    Args:
        cases: of every labelled volume what :func:`.structures.measure` found, and its field of view.
        table: class table.

    Returns:
        `cases`, their number; `stack_mm`, [smallest, largest] width of the images from left to right; `structures`:
        name -> `volume_ml` and `height_mm`, [low, high], and the number of `cases` that it is learned from. Empty
        without any structure.
    """
    places = {c.id: c.chain for c in table.foreground if c.chain is not None}
    seen: dict[int, list[Measured]] = defaultdict(list)
    cut: dict[int, list[Measured]] = defaultdict(list)
    for structures, field in cases:
        for c, structure in structures.items():
            if c in places:
                (cut if is_cut(structure, field) else seen)[c].append(structure)
    for group in table.groups:
        if not any(c in seen for c in table.group(group)):  # as of a sacrum, which no image may show whole
            seen |= {c: cut[c] for c in table.group(group) if c in cut}
    if not seen:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for group in table.groups:
        members = [i for i in table.group(group) if i in places]
        known = [i for i in members if i in seen]
        for i in members if known else []:
            found[table.names[i]] = {"cases": len(seen.get(i, ()))}
        for measure in MEASURES if known else ():
            values = {places[i]: [getattr(structure, measure) for structure in seen[i]] for i in known}
            middle, factor = _line(values, LEAST[measure] + ONE_CASE[measure] / len(cases))
            for i in members:
                value = float(np.exp(np.polynomial.polynomial.polyval(places[i], middle)))
                found[table.names[i]][measure] = [round(value / factor, 2), round(value * factor, 2)]
    widths = [field.stack_mm for _, field in cases]
    return {"cases": len(cases), "stack_mm": [round(min(widths), 1), round(max(widths), 1)], "structures": found}


def _line(values: Mapping[int, Sequence[float]], least: float) -> tuple[NDArray[np.floating], float]:
    """Line through the logarithms of one type's sizes over the places in the chain, and the factor about it."""
    place = np.array([p for p, of in values.items() for _ in of], dtype=np.float64)
    logs = np.log([value for of in values.values() for value in of])
    line = np.polynomial.polynomial.polyfit(place, logs, min(len(values) - 1, 1))
    rest = logs - np.polynomial.polynomial.polyval(place, line)
    spread = MAD * float(np.median(np.abs(rest)))
    return line, float(np.clip(np.exp(DEVIATIONS * spread), least, MOST))


def size_words(name: str, structure: Measured, field: Field, sizes: Mapping[str, Any]) -> str:
    """Say in what the size of a structure is not plausible; "" if it is, or if no range is known.

    The range of volumes is stretched where the image is narrower or wider than those of training, which cut the
    structures at the sides. A structure that the border cuts may be smaller.

    Args:
        name: of the structure.
        structure: its size.
        field: of the image.
        sizes: value of :func:`learn_sizes`.
    """
    row = sizes.get("structures", {}).get(name)
    if not row:
        return ""
    narrowest, widest = sizes["stack_mm"]
    stretch = {"volume_ml": (min(field.stack_mm / narrowest, 1.0), max(field.stack_mm / widest, 1.0))}
    for measure, unit, small, large in (("volume_ml", "ml", "small", "large"), ("height_mm", "mm", "low", "high")):
        value = getattr(structure, measure)
        low, high = (end * by for end, by in zip(row[measure], stretch.get(measure, (1.0, 1.0)), strict=True))
        wrong = large if value > high else small if value < low and not is_cut(structure, field) else ""
        if wrong:
            return f"too {wrong} with {number(value)} {unit} (plausible: {number(low)} to {number(high)})"
    return ""


def number(value: float) -> str:
    """A length or volume for a sentence: one decimal below 10."""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
