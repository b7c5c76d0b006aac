"""How often every level is right, and the mean Dice of scans whose levels are right and of those where one is not."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd
from scipy.stats import binomtest

from ...labels import LEVEL_RIGHT
from .benchmark_folder import Benchmark, Readout
from .document import Table

MEANING = (
    "Levels right: scans in which every level from L5 to L1 that the label holds has a Dice with its own name above "
    f"{LEVEL_RIGHT}, with the 95 % interval (Wilson) and the counts over all seeds; beside it mean Dice of these scans "
    "and of the others. The interval takes scans as independent; those of one seed share a network, and are less so."
)


def level_table(benchmark: Benchmark, readout: Readout) -> Table | None:
    """Rows by numbers of labelled patients: levels right, and mDice where they are and where not; None without scores.

    Args:
        benchmark: the runs.
        readout: which patients, which form of the prediction.
    """
    rows = [m for m in benchmark.names if any(len(benchmark.levels(m, n, readout)) for n in benchmark.labelled)]
    if not rows:
        return None
    columns = {}
    for n in benchmark.labelled:
        found = [benchmark.levels(m, n, readout) for m in rows]
        head = f"{n} labelled"
        columns[head, "levels right"] = [counted(of["right"]) for of in found]
        columns[head, "mDice where right"] = [_mean(of["dice"][of["right"]]) for of in found]
        columns[head, "where not"] = [_mean(of["dice"][~of["right"]]) for of in found]
    names = [benchmark.names[m] for m in rows]
    index = pd.MultiIndex.from_tuples([(name.group, name.title) for name in names], names=["group", "method"])
    caption = f"{readout.title[0].upper()}{readout.title[1:]}, %."
    return Table(f"levels-{readout.section}-{readout.variant}", caption, pd.DataFrame(columns, index))


def counted(right: Iterable[bool]) -> str:
    """A share with its interval and counts, "90.5 [71.1, 97.3] (19/21)"; "–" of nothing."""
    marks = [bool(of) for of in right]
    if not marks:
        return "–"
    interval = binomtest(sum(marks), len(marks)).proportion_ci(method="wilson")
    share, low, high = (100 * value for value in (sum(marks) / len(marks), interval.low, interval.high))
    return f"{share:.1f} [{low:.1f}, {high:.1f}] ({sum(marks)}/{len(marks)})"


def _mean(dice: pd.Series) -> str:
    mean = float(dice.mean()) if len(dice) else math.nan
    return "–" if math.isnan(mean) else f"{100 * mean:.1f}"
