"""Tables of all methods of a benchmark: scores in the shape of the paper's Table 1, ablations, paired comparison.

Percent, mean ± standard deviation; n is in the heads, or in the cell where it differs from the head's.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from .benchmark_folder import MEASURES, READOUTS, Benchmark, Readout
from .document import Table
from .row_names import ALL_LABELLED, FULL, REFERENCE, STEPS
from .seed_bootstrap import Comparison, comparisons

PAPER_FILE = Path(__file__).with_name("paper.json")
HEADS = {
    "mdice": "mDice",
    "miou": "mIoU",
    "mdice_decoded": "mDice, decoded",
    "miou_decoded": "mIoU, decoded",
    "mdice_named": "mDice, named",
    "miou_named": "mIoU, named",
    "levels_right": "levels right",
    "levels_right_decoded": "levels right, decoded",
    "levels_right_named": "levels right, named",
    "unlabelled_mdice": "mDice, unlabelled patients",
    "unlabelled_mdice_decoded": "same, decoded",
    "unlabelled_mdice_named": "same, named",
    "unlabelled_levels_right": "levels right, unlabelled patients",
    "unlabelled_levels_right_decoded": "same, decoded (levels)",
    "unlabelled_levels_right_named": "same, named (levels)",
    "map_mdice": "prompt-guided map",
    "pseudo_label_mdice": "pseudo-label",
    "validation_mdice": "validation patients, best of the training",
}
"""Columns of results.csv -> heads of the tables; a column that the file lacks, or leaves empty, is left out."""
COSTS = {"steps": "steps", "stage1_steps": "stage-1 steps", "resolution": "resolution"}
LEVELS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
STARS = " Against CPS4, corrected for the number of rows: * p < 0.05, ** p < 0.01, *** p < 0.001."
OUTSIDE = (
    "nnU-Net v2 from its own package, in an environment of its own: its 2D configuration, fold all, its network, loss, "
    "optimiser, augmentation and schedule for so many steps (its own schedule has 250000). It sees the slices that our "
    "rows see, as they are normalised for those; structures that scans show but do not label are background to it; it "
    "reads no unlabelled scan. Its probabilities take the path of our own predictions, names decoded and raw. There is "
    "no common warm start: all its steps are its own."
)


class Column(NamedTuple):
    """Scores that stand below each other: of so many labelled patients, one read-out and one measure."""

    labelled: int
    readout: Readout
    measure: str


def overview_table(benchmark: Benchmark) -> Table | None:
    """Mean Dice of all methods, every read-out in one table, a decimal each; None if no run was scored.

    Ablations have a table of their own. The best of each column is bold, rows with all labels aside.
    """
    seeds = most_seeds(benchmark)
    columns = {
        (_head(n, seeds[n]), r.section + ("" if r.variant == "raw" else f", {r.variant}")): Column(n, r, "mdice")
        for n in benchmark.labelled
        for r in READOUTS
        if benchmark.has(r)
    }
    caption = (
        "Mean Dice, %, mean ± deviation over seeds (n in a cell where there are fewer), of test patients and of the "
        "unlabelled ones of training; decoded: names put in the order of the spine, named: by the geometry of the "
        "cohort, for all rows alike."
    )
    return Table("overview", caption, *_scored(benchmark, columns, digits=1)) if columns else None


def score_table(benchmark: Benchmark, readout: Readout, *, paper: bool = False) -> Table | None:
    """Methods by numbers of labelled patients, as the paper's Table 1; None if no run was scored so.

    Ablations have a table of their own. The best of each column is bold, rows with all labels aside. Stars are of the
    patients' Dice against CPS4, over the seeds that both rows have, see `scripts.tools.results.seed_bootstrap`.

    Args:
        benchmark: the runs.
        readout: which patients, which form of the prediction.
        paper: whether the paper's own numbers, on its own data set, stand in columns behind ours.
    """
    seeds = most_seeds(benchmark)
    columns = {
        (_head(n, seeds[n], benchmark.n_cases(n, readout)), HEADS[measure]): Column(n, readout, measure)
        for n in benchmark.labelled
        for measure in MEASURES
        if benchmark.has(readout, measure)
    }
    cells, best = _scored(benchmark, columns, starred=True)
    if cells.empty:
        return None
    bound = [comparisons(benchmark, c.labelled, readout, MEASURES[c.measure]).get(FULL) for c in columns.values()]
    if any(bound) and "Upper bound" in cells.index:
        cells.loc[("Upper bound", "distance of CPS4 to it"), :] = [_points(c) for c in bound]
    caption = f"{readout.title[0].upper()}{readout.title[1:]}, %, mean ± deviation over seeds."
    if any(comparisons(benchmark, c.labelled, readout) for c in columns.values()):
        caption += STARS
    if paper:
        printed = json.loads(PAPER_FILE.read_text(encoding="utf-8"))
        span = f"the paper's, on {printed['data']}: {' / '.join(printed['measures'])}"
        rows = {benchmark.names[m].title: row for m, row in printed["rows"].items() if m in benchmark.names}
        for place, ratio in enumerate(printed["ratios"]):
            numbers = [rows[title][place] if title in rows else None for _, title in cells.index]
            cells[span, ratio] = [" / ".join(f"{value:.2f}" for value in pair) if pair else "–" for pair in numbers]
        caption += f" The last columns are not ours: {printed['source']}, another data set."
    best = best.reindex(index=cells.index, columns=cells.columns, fill_value=False)
    return Table(f"{readout.section}-{readout.variant}", caption, cells, best)


def ablation_table(benchmark: Benchmark, methods: Mapping[str, str], name: str, caption: str) -> Table | None:
    """Mean Dice of some rows and their distance to CPS4; None if fewer than two of them were run.

    Args:
        benchmark: the runs.
        methods: row -> what the table calls it.
        name: of the table.
        caption: what it shows; the reading of the numbers is added.
    """
    found = {method: title for method, title in methods.items() if method in benchmark.names}
    shown = benchmark.shown
    if len(found) < 2 or not shown:
        return None
    columns = {}
    for n in benchmark.labelled:
        most = max(len(benchmark.of(m, n)) for m in found)
        for r in shown:
            head = f"{_head(n, most, benchmark.n_cases(n, r))}, {r.title}"
            compared = [comparisons(benchmark, n, r).get(m) for m in found]
            columns[head, "mDice"] = [over_seeds(benchmark.scores(m, n, r), most) for m in found]
            columns[head, "to CPS4"] = [f"{_points(c, -1)} {stars(c.p) if c else ''}".strip() for c in compared]
    reading = " %, mean ± deviation over seeds; the distance to CPS4, points, with its 95 % interval."
    return Table(name, caption + reading + STARS, pd.DataFrame(columns, pd.Index(found.values(), name="row")))


def steps_table(benchmark: Benchmark) -> Table | None:
    """The ablation of the paper's Fig. 4; None if neither loss was run alone."""
    if REFERENCE not in benchmark.names or not {"token", "pixel"} & benchmark.names.keys():
        return None
    return ablation_table(benchmark, STEPS, "losses", "What each loss of stage 1 adds, as in the paper's Fig. 4.")


