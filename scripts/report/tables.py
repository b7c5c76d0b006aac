"""Tables of results as plain text or Markdown, made from the files of runs. Needs neither torch nor monai.

Files hold fractions; tables print percent, and always how many cases or runs (n) stand behind a number.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SPIDER_MEASURES = {
    "mdice": "mDice",
    "miou": "mIoU",
    "mdice_decoded": "mDice, decoded",
    "miou_decoded": "mIoU, decoded",
    "unlabelled_mdice": "mDice, unlabelled patients",
    "unlabelled_mdice_decoded": "same, decoded",
    "map_mdice": "prompt-guided map",
    "pseudo_label_mdice": "pseudo-label",
}
"""Columns of spider_space.csv -> heads of the table; a column that the file lacks, or leaves empty, is left out."""
DRAWS = 20_000
EXACT_UP_TO = 14


def read_summary(path: str | Path) -> dict[str, Any]:
    """Read a summary.json."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_per_case(path: str | Path) -> list[dict[str, Any]]:
    """Read a per_case.csv: the scores as float (NaN where there is none), class_id as int."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        row["class_id"] = int(row["class_id"])
        row.update({k: float(row[k] or "nan") for k in ("dice", "iou", "hd95_mm", "assd_mm")})
    return rows


def case_means(rows: Iterable[Mapping[str, Any]], measure: str = "dice") -> dict[str, float]:
    """Mean of a measure over the classes of each case; cases without any value are left out."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if not math.isnan(row[measure]):
            values.setdefault(row["case"], []).append(row[measure])
    return {case: statistics.fmean(scores) for case, scores in values.items()}


def pool_runs(runs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean score of each case over several runs (seeds), over those that have it."""
    values: dict[str, list[float]] = {}
    for run in runs:
        for case, score in run.items():
            values.setdefault(case, []).append(score)
    return {case: statistics.fmean(scores) for case, scores in values.items()}


def paired_comparison(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Compare two methods on the cases that both scored: how much better is the first, and could it be chance?

    Args:
        first: case -> score, see :func:`case_means`; over several seeds see :func:`pool_runs`.
        second: case -> score of the other method.

    Returns:
        `n` cases, `mean` and `sd` of first − second, `wins` and `losses` of the first, and `p`, two-sided, of the
        sign-flip permutation test: exact up to 14 cases (p is then at least 2 / 2^n), 20 000 seeded draws beyond.

    Raises:
        ValueError: no case in common.
    """
    differences = [first[case] - second[case] for case in sorted(first.keys() & second.keys())]
    if not differences:
        raise ValueError("the two results have no case in common")
    n = len(differences)
    exact = n <= EXACT_UP_TO
    drawn = np.random.default_rng(0).choice((-1.0, 1.0), (DRAWS, n)) if not exact else None
    flips = np.array(list(itertools.product((-1.0, 1.0), repeat=n))) if drawn is None else drawn
    limit = abs(sum(differences)) - 1e-12  # rounding must not tell the observed sum from itself
    extreme = int((np.abs(flips @ np.array(differences)) >= limit).sum())
    # Among random draws the observed one counts too, so that p is never 0.
    p = extreme / len(flips) if exact else (extreme + 1) / (len(flips) + 1)
    return {
        "n": n,
        "mean": statistics.fmean(differences),
        "sd": statistics.stdev(differences) if n > 1 else math.nan,
        "wins": sum(d > 0 for d in differences),
        "losses": sum(d < 0 for d in differences),
        "p": p,
    }


def comparison_table(comparisons: Mapping[str, Mapping[str, float]], *, markdown: bool = False) -> str:
    """Table of paired comparisons, name -> result of :func:`paired_comparison`."""
    head = ["comparison", "n", "difference (points)", "wins", "losses", "p"]
    rows = [
        [name, f"{c['n']:.0f}", mean_sd(c["mean"], c["sd"], sign="+"), f"{c['wins']:.0f}", f"{c['losses']:.0f}", p]
        for name, c in comparisons.items()
        for p in ["< 0.001" if c["p"] < 0.001 else f"{c['p']:.3f}"]
    ]
    return format_table(head, rows, markdown=markdown)


def summary_table(summary: Mapping[str, Any], *, markdown: bool = False) -> str:
    """The results of one evaluation: headline, a row per class, a row per group."""
    head = ["", "n", "Dice %", "IoU %", "HD95 mm", "ASSD mm", "missed", "spurious", "wrong level"]
    rows = [_score_row(name, scores) for name, scores in summary["per_class"].items() if scores["n"]]
    rows += [_score_row(f"all: {group}", scores) for group, scores in summary["groups"].items() if scores["n"]]
    agnostic = ", ".join(f"{g} {percent(v)}" for g, v in summary["level_agnostic_dice"].items())
    lines = [
        f"mDice {percent(summary['mdice'])} %, mIoU {percent(summary['miou'])} %, n = {summary['n_cases']} cases",
        f"Dice % of a group whatever the level: {agnostic}",
        "structures: {missed} missed, {spurious} spurious, {wrong_level} of wrong level".format(**summary),
    ]
    decoded = summary.get("decoded")
    if decoded:
        scores = f"mDice {percent(decoded['mdice'])} %, mIoU {percent(decoded['miou'])} %"
        lines.append(f"with decoded levels: {scores}, {decoded['wrong_level']} of wrong level")
    gap = "\n\n" if markdown else "\n"
    return gap.join(lines) + "\n\n" + format_table(head, rows, markdown=markdown)


def spider_table(csv_path: str | Path) -> str:
    """Markdown table of :func:`spider_rows`."""
    head, rows = spider_rows(csv_path)
    return format_table(head, rows, markdown=True)


def spider_rows(csv_path: str | Path) -> tuple[list[str], list[list[str]]]:
    """Head and rows for `spider_space.csv`: percent, mean ± sd over seeds, per number of labelled patients and method.

    Runs of one method that differ in steps or resolution are not averaged: each setting has its row. Of a seed that was
    run twice the last run counts.

    Raises:
        ValueError: the file holds no run.
    """
    with Path(csv_path).open(newline="", encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    if not runs:
        raise ValueError(f"{csv_path} holds no run yet")
    order = {method: place for place, method in enumerate(dict.fromkeys(run["method"] for run in runs))}
    settings: dict[tuple[Any, ...], dict[str, dict[str, str]]] = {}
    for run in runs:
        key = (int(run["labelled"]), order[run["method"]], run["steps"], run["stage1_steps"], run["resolution"])
        settings.setdefault(key, {})[run["seed"]] = run
    measures = [m for m in SPIDER_MEASURES if any(_numbers(runs, m))]
    head = ["labelled patients", "method", "seeds (n)", *(f"{SPIDER_MEASURES[m]} %" for m in measures)]
    rows = []
    for (labelled, _, *costs), by_seed in sorted(settings.items(), key=lambda item: item[0]):
        group = list(by_seed.values())
        scores = [over_seeds(_numbers(group, m), len(group)) for m in measures]
        rows.append([str(labelled), group[0]["method"], str(len(group)), *scores, *(c or "–" for c in costs)])
    return [*head, "steps", "stage-1 steps", "resolution"], rows


def format_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, markdown: bool = False) -> str:
    """Lay out a table; columns of numbers are set flush right.

    Args:
        head: heads of the columns.
        rows: cells, as many as there are heads.
        markdown: True for a Markdown table, False for plain text.
    """
    escape = (lambda cell: cell.replace("|", "\\|")) if markdown else (lambda cell: cell)
    table = [[escape(str(cell)) for cell in row] for row in [head, *rows]]
    columns = list(zip(*table, strict=True))
    widths = [max(3, *(len(cell) for cell in column)) for column in columns]
    right = [flush_right(column[1:]) for column in columns]
    lines = [
        [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)] for row in table
    ]
    if markdown:
        rule = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right, strict=True)]
        return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])
    return "\n".join("  ".join(line).rstrip() for line in [lines[0], ["-" * w for w in widths], *lines[1:]])


