"""Tables of all methods of a benchmark: scores in the shape of the paper's Table 1, ablations, paired comparison.

Percent, mean ± standard deviation; n is in the heads, or in the cell where it differs from the head's.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...report.tables import EXACT_UP_TO, mean_sd, over_seeds
from .benchmark_folder import READOUTS, TEST, UNLABELLED, Readout, Results
from .layout import Table
from .row_names import ALL_LABELLED, FULL, REFERENCE, STEPS

PAPER_FILE = Path(__file__).with_name("paper.json")
MEASURES = {"mdice": ("mDice", "dice"), "miou": ("mIoU", "iou")}
"""Mean over cases -> its head, and the column of per_case.csv behind it."""
LEVELS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))


class Column(NamedTuple):
    """Scores that stand below each other: of so many labelled patients, one read-out and one measure."""

    labelled: int
    readout: Readout
    measure: str


def overview_table(results: Results) -> Table | None:
    """Mean Dice of all methods, every read-out in one table, a decimal each; None if no run was scored.

    Ablations have a table of their own. The best of each column is bold, rows with all labels aside.
    """
    shown = [r for r in READOUTS if results.has(r)]
    columns = [Column(n, r, "mdice") for n in results.labelled for r in shown]
    if not columns:
        return None
    seeds = _most_seeds(results)
    scored, best = _scored(results, columns, seeds, digits=1)
    groups = [(group, list(rows.values())) for group, rows in scored.items()]
    spans = [("", 1)] + [(_head(n, seeds[n]), len(shown)) for n in results.labelled]
    heads = [c.readout.section + (", decoded" if c.readout.variant == "decoded" else "") for c in columns]
    caption = (
        "Mean Dice, %, mean ± deviation over seeds (n in a cell where there are fewer), of test patients and of the "
        "unlabelled ones of training; decoded: names put in the order of the spine, for all rows alike."
    )
    return Table("overview", caption, ["method", *heads], groups, spans, best)


def score_table(results: Results, readout: Readout, *, paper: bool = False) -> Table | None:
    """Methods by numbers of labelled patients, as the paper's Table 1; None if no run was scored so.

    Ablations have a table of their own. The best of each column is bold, rows with all labels aside. Stars are of the
    paired test of the patients' Dice against CPS4, over the seeds that both rows have.

    Args:
        results: the runs.
        readout: which patients, which form of the prediction.
        paper: whether the paper's own numbers, on its own data set, stand in columns behind ours.
    """
    measures = [m for m in MEASURES if any(results.scores(r.method, r.labelled, readout, m) for r in results.runs)]
    printed = json.loads(PAPER_FILE.read_text(encoding="utf-8")) if paper else {"ratios": [], "rows": {}}
    n_seeds = _most_seeds(results)
    columns = [Column(n, readout, m) for n in results.labelled for m in measures]
    scored, best = _scored(results, columns, n_seeds, starred=True)
    if not scored:
        return None
    groups = {group: [[*row, *_printed(m, printed)] for m, row in rows.items()] for group, rows in scored.items()}
    if "Upper bound" in groups:
        distance = _distance(results, readout, measures)
        groups["Upper bound"] += [[*row, *["–"] * len(printed["ratios"])] for row in distance]
    spans = [("", 1)]
    spans += [(_head(n, n_seeds[n], results.n_cases(n, readout)), len(measures)) for n in results.labelled]
    heads = ["method", *(MEASURES[c.measure][0] for c in columns), *printed["ratios"]]
    caption = f"{readout.title[0].upper()}{readout.title[1:]}, %, mean ± deviation over seeds."
    caption += _test_note(results, readout)
    if paper:
        spans.append((f"the paper's, on {printed['data']}: {' / '.join(printed['measures'])}", len(printed["ratios"])))
        caption += f" The last columns are not ours: {printed['source']}, another data set."
    name = f"{readout.section}-{readout.variant}"
    return Table(name, caption, heads, list(groups.items()), spans, best)


def ablation_table(results: Results, methods: Mapping[str, str], name: str, caption: str) -> Table | None:
    """Mean Dice of some rows and their distance to CPS4; None if fewer than two of them were run.

    Args:
        results: the runs.
        methods: row -> what the table calls it.
        name: of the table.
        caption: what it shows; the reading of the numbers is added.
    """
    found = {method: title for method, title in methods.items() if method in results.names}
    shown = [r for r in (TEST, UNLABELLED) if results.has(r)]
    if len(found) < 2 or not shown:
        return None
    cells = [(labelled, readout) for labelled in results.labelled for readout in shown]
    most = {n: max(len(results.of(m, n)) for m in found) for n in results.labelled}
    rows = []
    for method, title in found.items():
        row = [title]
        for labelled, readout in cells:
            row.append(over_seeds(results.scores(method, labelled, readout), most[labelled]))
            compared = results.compare(method, labelled, readout) if method != REFERENCE else None
            row.append(f"{_points(-compared['mean'], compared['sd'])} {stars(compared['p'])}" if compared else "–")
        rows.append([cell.strip() for cell in row])
    spans = [("", 1)]
    spans += [(f"{_head(n, most[n], results.n_cases(n, r))}, {r.section}", 2) for n, r in cells]
    columns = ["row", *(head for _ in cells for head in ("mDice", "to CPS4"))]
    reading = " %, mean ± deviation over seeds; the distance to CPS4 (points) ± its deviation over patients."
    return Table(name, caption + reading + STARS, columns, [("", rows)], spans)


def steps_table(results: Results) -> Table | None:
    """The ablation of the paper's Fig. 4; None if neither loss was run alone."""
    if REFERENCE not in results.names or not {"token", "pixel"} & results.names.keys():
        return None
    return ablation_table(results, STEPS, "losses", "What each loss of stage 1 adds, as in the paper's Fig. 4.")