def other_ablations_table(benchmark: Benchmark) -> Table | None:
    """Every other row that is called like an overlay of `configs/ablations`."""
    rows = {m: name.title for m, name in benchmark.names.items() if name.group == "Ablations" and m not in STEPS}
    if not rows or REFERENCE not in benchmark.names:
        return None
    rows = {REFERENCE: benchmark.names[REFERENCE].title, **rows}
    return ablation_table(benchmark, rows, "ablations", "CPS4 with one part changed.")


def comparison_table(benchmark: Benchmark) -> Table | None:
    """CPS4 against every other row, on every kind of patients and form of prediction; None without a CPS4 row."""
    found = {r: c for r in READOUTS if (c := _comparisons(benchmark, r))}
    if not found:
        return None
    rows = [(n, m) for n in benchmark.labelled for m in benchmark.names if any((n, m) in c for c in found.values())]
    columns = {r.title: [_record(compared.get(row)) for row in rows] for r, compared in found.items()}
    titles = [(f"{n} labelled", benchmark.names[m].title) for n, m in rows]
    index = pd.MultiIndex.from_tuples(titles, names=["labelled", "CPS4 minus"])
    caption = (
        "Margin of CPS4 in mean Dice, points, with its 95 % interval, over the seeds and patients that both rows "
        "have; in brackets seeds x patients, patients won–lost, and p, corrected for the number of rows at that "
        "number of labelled patients (Holm, 1979), ablations apart from the others. Seeds and patients are drawn "
        "with replacement, the same patients in all drawn seeds (Owen, 2007); the error of the drawn means and "
        "Student's t, with one degree of freedom less than seeds or patients, whichever are fewer, give interval and "
        "p. With three seeds only a large and steady margin is significant; a single seed has neither."
    )
    return Table("comparison", caption, pd.DataFrame(columns, index))


def outside_table(benchmark: Benchmark) -> Table | None:
    """What nnU-Net was given in each of its runs, by the `schedule.json` that it left; None where there is none."""
    rows = []
    for _, run in benchmark.runs.iterrows():
        file = run["folder"] / "schedule.json"
        if file.is_file():
            s = json.loads(file.read_text(encoding="utf-8"))
            rows.append({
                "row": benchmark.names[run["method"]].title, "labelled": run["labelled"], "seed": run["seed"],
                "steps": s["steps"], "slices a step": s["batch_size"], "patch": "x".join(map(str, s["patch_size"])),
                "channels": ", ".join(map(str, s["features_per_stage"])), "mirrored": "yes" if s["mirrored"] else "no",
                "minutes of training": f"{s['training_s'] / 60:.1f}",
            })  # fmt: skip
    return Table("outside", OUTSIDE, pd.DataFrame(rows).astype(str).set_index("row")) if rows else None


