"""The short table of a benchmark: six rows, with the best of the other methods, chosen by the validation patients."""

from __future__ import annotations

import statistics

import pandas as pd

from .benchmark_folder import TEST, Benchmark, Readout
from .document import Table
from .method_tables import most_seeds, over_seeds
from .row_names import ALL_LABELLED, AT_ONCE, FULL, LITERAL, REFERENCE

RIVALS = ("Semi-supervised", "Text-guided")
"""Groups of the methods that others have published."""
BASELINES = ("supervised", "mean_teacher")
RULE = (
    "The best other method is chosen by the validation patients alone: of the semi-supervised and text-guided rows "
    "with the most runs, Mean Teacher aside, which has a line anyway, it is the one with the highest mean Dice in a "
    "validation of its training, the mean first over seeds, then over the numbers of labelled patients. "
    "Of a method that was run with our weights and, as a row of its own, with its original's, the better by the same "
    "score counts. Nothing is chosen on unlabelled or test patients."
)


def headline_table(benchmark: Benchmark, more: str = "below") -> Table | None:
    """Levels right and mean Dice on the unlabelled patients of the rows that there are; None if none was scored.

    Args:
        benchmark: the runs.
        more: where the scores of test patients are.
    """
    readout, rival = benchmark.written("unlabelled"), best_rival(benchmark)
    if not benchmark.has(readout):
        return None
    wanted = [*BASELINES, *([rival] if rival else []), LITERAL, REFERENCE, AT_ONCE, FULL]
    rows = [m for m in wanted if m in benchmark.names]
    seeds = most_seeds(benchmark)
    columns = {}
    for n in benchmark.labelled:
        head = f"{n} labelled (n = {seeds[n]} seed{'s' * (seeds[n] != 1)})"
        columns[head, "levels right"] = [_right(benchmark, m, n, _of(m, readout)) for m in rows]
        columns[head, "mDice"] = [over_seeds(benchmark.scores(m, n, _of(m, readout)), seeds[n], 1) for m in rows]
    titles = {rival: " (best other method)", FULL: " (of test patients)"}
    index = pd.Index([benchmark.names[m].title + titles.get(m, "") for m in rows], name="method")
    names = {"named": "named by the geometry of the cohort", "decoded": "decoded in the order of the spine"}
    caption = (
        "Unlabelled patients: scans in which every level from L5 to L1 is right, and mean Dice ± deviation over seeds, "
        f"%, {names.get(readout.variant, 'with the names of the network')}, for all rows alike; test patients, "
        f"intervals{', and how the best other method was chosen' if rival else ''}: {more}."
    )
    return Table("summary", caption, pd.DataFrame(columns, index))


def best_rival(benchmark: Benchmark) -> str | None:
    """The other method that `RULE` chooses; None without one that was validated."""
    means = _validation(benchmark)
    return str(means["mean"].idxmax()) if len(means) else None


def rivals_table(benchmark: Benchmark) -> Table | None:
    """What `RULE` goes by, best first; None without a rival."""
    means = _validation(benchmark)
    if means.empty:
        return None
    cells = means.sort_values("mean", ascending=False).map(lambda value: f"{100 * value:.1f}")
    cells.columns = [head if head == "mean" else f"{head} labelled" for head in cells]
    cells.index = pd.Index([benchmark.names[m].title for m in cells.index], name="method")
    return Table(
        "rivals", "Mean Dice of the validation patients, %, the best of a training, on the network's own grid.", cells
    )


def _validation(benchmark: Benchmark) -> pd.DataFrame:
    """Means over seeds of the rivals with the most runs: a column for each number of labelled patients, and `mean`."""
    found = {
        m: {n: benchmark.of(m, n)["validation_mdice"].dropna().tolist() for n in benchmark.labelled}
        for m, name in benchmark.names.items()
        if name.group in RIVALS and m not in BASELINES
    }
    most = max((sum(map(len, scores.values())) for scores in found.values()), default=0)
    means = {
        m: {n: statistics.fmean(s) for n, s in scores.items() if s}
        for m, scores in found.items()
        if most and sum(map(len, scores.values())) == most
    }
    table = pd.DataFrame.from_dict(means, orient="index")
    return table.assign(mean=table.mean(axis=1)) if len(table) else table


def _of(method: str, readout: Readout) -> Readout:
    """The read-out that a row has: one that trained on all labels has no unlabelled patients."""
    return Readout(TEST.section, readout.variant) if method in ALL_LABELLED else readout


def _right(benchmark: Benchmark, method: str, labelled: int, readout: Readout) -> str:
    right = benchmark.levels(method, labelled, readout)["right"]
    return f"{100 * right.mean():.0f}" if len(right) else "–"
