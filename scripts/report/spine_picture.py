"""One picture of a labelled scan: sagittal slices and a coronal one along the curve of the spine, with outlines."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..labels import IGNORE, ClassTable

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

HEIGHT, WIDTH, GAP = 560, 300, 4
"""Pixels of a panel at most, and between panels."""
MARGIN_MM, NARROWEST_MM = ((14.0, 14.0), (38.0, 30.0)), 110.0
"""What is shown beyond the structures, up and down, in front and behind; and the least from front to back."""
ACROSS = {"right": 1 / 6, "middle": 1 / 2, "left": 5 / 6}
"""Sagittal panel -> share of the structures' voxels that lies to the right of its slice."""
FEWEST = 3
"""Slices from which a coronal picture shows something."""
SMOOTH_MM = 15.0
"""Length over which the curve of the coronal picture is averaged."""
NAMED_MM2 = 40.0
"""Area from which a structure is large enough to carry its name."""
FINE, LINE = 2, 3
"""How much larger lines are drawn than they are shown, and their width there."""
NAME, TITLE, BESIDE = 14, 14, 70
"""Pixels of letters, and of the longest name."""
QUALITIES, LARGEST = (78, 65, 45), 150_000
"""Of the JPEG, the first with which it has no more than so many bytes; a scan of noise has more with all."""
SMALLEST = 1e-6
"""Divisor where an image is constant."""


class Panel(NamedTuple):
    """A part of the picture.

    Attributes:
        title: what it is.
        sides: letters of its left and right.
        image: (H, W), from head to foot.
        label: (H, W) class ids.
        spacing: millimetres between rows and between columns.
    """

    title: str
    sides: tuple[str, str]
    image: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float]


def spine_picture(image: np.ndarray, label: np.ndarray, affine: np.ndarray, table: ClassTable) -> bytes:
    """Draw a labelled scan: the head is up, the front is on the left; the right is on the left of the coronal panel.

    Three sagittal slices run through the right part, the middle and the left part of the structures, so that a curved
    spine is met in each; the coronal one follows the structures from front to back, row by row.

    Args:
        image: (X, Y, Z) or (X, Y), any range.
        label: class ids on the same grid; `IGNORE` is not drawn.
        affine: (4, 4) from voxels to RAS+ millimetres, of any orientation.
        table: the classes.

    Returns:
        A JPEG of four panels of at most 300 x 560 pixels side by side.
    """
    image, label, spacing = _upright(image, label, affine)
    panels = _panels(image, np.where(label == IGNORE, 0, label), spacing)
    return _draw(panels, table)


