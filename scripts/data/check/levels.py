"""Whether the structures of a label lie in the order of a spine: every level above the next lower one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ...labels import ClassTable, LabelMap

SPINE_MM = 20.0
"""Length from which the direction of a chain of labelled structures counts."""
ORDER_MM = 1.0
"""How far below the next lower structure a structure's centre may lie: less is no order, but noise."""
MOST_NAMED = 3
"""So many structures out of order are named."""


def direction_mistakes(array: np.ndarray, affine: np.ndarray, label_map: LabelMap, table: ClassTable) -> list[str]:
    """Whether labelled structures run upwards in the patient, one above the other: sentences without the path.

    Discs count between their vertebrae. Structures that a label does not hold are passed over.

    Args:
        array: (X, Y, Z) label values, whole numbers that the map knows.
        affine: (4, 4) to millimetres, RAS.
        label_map: value -> class id.
        table: the classes.
    """
    centres = _centres(array, affine, label_map, table)
    return _direction(centres) or _order(centres, table)


def _centres(array: np.ndarray, affine: np.ndarray, label_map: LabelMap, table: ClassTable) -> dict[int, np.ndarray]:
    """Place in the chain, lowest first -> centre (3,) in mm of the structure there."""
    place = {c.id: number for number, c in enumerate(table.chain)}
    chain = {value: place[c] for value, c in label_map.mapping.items() if c in place}
    voxels = np.nonzero(array)
    values = np.round(array[voxels]).astype(np.int64)
    points = np.stack(voxels, 1) @ affine[:3, :3].T + affine[:3, 3]
    numbers = np.full(values.shape, -1)
    for value in np.unique(values).tolist():
        numbers[values == value] = chain.get(value, -1)
    return {number: points[numbers == number].mean(0) for number in np.unique(numbers).tolist() if number >= 0}


def _direction(centres: dict[int, np.ndarray]) -> list[str]:
    """Whether the chain as a whole runs from foot to head."""
    if len(centres) < 3:
        return []
    numbers = np.array(list(centres), dtype=np.float64)
    numbers -= numbers.mean()
    places = np.stack(list(centres.values()))
    along = (numbers[:, None] * places).sum(0) / (numbers**2).sum() * np.ptp(numbers)  # mm from lowest to highest
    if np.linalg.norm(along) < SPINE_MM:
        return []
    axis = int(np.abs(along).argmax())
    mend = "correct the orientation in the headers of image and label, or the label map"
    if axis != 2:
        return [f"has its structures along {('left-right', 'front-back')[axis]}, not head-foot; {mend}"]
    if along[2] < 0:
        return [f"has its structures upside down (the sacrum's end above); {mend}"]
    return []


def _order(centres: dict[int, np.ndarray], table: ClassTable) -> list[str]:
    """Whether every structure lies above the next lower one that the label holds."""
    wrong = [
        f"{table.chain[upper].name} lies {centres[lower][2] - centres[upper][2]:.0f} mm below {table.chain[lower].name}"
        for lower, upper in pairwise(centres)
        if centres[upper][2] < centres[lower][2] - ORDER_MM
    ]
    if not wrong:
        return []
    more = f" and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
    mend = "correct the names of the structures in the label, or the label map"
    return [f"has structures out of the order of a spine: {', '.join(wrong[:MOST_NAMED])}{more}; {mend}"]
