"""What is measured of every structure of a label map, and why something is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from .outline import Array, Outline, Sections, Volume, middle_slices, outline, reaches_side

if TYPE_CHECKING:
    from ..labels import ClassTable

HEIGHTS = ("height_anterior_mm", "height_middle_mm", "height_posterior_mm")
OF_OUTLINE = (*HEIGHTS, "width_mm", "tilt_degrees")
CENTRE = ("centroid_x_mm", "centroid_y_mm", "centroid_z_mm")
MEASURES = ("volume_ml", *HEIGHTS, "width_mm", *CENTRE, "tilt_degrees")
"""Keys of a structure's measurements, in the order of the table."""
CUT = "the border of the image cuts it"
BESIDE = "it reaches the outermost sagittal slice, so a part of it may lie beside the image"
TOO_LITTLE = "it shows too little of its endplates and walls"
SACRUM = "the sacrum has no lower endplate"
SACRUM_MM = 15.0
"""Height of the part of the sacrum below its upper endplate from which its corners are taken."""


@dataclass(frozen=True)
class Structure:
    """A structure in its middle slices.

    Attributes:
        outline: its six points; None if the scan does not show them.
        reason: why there is no outline; "" if there is one.
        beside: whether it reaches the outermost slices.
        sections: it in the middle slices.
    """

    outline: Outline | None
    reason: str
    beside: bool
    sections: Sections


def find_structures(volume: Volume, chain: Sequence[int], table: ClassTable) -> dict[int, Structure]:
    """Outline every structure of the chain.

    Args:
        volume: the label map.
        chain: class ids from the lowest upwards.
        table: the classes.

    Returns:
        Class id -> structure, of those that have a voxel, from the lowest upwards.
    """
    found_boxes = dict(enumerate(ndimage.find_objects(volume.label), 1))
    boxes = {c: box for c in chain if (box := found_boxes.get(c))}
    middles = {c: middle_slices(volume, c, box) for c, box in boxes.items()}
    shown = {c: sections.voxels for c, sections in middles.items() if sections.mask.any()}
    up = _upwards(volume, {c: volume.places(voxels).mean(0)[:2] for c, voxels in shown.items()})
    found: dict[int, Structure] = {}
    for c in reversed(boxes):  # from the top: the sacrum is seen from the structure above
        sections, beside = middles[c], reaches_side(volume, boxes[c])
        if c not in shown:
            found[c] = Structure(None, TOO_LITTLE, beside, sections)
            continue
        if table.classes[c].group == "sacrum":
            above = [of.outline for of in reversed(found.values()) if of.outline]
            sections, up[c] = _below_endplate(volume, sections, above[0]) if above else (sections, up[c])
        cut = sections.is_cut(volume)
        shape = None if cut else outline(volume, sections, up[c])
        reason = CUT if cut else TOO_LITTLE if shape is None else ""
        found[c] = Structure(shape, reason, beside, middles[c])
    return dict(reversed(found.items()))


def _upwards(volume: Volume, centres: Mapping[int, Array]) -> dict[int, Array]:
    """Direction (2,) of the spine at each structure: from the next centre below to the next one above."""
    ranked = sorted(centres, key=lambda c: float(centres[c][1]))
    head = (volume.plane @ [0.0, 0.0, 1.0])[:2]
    found: dict[int, Array] = {}
    for place, c in enumerate(ranked):
        one, other = (ranked[min(max(place + step, 0), len(ranked) - 1)] for step in (-1, 1))
        way = centres[other] - centres[one]
        # of a structure alone, and where one lies beside another, the body's axis says more
        found[c] = way if way @ head > np.linalg.norm(way) / 2 > 0 else head
    return found


def _below_endplate(volume: Volume, sections: Sections, above: Outline) -> tuple[Sections, Array]:
    """The part of the sacrum below its upper endplate, and the way up at right angles to that, by L5/S or L5."""
    voxels = sections.voxels
    along = above.lower[0] - above.lower[2]
    along /= np.linalg.norm(along)
    up = np.array([-along[1], along[0]])
    places = volume.places(voxels)[:, :2] - above.lower[1]
    under = np.abs(places @ along) <= above.width / 3
    if not under.any():
        return sections, up
    part = np.zeros_like(sections.mask)
    near = places @ up >= (places[under] @ up).max() - SACRUM_MM
    part[tuple((voxels[near] - sections.start).T)] = True
    return replace(sections, mask=part), up


def measurements(
    structure: Structure, volume: Volume, volume_ml: float, centre_mm: Sequence[float], group: str
) -> tuple[dict[str, float | None], dict[str, str]]:
    """`MEASURES` of one structure, and the reason for each that is None.

    Args:
        structure: the structure.
        volume: its label map.
        volume_ml: of its voxels.
        centre_mm: (x, y, z) of their centroid, RAS.
        group: of its class.
    """
    values: dict[str, float | None] = {"volume_ml": volume_ml, **dict(zip(CENTRE, centre_mm, strict=True))}
    missing: dict[str, str] = {}
    if structure.beside:
        missing |= dict.fromkeys(("volume_ml", CENTRE[0]), BESIDE)
    if structure.reason == CUT:
        missing |= dict.fromkeys(("volume_ml", *CENTRE), CUT)
    shape = structure.outline
    if shape is None or group == "sacrum":
        missing |= dict.fromkeys(OF_OUTLINE, structure.reason or SACRUM)
    else:
        values |= dict(zip(HEIGHTS, shape.heights.tolist(), strict=True))
        values |= {"width_mm": shape.width, "tilt_degrees": tilt(volume, shape.along)}
    found = {key: None if key in missing else round(float(values[key] or 0.0), _digits(key)) for key in MEASURES}
    return found, {key: missing[key] for key in MEASURES if key in missing}


def tilt(volume: Volume, direction: Array) -> float:
    """Degrees of a direction (2,) forwards in the slices against the scanner's transverse plane; > 0: front higher."""
    towards = direction @ volume.plane[:2]
    return float(np.degrees(np.arctan2(towards[2], np.hypot(towards[0], towards[1]))))


def without(reason: str) -> tuple[dict[str, Any], dict[str, str]]:
    """As :func:`measurements`, with nothing measured."""
    return dict.fromkeys(MEASURES), dict.fromkeys(MEASURES, reason)


def _digits(key: str) -> int:
    return 3 if key.endswith("_ml") else 2