def flush_right(cells: Sequence[str]) -> bool:
    """Whether a column holds numbers alone; emphasis and empty cells do not count."""
    return bool(cells) and all(cell.lstrip("*")[:1] in tuple("+-–−<0123456789") or not cell for cell in cells)


def percent(fraction: float | None) -> str:
    """A fraction as percent with two digits; "–" for None or NaN."""
    return "–" if fraction is None or math.isnan(fraction) else f"{100 * fraction:.2f}"


def _score_row(name: str, scores: Mapping[str, Any]) -> list[str]:
    distances = ["–" if scores[k] is None else f"{scores[k]:.2f}" for k in ("hd95_mm", "assd_mm")]
    counts = [str(scores.get(k, "")) for k in ("missed", "spurious", "wrong_level")]
    return [name, str(scores["n"]), percent(scores["dice"]), percent(scores["iou"]), *distances, *counts]


def _numbers(runs: Iterable[Mapping[str, str]], column: str) -> list[float]:
    numbers = [float(run.get(column) or "nan") for run in runs]
    return [n for n in numbers if not math.isnan(n)]


def over_seeds(values: Sequence[float], n_runs: int, digits: int = 2) -> str:
    """Mean ± deviation of fractions as percent; n where it is not that of the table, "–" without values."""
    if not values:
        return "–"
    sd = statistics.stdev(values) if len(values) > 1 else math.nan
    text = mean_sd(statistics.fmean(values), sd, digits=digits)
    return text if len(values) == n_runs else f"{text} (n={len(values)})"


def mean_sd(mean: float, sd: float, sign: str = "", digits: int = 2) -> str:
    """Two fractions as percent, "55.31 ± 13.56"; the mean alone where the deviation is NaN."""
    return f"{100 * mean:{sign}.{digits}f}" + ("" if math.isnan(sd) else f" ± {100 * sd:.{digits}f}")
