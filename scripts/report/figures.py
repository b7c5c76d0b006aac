"""Pictures of images, label maps and attention maps, written as PNG. Needs neither torch nor monai.

Convention: images are (H, W) with H = superior to inferior and W = anterior to posterior, as the networks take them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..labels import ClassTable
from .figure_style import (
    INK,
    LARGEST,
    MUTED,
    colours,
    grey,
    new_figure,
    painted,
    save,
    show,
    window_around,
    write_names,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL_WIDTH = 2.4
STRIP_WIDTH = 8.6
"""Inches of a picture that fills the width of a page, where its smallest letters are then still 8 points."""
GREYS = 31
"""Steps between black and white in a picture of many panels: half the bytes of 255, without a visible difference."""
SMALLEST = 1e-12
"""Divisor in the place of the maximum or the sum of a map that is zero everywhere."""


def overlay(
    image: np.ndarray,
    label: np.ndarray | None,
    pred: np.ndarray,
    table: ClassTable,
    path: str | Path,
    *,
    titles: Sequence[str] = ("image", "truth", "prediction"),
    spacing: Sequence[float] = (1.0, 1.0),
) -> Path:
    """Image, truth and prediction side by side, with the names of the levels.

    Args:
        image: (H, W), any range.
        label: (H, W) class ids, or None where there is no truth.
        pred: (H, W) class ids.
        table: the classes.
        path: PNG to write.
        titles: of the three panels.
        spacing: distance of neighbouring pixels along H and W.
    """
    rows = [("", image, _named(titles, None, label, pred))]
    return _draw_rows(rows, table, path, spacing)


def overlay_volume(
    image: np.ndarray,
    label: np.ndarray | None,
    pred: np.ndarray,
    table: ClassTable,
    path: str | Path,
    *,
    count: int = 3,
    titles: Sequence[str] = ("image", "truth", "prediction"),
    spacing: Sequence[float] = (1.0, 1.0),
) -> Path:
    """As :func:`overlay`, a row for each of the `count` most representative slices of a volume (H, W, S)."""
    slices = representative_slices(pred if label is None else label, count)
    rows = []
    for s in slices:
        truth = None if label is None else label[..., s]
        name = f"slice {s + 1} of {image.shape[-1]}"
        rows.append((name, image[..., s], _named(titles, None, truth, pred[..., s])))
    return _draw_rows(rows, table, path, spacing)


def representative_slices(label: np.ndarray, count: int) -> list[int]:
    """Up to `count` slices of a label map (H, W, S) with most structures and area, not adjacent if possible."""
    structures = [len(np.unique(label[..., s])) + float((label[..., s] > 0).mean()) for s in range(label.shape[-1])]
    best = [int(s) for s in np.argsort(structures)[::-1]]
    chosen: list[int] = []
    for distance in (2, 1):  # first without neighbours, then with them
        for s in best:
            if len(chosen) < count and all(abs(s - other) >= distance for other in chosen):
                chosen.append(s)
    return sorted(chosen)


def attention_panel(
    image: np.ndarray,
    maps: np.ndarray,
    masks: np.ndarray,
    table: ClassTable,
    path: str | Path,
    *,
    classes: Sequence[int] | None = None,
    columns: int = 5,
) -> Path:
    """Attention maps of classes, each beside its mask by Otsu's threshold.

    Args:
        image: (H, W), any range.
        maps: (N, h, w) attention maps, background first; each is scaled to its own maximum (in the title), but at
            least to a quarter of the largest of all, so that noise does not look like attention.
        masks: (N, h', w') bool, Otsu masks, in the grid of the maps or of the image.
        table: the classes.
        path: PNG to write.
        classes: ids to draw; None for all.
        columns: pairs of map and mask per row.
    """
    height, width = image.shape
    size = (1.05, 1.05 * height / width + 0.22)
    shown = range(len(maps)) if classes is None else classes
    figure, axes = new_figure(math.ceil(len(shown) / columns), 2 * columns, size)
    base, palette = grey(image), colours(table)
    strongest = float(maps[1:].max())
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    for panel in axes.flat:
        panel.set_axis_off()
    for (left, right), number in zip(axes.reshape(-1, 2), shown, strict=False):
        structure, values, mask = table.classes[number], maps[number], masks[number]
        top = float(values.max())
        show(
            left,
            values,
            structure.name,
            cmap="magma",
            vmax=max(top, strongest / 4),
            interpolation="bilinear",
            extent=extent,
        )
        show(right, base, f"max {top:.2f}")
        right.title.set(color=MUTED, fontsize=7)
        colour = palette[structure.id] if structure.id else np.ones(3)
        tinted = np.concatenate([np.broadcast_to(colour, (*mask.shape, 3)), 0.6 * mask[..., None]], axis=-1)
        show(right, tinted, extent=extent)
        for panel in (left, right):
            panel.set_axis_on()
    return save(figure, path)


def prompt_map_panel(
    image: np.ndarray,
    prompt_map: np.ndarray,
    pseudo_label: np.ndarray,
    truth: np.ndarray | None,
    path: str | Path,
    table: ClassTable | None = None,
) -> Path:
    """Image, prompt-guided map, the teacher's pseudo-label, and ground truth if known, side by side.

    Args:
        image: (H, W), any range.
        prompt_map: (H, W) class ids, the prompt-guided map.
        pseudo_label: (H, W) class ids or `IGNORE`.
        truth: (H, W) class ids, or None.
        path: PNG to write.
        table: the classes; None is the bundle's own table.
    """
    titles = ("image", "prompt-guided map", "teacher's pseudo-label", "truth")
    row = ("", image, _named(titles, None, prompt_map, pseudo_label, truth))
    return _draw_rows([row], table or ClassTable.load(), path, (1.0, 1.0))


def _named(titles: Sequence[str], *labels: np.ndarray | None) -> dict[str, np.ndarray | None]:
    """Title -> label map for the panels of one row; the first is the image, missing label maps are left out."""
    pairs = list(zip(titles, labels, strict=True))
    return dict(pairs[:1] + [(title, label) for title, label in pairs[1:] if label is not None])


def _draw_rows(
    rows: Sequence[tuple[str, np.ndarray, Mapping[str, np.ndarray | None]]],
    table: ClassTable,
    path: str | Path,
    spacing: Sequence[float],
) -> Path:
    """Draw rows of (name, image (H, W), panels), all cut to the window around the structures of all rows."""
    window = window_around([label for _, _, panels in rows for label in panels.values() if label is not None])
    height, width = rows[0][1][window].shape
    size = (PANEL_WIDTH, PANEL_WIDTH * height * spacing[0] / (width * spacing[1]) + 0.2 / len(rows))
    figure, axes = new_figure(len(rows), len(rows[0][2]), size)
    for number, (line, (name, image, panels)) in enumerate(zip(axes, rows, strict=True)):
        for panel, (title, label) in zip(line, panels.items(), strict=True):
            cut = grey(image)[window]
            show(panel, cut if label is None else painted(cut, label[window], table), "" if number else title, spacing)
            if label is not None:
                write_names(panel, label[window], table)
        line[0].text(0.03, 0.02, name, fontsize=7, color="white", transform=line[0].transAxes)
    return save(figure, path, dpi=180)


def method_strip(
    image: np.ndarray,
    truth: np.ndarray,
    predictions: Mapping[str, tuple[np.ndarray, str]],
    table: ClassTable,
    path: str | Path,
    *,
    spacing: Sequence[float] = (1.0, 1.0),
    columns: int = 7,
) -> Path:
    """Qualitative comparison: predictions of all methods on one slice beside image and truth.

    Args:
        image: (H, W), any range.
        truth: (H, W) class ids or `IGNORE`.
        predictions: title -> (H, W) class ids and a remark that is written into the picture, in their order.
        table: the classes; vertebrae are named in the picture, discs have the colours alone.
        path: PNG to write.
        spacing: distance of neighbouring pixels along H and W.
        columns: panels in a row at most.
    """
    named: dict[str, tuple[np.ndarray | None, str]] = {"image": (None, ""), "truth": (truth, ""), **predictions}
    window = window_around([truth], margin=0.05)
    height, width = image[window].shape
    rows = math.ceil(len(named) / columns)
    columns = math.ceil(len(named) / rows)
    across = STRIP_WIDTH / columns
    figure, axes = new_figure(rows, columns, (across, across * height * spacing[0] / (width * spacing[1]) + 0.12))
    discs = [c.id for c in table.foreground if c.group == "disc"]
    for panel in axes.flat:
        panel.set_axis_off()
    for panel, (title, (label, remark)) in zip(axes.flat, named.items(), strict=False):
        cut = np.round(GREYS * grey(image)[window]) / GREYS
        show(panel, cut if label is None else painted(cut, label[window], table), title, spacing)
        if label is not None:
            crop = label[window]
            write_names(panel, np.where(np.isin(crop, discs), 0, crop), table, size=7)
        _write_below(panel, remark)
        panel.set_axis_on()
    return save(figure, path, largest=LARGEST)


def attention_rows(
    image: np.ndarray,
    truth: np.ndarray,
    maps: Mapping[str, np.ndarray],
    classes: Sequence[int],
    table: ClassTable,
    path: str | Path,
    *,
    spacing: Sequence[float] = (1.0, 1.0),
) -> Path:
    """Attention maps of some classes on one slice, a row for each stage-1 model, as the paper's Fig. 5.

    Each map is laid over the image in warm colours, from 0 to its own maximum; the class's true outline is drawn over
    it, and the title says which share of the map's sum lies inside.

    Args:
        image: (H, W), any range.
        truth: (H, W) class ids or `IGNORE`.
        maps: title of a model -> (N, H, W) its maps in the grid of the image, ≥ 0.
        classes: ids, one column each.
        table: the classes.
        path: PNG to write.
        spacing: distance of neighbouring pixels along H and W.
    """
    window = window_around([truth], margin=0.1)
    height, width = image[window].shape
    across = STRIP_WIDTH / (len(classes) + 1)
    size = (across, across * height * spacing[0] / (width * spacing[1]) + 0.05)
    figure, axes = new_figure(len(maps), len(classes) + 1, size)
    base, truth_crop = grey(image)[window], truth[window]
    for number, (line, (name, found)) in enumerate(zip(axes, maps.items(), strict=True)):
        show(line[0], painted(base, truth_crop, table), "" if number else "truth", spacing)
        line[0].set_ylabel(name, fontsize=9, color=INK)
        for panel, class_id in zip(line[1:], classes, strict=True):
            values, inside = found[class_id], truth_crop == class_id
            title = "" if number else table.classes[class_id].name
            show(panel, base, title, spacing, interpolation="bilinear")
            strength = values[window] / max(float(values.max()), SMALLEST)
            show(panel, strength, title, spacing, cmap="inferno", alpha=0.85 * strength, interpolation="bilinear")
            if inside.any():
                panel.contour(inside, levels=[0.5], colors="#56b4e9", linewidths=1.0)
            share = float(values[truth == class_id].sum()) / max(float(values.sum()), SMALLEST)
            _write_below(panel, f"{100 * share:.0f} % inside")
    return save(figure, path, largest=LARGEST)


def _write_below(panel: Axes, words: str) -> None:
    """White words with a dark edge in the lower left corner of a picture."""
    from matplotlib.patheffects import withStroke

    edge = [withStroke(linewidth=2, foreground="black")]
    panel.text(0.04, 0.02, words, fontsize=8, color="white", transform=panel.transAxes, path_effects=edge)
