"""Tables as plain text or Markdown, and the one of an evaluation. Needs neither torch nor monai.

Files hold fractions; tables print percent, and always how many cases (n) stand behind a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ..files import write_whole


def summary_table(summary: Mapping[str, Any]) -> str:
    """The contents of a summary.json as plain text: headline, a row per class, a row per group."""
    head = ["", "n", "Dice %", "IoU %", "HD95 mm", "ASSD mm", "missed", "spurious", "wrong level"]
    rows = [_score_row(name, scores) for name, scores in summary["per_class"].items() if scores["n"]]
    rows += [_score_row(f"all: {group}", scores) for group, scores in summary["groups"].items() if scores["n"]]
    agnostic = ", ".join(f"{g} {percent(v)}" for g, v in summary["level_agnostic_dice"].items())
    lines = [
        f"mDice {percent(summary['mdice'])} %, mIoU {percent(summary['miou'])} %, n = {summary['n_cases']} cases",
        f"Dice % of a group whatever the level: {agnostic}",
        "structures: {missed} missed, {spurious} spurious, {wrong_level} of wrong level".format(**summary),
        f"levels L5 to L1 right in {percent(summary['levels_right'])} % of the cases",
    ]
    for readout in ("decoded", "named"):
        if other := summary.get(readout):
            scores = f"mDice {percent(other['mdice'])} %, mIoU {percent(other['miou'])} %"
            right = f"levels right in {percent(other['levels_right'])} %"
            lines.append(f"with {readout} levels: {scores}, {other['wrong_level']} of wrong level, {right}")
    return "\n".join(lines) + "\n\n" + format_table(head, rows)


def _score_row(name: str, scores: Mapping[str, Any]) -> list[str]:
    distances = ["–" if scores[k] is None else f"{scores[k]:.2f}" for k in ("hd95_mm", "assd_mm")]
    counts = [str(scores.get(k, "")) for k in ("missed", "spurious", "wrong_level")]
    return [name, str(scores["n"]), percent(scores["dice"]), percent(scores["iou"]), *distances, *counts]


def format_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, markdown: bool = False) -> str:
    """Lay out a table; columns of numbers are set flush right.

    Args:
        head: heads of the columns.
        rows: cells, as many as there are heads.
        markdown: True for a Markdown table, False for plain text.
    """
    bar = "\\|" if markdown else "|"
    cells = [[str(cell).replace("|", bar) for cell in row] for row in rows]
    align = ["right" if flush_right(column) else "left" for column in zip(*cells, strict=True)]
    form = "pipe" if markdown else "simple"
    return tabulate(cells, list(head), form, colalign=align, disable_numparse=True)


def flush_right(cells: Sequence[str]) -> bool:
    """Whether a column holds numbers alone; emphasis and empty cells do not count."""
    return all(cell.lstrip("*")[:1] in tuple("+-–−<0123456789") or not cell for cell in cells)


def percent(fraction: float | None) -> str:
    """A fraction as percent with two digits; "–" for None or NaN."""
    return "–" if fraction is None or math.isnan(fraction) else f"{100 * fraction:.2f}"


def write_block(document: Path, mark: str, text: str) -> None:
    """Put a text between the lines `<!-- mark -->` and `<!-- /mark -->` of a Markdown file.

    Raises:
        ValueError: the file has no such lines.
    """
    before, after = split_at_block(document, mark)
    write_whole(document, f"{before}<!-- {mark} -->\n{text}\n<!-- /{mark} -->{after}")


def split_at_block(document: Path, mark: str) -> tuple[str, str]:
    """What stands before and behind such a block.

    Raises:
        ValueError: the file has no such lines.
    """
    start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, found, rest = document.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{document} has no lines {start} and {end}, between which the table is written")
    return before, after
