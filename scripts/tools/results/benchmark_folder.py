"""The folder that `benchmark accuracy` left, read into pandas tables: a line a run, a line a case and class.

Rows that an earlier report published can stand beside those of a folder. Needs neither torch nor monai.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ...labels import LEVEL_RIGHT, ClassTable
from .row_names import ALL_LABELLED, LITERAL, REFERENCE, MethodName, in_order, method_name, with_our_stage1

MEASURES = {"mdice": "dice", "miou": "iou"}
"""Mean over cases -> the column of per_case.csv behind it."""
CASE_FIELDS = [
    "method", "labelled", "seed", "section", "variant", "case", "class_id", "class", "dice", "iou",
    "hd95_mm", "assd_mm",
]  # fmt: skip
RUN = CASE_FIELDS[:3]
"""What tells one run from another."""


class Readout(NamedTuple):
    """Which patients were scored, and which form of the prediction."""

    section: str
    variant: str

    @property
    def title(self) -> str:
        """In words, such as "test patients" or "test patients, decoded levels"."""
        return f"{self.section} patients" + ("" if self.variant == "raw" else f", {self.variant} levels")

    @property
    def file(self) -> str:
        """Scores of every case and class, below the folder of a run."""
        name = "per_case.csv" if self.variant == "raw" else f"per_case_{self.variant}.csv"
        return f"network_{self.section}/{name}"

    def column(self, measure: str) -> str:
        """Column of results.csv that holds the mean over the cases."""
        before = "" if self.section == "test" else f"{self.section}_"
        return f"{before}{measure}" + ("" if self.variant == "raw" else f"_{self.variant}")


TEST, UNLABELLED = Readout("test", "raw"), Readout("unlabelled", "raw")
READOUTS = tuple(Readout(s, v) for s in ("test", "unlabelled") for v in ("raw", "decoded", "named"))


@dataclass(frozen=True, eq=False)
class Benchmark:
    """All runs of a benchmark.

    Attributes:
        folder: the benchmark's.
        lines: results.csv as it stands, behind the published lines of other runs.
        runs: the same, of a seed that was run twice the last run; the scores are those of the run's summary.json where
            there is one, to all digits, and `folder` is the run's, which need not be there.
        cases: scores of every run, case and class, with the columns `CASE_FIELDS`; what was not scored has no line.
    """

    folder: Path
    lines: pd.DataFrame
    runs: pd.DataFrame
    cases: pd.DataFrame

    @cached_property
    def names(self) -> dict[str, MethodName]:
        """Row -> title and group, in the order of the tables."""
        steps = self.runs.groupby("method")["stage1_steps"].max()
        found = {method: method_name(method, uses_prompts=pd.notna(n) and n > 0) for method, n in steps.items()}
        ordered = {method: found[method] for method in in_order(found)}
        if LITERAL in ordered and self._share_maps(LITERAL, REFERENCE):
            ordered[LITERAL] = with_our_stage1(ordered[LITERAL])
        return ordered

    @cached_property
    def labelled(self) -> list[int]:
        """Numbers of labelled patients; that of all patients is not among them unless there is nothing else."""
        fewer = self.runs[~self.runs["method"].isin(ALL_LABELLED)]
        return sorted((self.runs if fewer.empty else fewer)["labelled"].unique().tolist())

    @cached_property
    def _runs_of(self) -> dict[str, pd.DataFrame]:
        return dict(iter(self.runs.groupby("method")))

    def _share_maps(self, one: str, other: str) -> bool:
        """Whether the prompt-guided maps of two rows score alike in every cell: both took the same stage 1."""
        maps = self.runs.pivot(index=["labelled", "seed"], columns="method", values="map_mdice")[[one, other]].dropna()
        return not maps.empty and bool((maps[one] == maps[other]).all())

    @cached_property
    def patients(self) -> pd.DataFrame:
        """Scores of every patient, with the columns of `cases` up to `case`, and two kinds more.

        - `dice`, `iou`: means over the classes;
        - `right`: whether every level from L5 to L1 that the label holds is right, None where it holds none.
        """
        means = self.cases.groupby(CASE_FIELDS[:6])[list(MEASURES.values())].mean()
        judged = self.cases[self.cases["class_id"].isin(ClassTable.load().judged_levels)]
        lowest = judged.groupby(CASE_FIELDS[:6])["dice"].min().reindex(means.index)
        means["right"] = (lowest > LEVEL_RIGHT).astype(object).where(lowest.notna(), None)
        return means.reset_index()

    def of(self, method: str, labelled: int) -> pd.DataFrame:
        """Runs of a row at a number of labelled patients; runs on all labels belong to every number."""
        mine = self._runs_of.get(method, self.runs[:0])
        return mine if method in ALL_LABELLED else mine[mine["labelled"] == labelled]

    def scores(self, method: str, labelled: int, readout: Readout, measure: str = "mdice") -> list[float]:
        """One mean over cases for every seed that has it."""
        return self.of(method, labelled)[readout.column(measure)].dropna().tolist()

    def has(self, readout: Readout, measure: str = "mdice") -> bool:
        """Whether any run was scored so."""
        return bool(self.runs[readout.column(measure)].notna().any())

    def written(self, section: str) -> Readout:
        """The last of raw, decoded and named levels that any run has: what label maps hold, and pages show."""
        return [r for r in READOUTS if r.section == section and (r.variant == "raw" or self.has(r))][-1]

    @property
    def shown(self) -> list[Readout]:
        """What charts show, of the patients that were scored."""
        return [r for r in map(self.written, ("test", "unlabelled")) if self.has(r)]

    def patient_means(self, method: str, labelled: int, readout: Readout, measure: str = "dice") -> pd.DataFrame:
        """Means over the classes of each patient: a line for each seed, a column for each patient."""
        found = self._scored(self.patients, method, labelled, readout)
        return found.pivot(index="seed", columns="case", values=measure)

    def levels(self, method: str, labelled: int, readout: Readout) -> pd.DataFrame:
        """Patients of every seed whose levels could be judged, with the columns of `patients`; `right` is bool."""
        found = self._scored(self.patients, method, labelled, readout)
        return found[found["right"].notna()].astype({"right": bool})

    def class_means(self, method: str, labelled: int, readout: Readout) -> dict[str, list[float]]:
        """Class -> mean Dice over the cases that show it, one number a seed."""
        scored = self._scored(self.cases, method, labelled, readout)
        means = scored.groupby(["class", "seed"])["dice"].mean()
        return means.groupby("class").agg(list).to_dict()

    def n_cases(self, labelled: int, readout: Readout) -> int:
        """Patients that were scored in at least one run."""
        at = self.patients[self.patients["labelled"] == labelled]
        return int(at["case"][(at["section"] == readout.section) & (at["variant"] == readout.variant)].nunique())

    def _scored(self, scores: pd.DataFrame, method: str, labelled: int, readout: Readout) -> pd.DataFrame:
        """Lines of `cases` or `patients` that belong to one row and read-out."""
        mine = scores[scores["method"] == method]
        if method not in ALL_LABELLED:
            mine = mine[mine["labelled"] == labelled]
        return mine[(mine["section"] == readout.section) & (mine["variant"] == readout.variant)]


def read_benchmark(folder: str | Path, published: str | Path | None = None) -> Benchmark:
    """Read the folder that `benchmark accuracy` left.

    Args:
        folder: the benchmark's.
        published: START of an earlier report's `START.csv` and `START_per_case.csv.gz`; their runs that the folder does
            not hold are read, too.

    Raises:
        FileNotFoundError: there is no results.csv, or a file of the earlier report is missing.
        ValueError: it holds no run, or the published runs saw slices of another size.
    """
    folder = Path(folder)
    table = folder / "results.csv"
    if not table.is_file():
        raise FileNotFoundError(f"there is no {table}; run python -m scripts benchmark accuracy --out {folder}")
    steps = {"steps": "Int64", "stage1_steps": "Int64"}
    lines, elsewhere = pd.read_csv(table, dtype=steps), pd.DataFrame(columns=CASE_FIELDS)
    there: set[str] = set()  # published runs
    if published is not None:
        before = _absent(pd.read_csv(f"{published}.csv", dtype=steps), lines)
        elsewhere = _absent(pd.read_csv(f"{published}_per_case.csv.gz", dtype={"case": str}), lines)
        if "resolution" in lines and (other := {*before["resolution"]} - {*lines["resolution"]}):
            here = ", ".join(sorted({*lines["resolution"]}))
            raise ValueError(f"{published}.csv holds runs at {', '.join(sorted(other))} pixels, {folder} at {here}")
        there = {*_names(before)}
        lines = pd.concat([before, lines], ignore_index=True)[[*lines]]
    if lines.empty:
        raise ValueError(f"{table} holds no run yet")
    last = lines.drop_duplicates(RUN, keep="last")
    runs = last.assign(folder=[folder / name for name in _names(last)]).sort_values(["labelled", "method", "seed"])
    columns = {readout.column(measure): math.nan for readout in READOUTS for measure in MEASURES}
    found = [
        {**columns, **run, **({} if run["folder"].name in there else _summaries(run["folder"]))}
        for run in runs.to_dict("records")
    ]
    runs = pd.DataFrame(found)
    cases = _read_cases(runs, elsewhere)
    return Benchmark(folder, lines, _with_means(runs, cases, there), cases)


def _names(table: pd.DataFrame) -> pd.Series:
    """Names of the runs' folders."""
    return table[RUN].astype(str).agg("_".join, axis=1)


