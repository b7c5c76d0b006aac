"""Charts of all methods of a benchmark, written as PNG: scores over labelled patients, classes, ablations.

Methods are told apart by marker and by the name at the end of their line, so that colour alone never has to.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...labels import ClassTable
from ...report.charts import per_class_bars, plain_axes
from ...report.figure_style import INK, LARGEST, LINES, MUTED, new_figure, save
from .benchmark_folder import Benchmark, Readout
from .row_names import ALL_LABELLED, FULL, REFERENCE, STEPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "osD^vP<>Xh"
IN_ONE_PANEL = 6
BARS_AT_MOST = 4
ACCENT, PLAIN = LINES[1], "#8a9099"
"""Colours of CPS4, and of the supervised row and the upper bound: the same in every panel."""


def curve_over_labelled(benchmark: Benchmark, path: str | Path) -> Path | None:
    """Mean Dice over the number of labelled patients, a band of one deviation over seeds, the upper bound dashed.

    A row of panels for the test patients, one for the unlabelled ones. Many methods are spread over panels by their
    group, with CPS4 and the supervised row in each.

    Returns:
        The PNG, or None where there is one number of labelled patients only, or no score.
    """
    readouts = benchmark.shown
    if len(benchmark.labelled) < 2 or not readouts:
        return None
    panels = _panels(benchmark)
    figure, axes = new_figure(len(readouts), len(panels), (8.6 / len(panels), 3.3), sharey="row", sharex=True)
    for line, readout in zip(axes, readouts, strict=True):
        for panel, (title, methods) in zip(line, panels.items(), strict=True):
            head = f"{readout.title}, mDice %, n = {_seeds(benchmark)} seeds" if panel is line[0] else ""
            _draw_methods(panel, benchmark, methods, readout)
            plain_axes(panel, f"{head}\n{title}".strip() if len(panels) > 1 else head)
    for panel in axes[-1]:
        panel.set_xlabel("labelled patients", fontsize=9, color=MUTED)
    return save(figure, path, largest=LARGEST)


def class_chart(benchmark: Benchmark, labelled: int, table: ClassTable, path: str | Path) -> Path | None:
    """Dice of every structure on the test patients: bars of a few methods, of many a table in colours.

    Returns:
        The PNG, or None if no run left scores of cases.
    """
    shown = [m for m, name in benchmark.names.items() if name.group != "Ablations"]
    readout = benchmark.written("test")
    found = {m: scores for m in shown if (scores := benchmark.class_means(m, labelled, readout))}
    if not found:
        return None
    if len(found) > BARS_AT_MOST:
        return _class_map(benchmark, found, table, path)
    summaries = {}
    for method, scores in found.items():
        per_class = {name: {"dice": statistics.fmean(dice), "n": len(dice)} for name, dice in scores.items()}
        mean = statistics.fmean(benchmark.scores(method, labelled, readout))
        summaries[benchmark.names[method].title] = {
            "per_class": per_class, "mdice": mean, "n_cases": benchmark.n_cases(labelled, readout),
        }  # fmt: skip
    return per_class_bars(summaries, table, path)


def ablation_bars(benchmark: Benchmark, path: str | Path) -> Path | None:
    """What each loss of stage 1 adds, as the paper's Fig. 4: bars of the means, a dot for each seed.

    Returns:
        The PNG, or None if neither loss was run alone.
    """
    steps = {method: title for method, title in STEPS.items() if method in benchmark.names}
    if REFERENCE not in steps or not {"token", "pixel"} & steps.keys():
        return None
    readouts = benchmark.shown
    figure, axes = new_figure(1, len(readouts), (8.6 / 2, 2.9), sharey=True)
    width = 0.8 / len(benchmark.labelled)
    for panel, readout in zip(axes[0], readouts, strict=True):
        for place, labelled in enumerate(benchmark.labelled):
            at = np.arange(len(steps)) + (place - (len(benchmark.labelled) - 1) / 2) * width
            scores = [[100 * s for s in benchmark.scores(m, labelled, readout)] for m in steps]
            n = max(map(len, scores))
            heights = [statistics.fmean(s) if s else 0.0 for s in scores]
            colour = LINES[place % len(LINES)]
            panel.bar(at, heights, 0.92 * width, color=colour, alpha=0.75, label=f"{labelled} labelled, n = {n}")
            for x, height, values in zip(at, heights, scores, strict=True):
                panel.plot([x] * len(values), values, "o", color=INK, markersize=2.5, alpha=0.7)
                fewer = f"n = {len(values)}\n" if 0 < len(values) < n else ""
                text = f"{fewer}{height:.1f}" if values else "–"
                panel.annotate(text, (x, 0), (0, 3), textcoords="offset points", ha="center", fontsize=8, color=INK)
        panel.set_xticks(np.arange(len(steps)), list(steps.values()))
        plain_axes(panel, f"{readout.title}, mDice %")
    axes[0, 0].legend(fontsize=8, frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(0, 1))
    axes[0, 0].set_ylim(0, 1.25 * axes[0, 0].get_ylim()[1])
    return save(figure, path)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Places moved apart as little as needed until neighbours are `gap` apart, in the same order."""
    order = np.argsort(places, kind="stable")
    blocks: list[tuple[float, list[int]]] = []  # mean of the wished places of the first one, members
    for index in order:
        blocks.append((float(places[index]), [int(index)]))
        while len(blocks) > 1:
            (low, below), (high, above) = blocks[-2:]
            if high - low >= gap * len(below) - 1e-12:
                break
            start = (low * len(below) + (high - gap * len(below)) * len(above)) / (len(below) + len(above))
            blocks[-2:] = [(start, below + above)]
    moved = [0.0] * len(places)
    for start, members in blocks:
        for place, index in enumerate(members):
            moved[index] = start + gap * place
    return moved


