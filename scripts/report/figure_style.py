"""Drawing primitives of all figures: colours, overlays of label maps, level names, atomic saving."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import whole_file
from ..labels import IGNORE, ClassTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1c1f24"
MUTED = "#5f6670"
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5f6670")
"""Okabe and Ito's colours, which colour-blind readers tell apart; yellow is too pale for lines on white."""
FILL = 0.5
LARGEST, COARSEST = 300_000, 80
"""Bytes of a picture that is kept with the documents, and the resolution (dpi) under which letters blur."""
IGNORED_COLOUR = (255, 255, 255)


def new_figure(rows: int, columns: int, panel_inches: tuple[float, float], **grid: Any) -> tuple[Figure, np.ndarray]:
    """A figure of panels of equal size (width, height) without any global state of matplotlib.

    Returns:
        The figure and its axes (rows, columns).
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=(columns * panel_inches[0], rows * panel_inches[1]), layout=layout)
    return figure, figure.subplots(rows, columns, squeeze=False, **grid)


def save(figure: Figure, path: str | Path, dpi: int = 150, largest: int | None = None) -> Path:
    """Write a figure as PNG atomically, with lower resolution if it has more than `largest` bytes."""
    picture = _png(figure, dpi)
    while largest is not None and len(picture) > largest and dpi > COARSEST:
        dpi = max(COARSEST, round(0.85 * dpi))
        picture = _png(figure, dpi)
    with whole_file(path) as file:
        file.write(picture)
    return Path(path)


def _png(figure: Figure, dpi: int) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi, facecolor="white")
    return content.getvalue()


def grey(image: np.ndarray) -> np.ndarray:
    """Image (H, W) stretched to 0..1 between its 1st and 99.5th percentile; a constant image becomes 0."""
    low, high = np.percentile(image, [1, 99.5])
    return np.clip((image - low) / (high - low), 0, 1) if high > low else np.zeros(image.shape)


def colours(table: ClassTable) -> np.ndarray:
    """Colours of all labels (256, 3) in 0..1: the table's for its classes, white for ignored pixels."""
    palette = np.zeros((256, 3))
    palette[: table.num_classes] = [c.colour for c in table.classes]
    palette[IGNORE] = IGNORED_COLOUR
    return palette / 255


def painted(image: np.ndarray, label: np.ndarray, table: ClassTable) -> np.ndarray:
    """Overlay of a label map on an image, tinted and outlined in the classes' colours.

    Args:
        image: (H, W), any range.
        label: (H, W) class ids; background is not tinted, ignored pixels are outlined in white.
        table: the classes.

    Returns:
        (H, W, 3) in 0..1.
    """
    base = np.repeat(grey(image)[..., None], 3, axis=-1)
    tint = colours(table)[label.astype(np.intp)]  # label maps of scans are often read as float
    alpha = np.where((label > 0) & (label != IGNORE), FILL, 0.0)
    alpha[outlines(label)] = 1.0
    return base * (1 - alpha[..., None]) + tint * alpha[..., None]


def outlines(label: np.ndarray) -> np.ndarray:
    """Pixels of structures (H, W) bool that touch another label."""
    padded = np.pad(label, 1, mode="edge")
    shifted = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return (label > 0) & np.any([label != neighbour for neighbour in shifted], axis=0)


def show(
    axes: Axes, picture: np.ndarray, title: str = "", spacing: Sequence[float] = (1.0, 1.0), **options: Any
) -> None:
    """Show a picture (H, W) or (H, W, 3) without ticks, with square millimetres.

    Args:
        axes: where.
        picture: what; grey pictures are taken to be in 0..1.
        title: small title above, may be empty.
        spacing: distance of neighbouring pixels along H and W.
        options: options of `imshow`.
    """
    defaults: dict[str, Any] = {
        "cmap": "gray",
        "vmin": 0,
        "vmax": 1,
        "interpolation": "nearest",
        "aspect": spacing[0] / spacing[1],
    }
    axes.imshow(picture, **(defaults | options))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if title:
        axes.set_title(title, fontsize=8, color=INK, pad=3)


def write_names(axes: Axes, label: np.ndarray, table: ClassTable, size: float = 6.0, smallest: int = 12) -> None:
    """Write the short name of every structure at its centre; of a structure in pieces, at every large piece.

    Args:
        axes: panel that shows the label map.
        label: (H, W) class ids.
        table: the classes.
        size: size of the vertebrae's names in points; the flatter discs get smaller ones.
        smallest: area in pixels under which a piece is too small to carry a name.
    """
    from matplotlib.patheffects import withStroke

    for structure in table.foreground:
        found = pieces(label == structure.id)
        area = sum(len(rows) for rows, _ in found)
        points = size * 0.72 if structure.group == "disc" else size
        for rows, columns in found:
            if len(rows) >= max(smallest, 0.2 * area):
                axes.text(
                    float(np.median(columns)),
                    float(np.median(rows)),
                    structure.name,
                    color="white",
                    fontsize=points,
                    fontweight="bold",
                    ha="center",
                    va="center_baseline",
                    path_effects=[withStroke(linewidth=points / 4, foreground="black")],
                )


def pieces(mask: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Connected components (8-connectivity) of a mask (H, W) bool, each as rows and columns of its pixels."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return []
    top, left = rows.min(), columns.min()
    box = np.pad(mask[top : rows.max() + 1, left : columns.max() + 1], 1)
    ids = np.where(box, np.arange(1, box.size + 1).reshape(box.shape), 0)
    while True:  # propagate the largest label until each component has one
        grown = np.maximum.reduce([ids[:-2], ids[1:-1], ids[2:]])
        grown = np.maximum.reduce([grown[:, :-2], grown[:, 1:-1], grown[:, 2:]])
        grown = np.pad(grown, 1) * box
        if np.array_equal(grown, ids):
            break
        ids = grown
    where = [np.nonzero(ids == piece) for piece in np.unique(ids[box])]
    return [(piece[0] + top - 1, piece[1] + left - 1) for piece in where]


def window_around(labels: Sequence[np.ndarray], margin: float = 0.12) -> tuple[slice, slice]:
    """Bounding box (row and column slices) of all structures of label maps (H, W), with a margin; all if empty.

    Args:
        labels: label maps of one picture.
        margin: share of the picture's larger side that is left around the structures.
    """
    found = np.any([(label > 0) & (label != IGNORE) for label in labels], axis=0)
    if not found.any():
        return slice(0, found.shape[0]), slice(0, found.shape[1])
    edge = round(margin * max(found.shape))
    spans = [np.nonzero(found.any(axis=axis))[0] for axis in (1, 0)]
    rows, columns = (slice(max(0, int(s[0]) - edge), int(s[-1]) + 1 + edge) for s in spans)
    return rows, columns