def _absent(published: pd.DataFrame, lines: pd.DataFrame) -> pd.DataFrame:
    """Lines of runs that a benchmark's folder does not hold."""
    return published[~_names(published).isin(_names(lines))]


def write_lines(lines: pd.DataFrame, path: str | Path) -> None:
    """Write results.csv; fractions with four digits."""
    lines.to_csv(path, index=False, float_format="%.4f", lineterminator="\n")


def write_cases(cases: pd.DataFrame, path: str | Path, largest: int = 5_000_000) -> Path:
    """Write the scores of every run, case and class as one CSV file.

    Args:
        cases: of a benchmark.
        path: CSV file to write, compressed if its name ends with .gz; the same scores give the same bytes.
        largest: bytes of text beyond which the distances are left out.
    """
    form = {"index": False, "float_format": "%.4g", "lineterminator": "\n"}
    content = cases.to_csv(**form).encode()
    if len(content) > largest:
        content = cases[CASE_FIELDS[:-2]].to_csv(**form).encode()
    target = Path(path)
    target.write_bytes(gzip.compress(content, mtime=0) if target.suffix == ".gz" else content)
    return target


def _summaries(folder: Path) -> dict[str, float]:
    """Scores that a run's summary.json files hold, by their columns in results.csv."""
    found = {}
    for readout in READOUTS:
        file = folder / f"network_{readout.section}" / "summary.json"
        summary = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        part = summary if readout.variant == "raw" else summary.get(readout.variant) or {}
        found.update({readout.column(m): part[m] for m in MEASURES if part.get(m) is not None})
    return found