def _upright(image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Volumes whose axes run down, back, and to the patient's right, and their spacing in mm."""
    from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

    turn = ornt_transform(io_orientation(affine), axcodes2ornt("IPR"))
    spacing = np.empty(3)
    spacing[turn[:, 0].astype(int)] = np.linalg.norm(affine[:3, :3], axis=0)
    image, label = (apply_orientation(np.atleast_3d(volume), turn) for volume in (image, label))
    return image, label, spacing


def _panels(image: np.ndarray, label: np.ndarray, spacing: np.ndarray) -> list[Panel]:
    found = label > 0
    rows, columns = _window(found, spacing)
    image, label, found = (volume[rows, columns] for volume in (image, label, found))
    weight = found.sum((0, 1)) if found.any() else np.ones(found.shape[2])
    share = weight[::-1].cumsum() / weight.sum()  # from the patient's right
    panels: dict[int, Panel] = {}
    for title, part in ACROSS.items():
        s = len(share) - 1 - int(np.searchsorted(share, part))
        panels.setdefault(s, Panel(title, ("A", "P"), image[..., s], label[..., s], (spacing[0], spacing[1])))
    if len(panels) == 1:
        panels = {s: panel._replace(title="") for s, panel in panels.items()}
    if image.shape[2] < FEWEST:
        return list(panels.values())
    depth = _curve(found, spacing[0])
    row = np.arange(len(depth))
    image, label = (volume[row, depth, ::-1] for volume in (image, label))
    return [*panels.values(), Panel("coronal", ("R", "L"), image, label, (spacing[0], spacing[2]))]


def _window(found: np.ndarray, spacing: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns around the structures (H, W, S) bool; all if there are none."""
    if not found.any():
        return slice(None), slice(None)
    window = []
    for axis, margins, least in ((0, MARGIN_MM[0], 0.0), (1, MARGIN_MM[1], NARROWEST_MM)):
        inside = np.nonzero(found.any(axis=(1 - axis, 2)))[0]
        first, end = int(inside[0]), int(inside[-1]) + 1
        more = max(0.0, least - sum(margins) - (end - first) * spacing[axis]) / 2
        before, behind = (round((margin + more) / spacing[axis]) for margin in margins)
        window.append(slice(max(0, first - before), end + behind))
    return window[0], window[1]


def _curve(found: np.ndarray, row_mm: float) -> np.ndarray:
    """The column (H,) at which the structures (H, W, S) bool lie in each row, continued where there are none."""
    area = found.sum(2)
    rows = np.nonzero(area.any(1))[0]
    if not len(rows):
        return np.full(len(found), found.shape[1] // 2)
    centre = (area[rows] @ np.arange(area.shape[1])) / area[rows].sum(1)
    curve = np.interp(np.arange(len(found)), rows, centre)
    reach = round(SMOOTH_MM / row_mm / 2)
    around = np.pad(curve, reach, mode="edge")
    return np.convolve(around, np.ones(2 * reach + 1) / (2 * reach + 1), "valid").round().astype(int)


def _draw(panels: Sequence[Panel], table: ClassTable) -> bytes:
    """Panels of one scale and size side by side; the first's height and width decide."""
    from PIL import Image

    height_mm, width_mm = (n * mm for n, mm in zip(panels[0].image.shape, panels[0].spacing, strict=True))
    per_mm = min(HEIGHT / height_mm, WIDTH / width_mm)
    height, widest = max(1, round(height_mm * per_mm)), max(1, round(width_mm * per_mm))
    greys = np.percentile(np.concatenate([panel.image.ravel() for panel in panels]), [1, 99.5])
    drawn = []
    for panel in panels:  # the coronal one is as wide as its slices reach, and the names beside them
        width = min(widest, round(panel.image.shape[1] * panel.spacing[1] * per_mm) + 2 * BESIDE)
        drawn.append(_draw_panel(panel, (width, height), per_mm, greys, table))
    picture = Image.new("RGB", (sum(panel.width + GAP for panel in drawn) - GAP, height), "#808080")
    left = 0
    for part in drawn:
        picture.paste(part, (left, 0))
        left += part.width + GAP
    for quality in QUALITIES:
        content = io.BytesIO()
        picture.save(content, "JPEG", quality=quality, subsampling=0)  # coloured lines stay sharp
        if content.tell() <= LARGEST:
            break
    return content.getvalue()


def _draw_panel(panel: Panel, size: tuple[int, int], per_mm: float, greys: np.ndarray, table: ClassTable) -> Image:
    """A panel in the middle of a tile of a size (width, height); drawn larger and reduced, so that lines are smooth."""
    from PIL import Image, ImageDraw
    from skimage.measure import find_contours

    step = per_mm * np.array(panel.spacing)  # pixels from row to row and from column to column
    width = max(1, round(panel.image.shape[1] * step[1]))
    left = (size[0] - width) // 2
    low, high = greys
    grey = np.clip(255 * (panel.image - low) / max(high - low, SMALLEST), 0, 255).astype(np.uint8)
    tile = Image.new("RGB", (FINE * size[0], FINE * size[1]))
    scaled = Image.fromarray(grey).resize((FINE * width, FINE * size[1]), Image.Resampling.BICUBIC)
    tile.paste(scaled, (FINE * left, 0))
    draw = ImageDraw.Draw(tile)
    names = []
    for c in np.unique(panel.label[panel.label > 0]).tolist():
        mask = panel.label == c
        for line in find_contours(np.pad(mask, 1), 0.5):
            points = FINE * ((line - 0.5)[:, ::-1] * step[::-1] + (left, 0))
            draw.line([*map(tuple, points.tolist())], table.classes[c].colour, width=LINE, joint="curve")
        if mask.sum() * panel.spacing[0] * panel.spacing[1] >= NAMED_MM2:
            rows, columns = np.nonzero(mask)
            front = np.percentile(columns, 2)  # of the structure, not of a stray pixel
            names.append((table.classes[c].name, front * step[1] + left, (np.median(rows) + 0.5) * step[0]))
    tile = tile.reduce(FINE)
    draw = ImageDraw.Draw(tile)
    for name, x, y in names:  # beside the structure, whose signal stays to be seen
        _write(draw, (max(x - 4, _font(NAME).getlength(name) + 2), min(max(y, NAME), size[1] - NAME)), name, NAME, "rm")
    for x, text, anchor in ((0.5, panel.title, "mb"), (0.02, panel.sides[0], "lb"), (0.98, panel.sides[1], "rb")):
        _write(draw, (x * size[0], size[1] - 5), text, TITLE, anchor)
    return tile


def _write(draw: ImageDraw, place: tuple[float, float], text: str, points: int, anchor: str) -> None:
    """White letters with a dark edge."""
    draw.text(place, text, "white", _font(points), anchor, stroke_width=1, stroke_fill="black")


@lru_cache
def _font(points: int) -> FreeTypeFont:
    """DejaVu Sans Bold, which matplotlib brings along."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf")), points)