def other_ablations_table(results: Results) -> Table | None:
    """Every other row that is called like an overlay of `configs/ablations`."""
    rows = {m: name.title for m, name in results.names.items() if name.group == "Ablations" and m not in STEPS}
    if not rows or REFERENCE not in results.names:
        return None
    return ablation_table(
        results, {REFERENCE: results.names[REFERENCE].title, **rows}, "ablations", "CPS4 with one part changed."
    )


def comparison_grid(results: Results) -> Table | None:
    """CPS4 against every other row, on every kind of patients and form of prediction; None without a CPS4 row."""
    shown = [r for r in READOUTS if any(results.compare(m, n, r) for m, n in _pairs(results))]
    if not shown:
        return None
    groups = []
    sizes: dict[Readout, int] = {
        r: max(int(c["n"]) for m, n in _pairs(results) if (c := results.compare(m, n, r))) for r in shown
    }
    for labelled in results.labelled:
        rows = []
        for method, name in results.names.items():
            compared = [results.compare(method, labelled, r) for r in shown] if method != REFERENCE else [None]
            if any(compared):
                cells = [_comparison(c, sizes[r]) for c, r in zip(compared, shown, strict=True)]
                rows.append([name.title, *cells])
        groups.append((f"{labelled} labelled", rows))
    columns = ["CPS4 minus", *(f"{r.title} (n = {sizes[r]})" for r in shown)]
    caption = (
        "Margin of CPS4 in mean Dice, points ± its deviation over patients, each patient's score averaged over the "
        "seeds that both rows have; in brackets patients won–lost, and p of the two-sided sign-flip test."
    )
    return Table("comparison", caption, columns, [g for g in groups if g[1]])


def outside_table(results: Results) -> Table | None:
    """What nnU-Net was given in each of its runs, by the `schedule.json` that it left; None where there is none."""
    rows = []
    for run in results.runs:
        file = run.folder / "schedule.json"
        if file.is_file():
            s = json.loads(file.read_text(encoding="utf-8"))
            sizes = ["x".join(map(str, s["patch_size"])), ", ".join(map(str, s["features_per_stage"]))]
            numbers = map(str, (run.labelled, run.seed, s["steps"], s["batch_size"]))
            mirrored, minutes = "yes" if s["mirrored"] else "no", f"{s['training_s'] / 60:.1f}"
            rows.append([results.names[run.method].title, *numbers, *sizes, mirrored, minutes])
    if not rows:
        return None
    columns = [
        "row", "labelled", "seed", "steps", "slices a step", "patch", "channels", "mirrored", "minutes of training",
    ]  # fmt: skip
    return Table("outside", OUTSIDE, columns, [("", rows)])


OUTSIDE = (
    "nnU-Net v2 from its own package, in an environment of its own: its 2D configuration, fold all, its network, loss, "
    "optimiser, augmentation and schedule for so many steps (its own schedule has 250000). It sees the slices that our "
    "rows see, as they are normalised for those; structures that scans show but do not label are background to it; it "
    "reads no unlabelled scan. Its probabilities take the path of our own predictions, names decoded and raw. There is "
    "no common warm start: all its steps are its own."
)
STARS = " Paired test against CPS4: * p < 0.05, ** p < 0.01, *** p < 0.001."