def _with_means(runs: pd.DataFrame, cases: pd.DataFrame, published: Set[str]) -> pd.DataFrame:
    """Runs, with the means over the cases of published ones where results.csv has no column for them."""
    mine = cases[_names(cases).isin(published)] if len(cases) else cases
    by_case = mine.groupby(CASE_FIELDS[:6])[list(MEASURES.values())].mean()
    means = by_case.groupby(level=CASE_FIELDS[:5]).mean()
    runs = runs.copy()
    for (*run, section, variant), mean in means.iterrows():
        at = (runs[RUN] == run).all(axis=1)
        for measure, score in MEASURES.items():
            column = Readout(str(section), str(variant)).column(measure)
            runs.loc[at & runs[column].isna(), column] = mean[score]
    return runs


def _read_cases(runs: pd.DataFrame, elsewhere: pd.DataFrame) -> pd.DataFrame:
    """Scores of all cases, those of published runs among them, in the order of the runs."""
    published = dict(iter(elsewhere.groupby(_names(elsewhere)))) if len(elsewhere) else {}
    parts = []
    for _, run in runs.iterrows():
        if run["folder"].name in published:
            parts.append(published[run["folder"].name].reindex(columns=CASE_FIELDS))
            continue
        files = [(readout, run["folder"] / readout.file) for readout in READOUTS]
        parts += [
            pd.read_csv(file, dtype={"case": str}).assign(**run[RUN], **readout._asdict())
            for readout, file in files
            if file.is_file()
        ]
    cases = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=CASE_FIELDS)
    return cases.dropna(subset="dice")[CASE_FIELDS]