def _panels(benchmark: Benchmark) -> dict[str, list[str]]:
    """Title -> rows of a panel: all in one, or by group with CPS4 and the supervised row beside them."""
    rows = [m for m, name in benchmark.names.items() if name.group != "Ablations" and m not in ALL_LABELLED]
    if len(rows) <= IN_ONE_PANEL:
        return {"all": rows}
    groups: dict[str, list[str]] = {}
    for method in rows:
        if method not in ("supervised", REFERENCE):
            group = benchmark.names[method].group
            groups.setdefault("Text-guided" if group == "CPS4" else group, []).append(method)
    beside = [m for m in ("supervised", REFERENCE) if m in rows]
    return {title: beside[:1] + methods + beside[1:] for title, methods in groups.items()}


def _draw_methods(panel: Axes, benchmark: Benchmark, methods: Sequence[str], readout: Readout) -> None:
    """Lines of one panel, with names at their right ends."""
    places = list(range(len(benchmark.labelled)))  # numbers such as 1, 2, 16 would crowd the left on their own scale
    ends: dict[str, float] = {}
    looks: dict[str, str] = {}
    others = [m for m in methods if m not in ("supervised", REFERENCE)]
    for method in methods:
        scores = {x: benchmark.scores(method, n, readout) for x, n in zip(places, benchmark.labelled, strict=True)}
        drawn = {x: [100 * s for s in values] for x, values in scores.items() if values}
        if not drawn:
            continue
        ours = method == REFERENCE
        number = others.index(method) if method in others else 0
        palette = [c for c in LINES if c not in (ACCENT, LINES[-1])]
        colour = ACCENT if ours else PLAIN if method == "supervised" else palette[number % len(palette)]
        means = [statistics.fmean(values) for values in drawn.values()]
        sds = np.array([statistics.stdev(v) if len(v) > 1 else 0.0 for v in drawn.values()])
        low, high = np.array(means) - sds, np.array(means) + sds
        panel.fill_between(list(drawn), low, high, color=colour, alpha=0.12 if ours else 0.04, linewidth=0)
        for edge in (low, high):
            panel.plot(list(drawn), edge, color=colour, linewidth=0.6, alpha=0.45)
        panel.plot(
            list(drawn), means, color=colour, linewidth=2.4 if ours else 1.3, zorder=3 if ours else 2,
            marker="*" if ours else "_" if method == "supervised" else MARKERS[number % len(MARKERS)],
            markersize=9 if ours else 5, markeredgecolor="white" if method != "supervised" else colour,
            markeredgewidth=0.5,
        )  # fmt: skip
        name, last = benchmark.names[method].title + _other_n(benchmark, max(map(len, drawn.values()))), max(drawn)
        if last == places[-1]:
            ends[name], looks[name] = means[-1], colour
        else:  # not run with so many labelled patients
            panel.annotate(
                name, (last, means[-1]), (7, 0), textcoords="offset points", va="center", fontsize=8, color=INK
            )
    best = benchmark.scores(FULL, benchmark.labelled[-1], readout)
    if best:
        top = 100 * statistics.fmean(best)
        panel.axhline(top, color=INK, linestyle="--", linewidth=1)
        name = "all patients labelled" + _other_n(benchmark, len(best))
        ends[name], looks[name] = top, INK
    panel.set_xticks(places, [str(n) for n in benchmark.labelled])
    panel.set_xlim(-0.08, (len(places) - 1) * 1.06)
    _write_ends(panel, ends, looks, places[-1])