def stars(p: float) -> str:
    """Stars of a p value."""
    return next((text for limit, text in LEVELS if p < limit), "")


def _pairs(results: Results) -> Iterable[tuple[str, int]]:
    return [(m, n) for m in results.names if m != REFERENCE for n in results.labelled]


def _stars(results: Results, method: str, labelled: int, readout: Readout) -> str:
    compared = results.compare(method, labelled, readout) if method != REFERENCE else None
    return stars(compared["p"]) if compared else ""


def _comparison(compared: Mapping[str, float] | None, n: int) -> str:
    if compared is None:
        return "–"
    p = "< 0.001" if compared["p"] < 0.001 else f"{compared['p']:.3f}"
    record = f"{compared['wins']:.0f}–{compared['losses']:.0f}, {p}"
    return f"{_points(compared['mean'], compared['sd'])} ({record}" + (
        ")" if compared["n"] == n else f", n = {compared['n']:.0f})"
    )


def _points(mean: float, sd: float) -> str:
    return mean_sd(mean, sd, sign="+").replace("-", "−")


def _head(labelled: int, seeds: int, cases: int = 0) -> str:
    patients = f", {cases} patients" if cases else ""
    return f"{labelled} labelled (n = {seeds} seed{'s' * (seeds != 1)}{patients})"


def _test_note(results: Results, readout: Readout) -> str:
    """The stars' meaning, and how small p can become with so few patients; nothing where nothing was compared."""
    compared = [c for m, n in _pairs(results) if (c := results.compare(m, n, readout))]
    if not compared:
        return ""
    n = max(int(c["n"]) for c in compared)
    least = 2 / 2**n
    small = f" With {n} patients p is at least {least:.2g}, whatever the scores." if n <= EXACT_UP_TO else ""
    return STARS + (small if least >= 0.001 else "")


def _distance(results: Results, readout: Readout, measures: list[str]) -> list[list[str]]:
    """The row of CPS4's distance to the upper bound, over patients."""
    cells = []
    for labelled in results.labelled:
        for measure in measures:
            compared = results.compare(FULL, labelled, readout, MEASURES[measure][1])
            cells.append(_points(compared["mean"], compared["sd"]) if compared else "–")
    return [["distance of CPS4 to it, over patients", *cells]] if set(cells) != {"–"} else []


def _most_seeds(results: Results) -> dict[int, int]:
    """Number of labelled patients -> seeds of the row that has most; rows with all labels aside."""
    rivals = [m for m in results.names if m not in ALL_LABELLED]
    return {n: max((len(results.of(m, n)) for m in rivals), default=0) for n in results.labelled}


def _scored(
    results: Results, columns: Sequence[Column], n_seeds: Mapping[int, int], *, digits: int = 2, starred: bool = False
) -> tuple[dict[str, dict[str, list[str]]], frozenset[tuple[int, int]]]:
    """Group -> method -> its title and cells, ablations aside, and (row, column) of the best of each column."""
    groups: dict[str, dict[str, list[str]]] = {}
    for method, (title, group) in results.names.items():
        if group != "Ablations" and any(results.scores(method, *column) for column in columns):
            groups.setdefault(group, {})[method] = [title]
    best = set()
    methods = [method for rows in groups.values() for method in rows]
    for number, column in enumerate(columns, 1):
        means: dict[int, float] = {}
        for place, method in enumerate(methods):
            values = results.scores(method, *column)
            if values and method not in ALL_LABELLED:
                means[place] = statistics.fmean(values)
            mark = _stars(results, method, *column[:2]) if starred and column.measure == "mdice" else ""
            cell = over_seeds(values, n_seeds[column.labelled], digits)
            groups[results.names[method].group][method].append(f"{cell} {mark}".strip())
        if len(means) > 1:
            best |= {(place, number) for place, mean in means.items() if mean == max(means.values())}
    return groups, frozenset(best)


def _printed(method: str, printed: Mapping[str, Any]) -> list[str]:
    """The paper's cells of a row, "–" where it has none."""
    rows = printed["rows"]
    found = rows.get(method) or [None] * len(printed["ratios"])
    return [" / ".join(f"{value:.2f}" for value in cell) if cell else "–" for cell in found]