def all_columns_table(benchmark: Benchmark) -> Table:
    """results.csv over seeds, per number of labelled patients and method, with steps and resolution.

    Runs of one method that differ in steps or resolution are not averaged: each setting has its row. Of a seed that was
    run twice the last run counts.
    """
    runs = benchmark.lines.drop_duplicates(["method", "labelled", "seed", *COSTS], keep="last")
    runs = runs.assign(method=pd.Categorical(runs["method"], runs["method"].unique()))  # in the order of the file
    measures = [m for m in HEADS if m in runs and runs[m].notna().any()]
    groups = runs.groupby(["labelled", "method", *COSTS], observed=True, dropna=False)
    cells = groups[measures].agg(lambda scores: over_seeds(scores.dropna().tolist(), len(scores)))
    cells.columns = [f"{HEADS[m]} %" for m in measures]
    cells.insert(0, "seeds (n)", groups.size())
    cells = cells.reset_index(list(COSTS)).astype({"steps": "Int64", "stage1_steps": "Int64"}).rename(columns=COSTS)
    cells = cells[[head for head in cells if head not in COSTS.values()] + list(COSTS.values())]
    cells.index = pd.MultiIndex.from_tuples(
        [(f"{n} labelled", method) for n, method in cells.index], names=["labelled", "method"]
    )
    # as objects: pandas 2 hands whole numbers to a function as floats
    text = cells.astype(object).map(lambda cell: "–" if pd.isna(cell) else str(cell))
    return Table("all", "Every row with its steps, over n seeds.", text)


def stars(p: float) -> str:
    """Stars of a p value."""
    return next((text for limit, text in LEVELS if p < limit), "")


def over_seeds(values: Sequence[float], n_runs: int, digits: int = 2) -> str:
    """Mean ± deviation of fractions as percent; n where it is not that of the table, "–" without values."""
    if not values:
        return "–"
    sd = statistics.stdev(values) if len(values) > 1 else math.nan
    text = mean_sd(statistics.fmean(values), sd, digits=digits)
    return text if len(values) == n_runs else f"{text} (n={len(values)})"


def mean_sd(mean: float, sd: float, digits: int = 2) -> str:
    """Two fractions as percent, "55.31 ± 13.56"; the mean alone where the deviation is NaN."""
    return f"{100 * mean:.{digits}f}" + ("" if math.isnan(sd) else f" ± {100 * sd:.{digits}f}")


def _scored(
    benchmark: Benchmark, columns: Mapping[tuple[str, str], Column], *, digits: int = 2, starred: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cells of all methods, ablations aside, by (group, title), and which of them are the best of their column."""
    rows = {
        method: name
        for method, name in benchmark.names.items()
        if name.group != "Ablations" and any(benchmark.scores(method, *column) for column in columns.values())
    }
    seeds = most_seeds(benchmark)

    def cell(method: str, column: Column) -> str:
        text = over_seeds(benchmark.scores(method, *column), seeds[column.labelled], digits)
        tested = comparisons(benchmark, *column[:2]).get(method) if starred and column.measure == "mdice" else None
        return f"{text} {stars(tested.p)}".strip() if tested else text

    def mean(method: str, column: Column) -> float:
        scores = benchmark.scores(method, *column) if method not in ALL_LABELLED else []
        return statistics.fmean(scores) if scores else math.nan

    index = pd.MultiIndex.from_tuples([(name.group, name.title) for name in rows.values()], names=["group", "method"])
    cells = pd.DataFrame({head: [cell(m, column) for m in rows] for head, column in columns.items()}, index)
    means = pd.DataFrame({head: [mean(m, column) for m in rows] for head, column in columns.items()}, index)
    return cells, means.eq(means.max()) & (means.count() > 1)


def _comparisons(benchmark: Benchmark, readout: Readout) -> dict[tuple[int, str], Comparison]:
    """(labelled patients, row) -> CPS4 against it."""
    return {(n, m): c for n in benchmark.labelled for m, c in comparisons(benchmark, n, readout).items()}


def _record(compared: Comparison | None) -> str:
    if compared is None:
        return "–"
    p = "" if math.isnan(compared.p) else ", < 0.001" if compared.p < 0.001 else f", {compared.p:.3f}"
    of = f"{compared.seeds} x {compared.patients}, {compared.wins}–{compared.losses}"
    return f"{_points(compared)} ({of}{p})"


def _points(compared: Comparison | None, sign: int = 1) -> str:
    """A difference in points with its interval, "+5.2 [+1.0, +9.4]"; `sign` -1 turns it round."""
    if compared is None:
        return "–"
    ends = [] if math.isnan(compared.low) else sorted((sign * compared.low, sign * compared.high))
    mean, *interval = (f"{100 * value:+.1f}".replace("-", "−") for value in (sign * compared.mean, *ends))
    return f"{mean} [{', '.join(interval)}]" if interval else mean


def _head(labelled: int, seeds: int, cases: int = 0) -> str:
    patients = f", {cases} patients" if cases else ""
    return f"{labelled} labelled (n = {seeds} seed{'s' * (seeds != 1)}{patients})"


def most_seeds(benchmark: Benchmark) -> dict[int, int]:
    """Number of labelled patients -> seeds of the row that has most; rows with all labels aside."""
    rivals = [m for m in benchmark.names if m not in ALL_LABELLED]
    return {n: max((len(benchmark.of(m, n)) for m in rivals), default=0) for n in benchmark.labelled}