def _seeds(benchmark: Benchmark) -> int:
    """Runs of a row at one number of labelled patients, of the row that has most."""
    return max(len(benchmark.of(m, n)) for m in benchmark.names if m not in ALL_LABELLED for n in benchmark.labelled)


def _other_n(benchmark: Benchmark, n: int) -> str:
    return "" if n == _seeds(benchmark) else f", n = {n}"


def _write_ends(panel: Axes, ends: Mapping[str, float], looks: Mapping[str, str], right: float) -> None:
    """Names right of the axes and not above them, moved apart, each joined to the end of its line."""
    low, high = panel.get_ylim()
    places = spread(list(ends.values()), (high - low) * 0.068)
    above = max(0.0, max(places, default=high) - high)  # there stands the title
    for (name, value), place in zip(ends.items(), places, strict=True):
        panel.annotate(
            name, (right, value), (1.06, place - above), xycoords="data", textcoords=panel.get_yaxis_transform(),
            va="center", fontsize=8, color=INK, annotation_clip=False,
            fontweight="bold" if looks[name] == ACCENT else "normal",
            arrowprops={
                "arrowstyle": "-", "color": looks[name], "linewidth": 0.8, "shrinkA": 1, "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )  # fmt: skip


def _class_map(
    benchmark: Benchmark, found: Mapping[str, Mapping[str, Sequence[float]]], table: ClassTable, path: str | Path
) -> Path:
    """Methods by structures, the mean over seeds written in every cell, the best in bold, all labels aside."""
    scored = {name for scores in found.values() for name in scores}
    names = [c.name for c in (table.chain or table.foreground) if c.name in scored]
    values = np.array([[100 * statistics.fmean(f[n]) if n in f else np.nan for n in names] for f in found.values()])
    figure, axes = new_figure(1, 1, (9.6, 0.9 + 0.24 * len(found)))
    panel = axes[0, 0]
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    drawn = panel.imshow(values, cmap="cividis", vmin=low, vmax=high, aspect="auto")
    best = np.nanmax(values[[m not in ALL_LABELLED for m in found]], axis=0, initial=0)
    for (row, column), value in np.ndenumerate(values):
        panel.text(
            column, row, "–" if np.isnan(value) else f"{value:.0f}", ha="center", va="center", fontsize=8,
            color="white" if value < 0.4 * low + 0.6 * high else INK,
            fontweight="bold" if value == best[column] else "normal",
        )  # fmt: skip
    panel.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    seeds = [max(map(len, f.values())) for f in found.values()]
    titles = [f"{benchmark.names[m].title}, n = {n}" for m, n in zip(found, seeds, strict=True)]
    panel.set_yticks(range(len(found)), titles)
    panel.tick_params(labelsize=8, colors=INK, length=0)
    for side in panel.spines.values():
        side.set_visible(False)
    bar = figure.colorbar(drawn, ax=panel, fraction=0.02, pad=0.01)
    bar.outline.set_visible(False)
    bar.set_label("Dice %", fontsize=8, color=MUTED)
    bar.ax.tick_params(labelsize=8, colors=MUTED, length=0)
    return save(figure, path, largest=LARGEST)
