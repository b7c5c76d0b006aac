"""Charts of training and of results, written as PNG. Needs neither torch nor monai."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..labels import ClassTable
from .figure_style import INK, LINES, MUTED, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXIS = ("step", "epoch", "iteration")
MANY_POINTS = 60


class Curve(NamedTuple):
    """Values of one metric, and where along the axis ("step", "epoch" or "iteration") each was taken."""

    axis: str
    positions: list[float]
    values: list[float]


def curves(sources: str | Path | Mapping[str, str | Path], path: str | Path) -> Path:
    """Training curves: losses on the left, validation scores on the right, one colour per curve.

    Args:
        sources: a file of metrics (see :func:`read_curves`), or run name -> file; of several runs only the loss
            itself and the scores are drawn, without the loss's parts.
        path: PNG to write.

    Raises:
        ValueError: the files hold no number.
    """
    files = dict(sources) if isinstance(sources, Mapping) else {"": sources}
    read = {run: read_curves(file) for run, file in files.items()}
    measures = {name for found in read.values() for name in found if "loss" not in name}
    title = f"validation: {measures.copy().pop()}" if len(measures) == 1 else "validation"
    losses: dict[str, Curve] = {}
    scores: dict[str, Curve] = {}
    for run, found in read.items():
        for name, curve in found.items():
            if "loss" not in name:
                scores[run if run and len(measures) == 1 else f"{run} {name}".strip()] = curve
            elif not run or name.split("/")[-1] in ("loss", "train_loss"):
                losses[run or name] = curve
    drawn = {head: group for head, group in (("loss", losses), (title, scores)) if group}
    if not drawn:
        raise ValueError(f"no curve in {', '.join(str(f) for f in files.values())}")
    figure, axes = new_figure(1, len(drawn), (4.6, 3.0))
    for panel, (head, group) in zip(axes.flat, drawn.items(), strict=True):
        _draw_curves(panel, head, group)
    return save(figure, path)


def read_curves(path: str | Path) -> dict[str, Curve]:
    """Read metrics of a run: CSV, a JSON list, or JSON lines, with one record per step or epoch.

    Every numeric column other than the axis (`step`, else `epoch`, `iteration`, else the number of the record) is a
    curve; cells may be empty. A long form, with the columns `name` and `value`, is understood as well.

    Returns:
        Name -> curve.
    """
    text = Path(path).read_text(encoding="utf-8").strip()
    if text.startswith("["):
        records: list[dict[str, Any]] = json.loads(text)
    elif text.startswith("{"):
        records = [json.loads(line) for line in text.splitlines()]
    else:
        records = list(csv.DictReader(text.splitlines()))
    found: dict[str, Curve] = {}
    for number, record in enumerate(records):
        axis = next((key for key in AXIS if record.get(key) not in (None, "")), "")
        position = float(record[axis]) if axis else float(number)
        values = {record["name"]: record["value"]} if {"name", "value"} <= record.keys() else record
        for name, value in values.items():
            number_read = _as_number(value)
            if name not in AXIS and number_read is not None:
                curve = found.setdefault(name, Curve(axis, [], []))
                curve.positions.append(position)
                curve.values.append(number_read)
    return found


def per_class_bars(summaries: Mapping[str, Mapping[str, Any]], table: ClassTable, path: str | Path) -> Path:
    """Dice of every class as bars, one colour per method, from the contents of summary.json files.

    Args:
        summaries: method -> its summary.
        table: the classes, drawn from the lowest structure up.
        path: PNG to write.
    """
    scored = {name for s in summaries.values() for name, scores in s["per_class"].items() if scores["n"]}
    names = [c.name for c in (table.chain or table.foreground) if c.name in scored]
    figure, axes = new_figure(1, 1, (max(5.0, 0.5 * len(names) + 1), 3.0))
    panel, width = axes[0, 0], 0.8 / len(summaries)
    for place, (method, summary) in enumerate(summaries.items()):
        dice = [100 * (summary["per_class"][name]["dice"] or 0) for name in names]
        offset = (place - (len(summaries) - 1) / 2) * width
        label = f"{method}, mean {100 * summary['mdice']:.1f}, n = {summary['n_cases']}"
        panel.bar(np.arange(len(names)) + offset, dice, 0.9 * width, color=LINES[place % len(LINES)], label=label)
    panel.set_xticks(np.arange(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    panel.set_ylim(0, 100)
    plain_axes(panel, "Dice % per structure, lowest first")
    columns = len(summaries) if sum(map(len, summaries)) < 40 else 2  # long names in two columns
    figure.legend(fontsize=8, frameon=False, labelcolor=INK, loc="outside upper left", ncols=columns)
    return save(figure, path)


def _draw_curves(panel: Axes, title: str, group: Mapping[str, Curve]) -> None:
    """Curves of many points are drawn faint, with their running mean on top."""
    from matplotlib.ticker import LogLocator

    for place, (name, (axis, positions, values)) in enumerate(group.items()):
        colour = LINES[place % len(LINES)]
        dash = "-" if place < len(LINES) else "--"
        if len(values) > MANY_POINTS:
            panel.plot(positions, values, color=colour, alpha=0.22, linewidth=0.8)
            values = running_mean(values, len(values) // 25)
        marker = "o" if len(values) <= 20 else ""
        panel.plot(positions, values, dash, color=colour, linewidth=1.6, marker=marker, markersize=3.5, label=name)
        panel.set_xlabel(axis, fontsize=8, color=MUTED)
    plain_axes(panel, title)
    if title == "loss" and min(min(curve.values) for curve in group.values()) > 0:
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.minorticks_off()
    panel.legend(fontsize=7, frameon=False, labelcolor=INK)


def running_mean(values: list[float], half: int) -> list[float]:
    """Mean over up to `half` neighbours on either side, fewer at the ends."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(len(values)) - half, 0)
    end = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return list((total[end] - total[first]) / (end - first))


def plain_axes(panel: Axes, title: str) -> None:
    """Minimal axes: small title and faint horizontal grid lines."""
    panel.set_title(title, fontsize=9, color=INK, loc="left")
    panel.tick_params(labelsize=7.5, colors=MUTED, length=2)
    panel.grid(axis="y", color="#e3e6ea", linewidth=0.6)
    panel.set_axisbelow(True)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color("#c4c9cf")


def _as_number(value: Any) -> float | None:
    """A finite number, or None for an empty cell, NaN, or text."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None
