"""What the runs of a benchmark left in its folder, read into one structure. Needs neither torch nor monai."""

from __future__ import annotations

import csv
import gzip
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ...report.tables import case_means, paired_comparison, pool_runs, read_per_case, read_summary
from .row_names import ALL_LABELLED, REFERENCE, MethodName, in_order, method_name

CASE_FIELDS = (
    "method", "labelled", "seed", "section", "variant", "case", "class_id", "class", "dice", "iou",
    "hd95_mm", "assd_mm",
)  # fmt: skip


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
READOUTS = (TEST, Readout("test", "decoded"), UNLABELLED, Readout("unlabelled", "decoded"))


@dataclass(frozen=True)
class Run:
    """One run of one method.

    Attributes:
        method: name of the row.
        labelled: number of labelled patients.
        seed: of the choice of patients and of the weights.
        row: the line of results.csv.
        folder: what the run left; it need not be there, the line alone gives the means.
    """

    method: str
    labelled: int
    seed: int
    row: Mapping[str, str]
    folder: Path

    def score(self, readout: Readout, measure: str) -> float:
        """`mdice` or `miou` over all cases: from the run's summary, else from results.csv, else NaN."""
        summary = _summary(self.folder / f"network_{readout.section}" / "summary.json")
        part = summary if readout.variant == "raw" else summary.get(readout.variant) or {}
        value = part.get(measure)
        return float(self.row.get(readout.column(measure)) or "nan") if value is None else float(value)

    def cases(self, readout: Readout) -> list[dict[str, Any]]:
        """Scores of every case and class, see :func:`tables.read_per_case`; empty if the run left none."""
        return _cases(self.folder / readout.file)


@dataclass(frozen=True)
class Results:
    """All runs of a benchmark.

    Attributes:
        folder: the benchmark's.
        runs: in the order of results.csv; of a seed that was run twice the last run.
    """

    folder: Path
    runs: tuple[Run, ...]

    @cached_property
    def names(self) -> dict[str, MethodName]:
        """Row -> title and group, in the order of the tables."""
        found = {
            run.method: method_name(run.method, uses_prompts=float(run.row.get("stage1_steps") or 0) > 0)
            for run in self.runs
        }
        return {method: found[method] for method in in_order(found)}

    @cached_property
    def labelled(self) -> list[int]:
        """Numbers of labelled patients; that of all patients is not among them unless there is nothing else."""
        fewer = {run.labelled for run in self.runs if run.method not in ALL_LABELLED}
        return sorted(fewer or {run.labelled for run in self.runs})

    def of(self, method: str, labelled: int) -> list[Run]:
        """Runs of a row at a number of labelled patients; runs on all labels belong to every number."""
        everywhere = method in ALL_LABELLED
        return [r for r in self.runs if r.method == method and (everywhere or r.labelled == labelled)]

    def scores(self, method: str, labelled: int, readout: Readout, measure: str = "mdice") -> list[float]:
        """One mean over cases for every seed that has it."""
        found = [run.score(readout, measure) for run in self.of(method, labelled)]
        return [score for score in found if not math.isnan(score)]

    def has(self, readout: Readout) -> bool:
        """Whether any run was scored so."""
        return any(not math.isnan(run.score(readout, "mdice")) for run in self.runs)

    def compare(
        self, other: str, labelled: int, readout: Readout, measure: str = "dice", reference: str = REFERENCE
    ) -> dict[str, float] | None:
        """CPS4 against another row, patient by patient, over the seeds that both have; None if they share no case."""
        return _compared(self, reference, other, labelled, readout, measure)

    def class_means(self, method: str, labelled: int, readout: Readout) -> dict[str, list[float]]:
        """Class -> mean Dice over the cases that show it, one number a seed."""
        found: dict[str, list[float]] = {}
        for run in self.of(method, labelled):
            values: dict[str, list[float]] = {}
            for row in run.cases(readout):
                if not math.isnan(row["dice"]):
                    values.setdefault(row["class"], []).append(row["dice"])
            for name, dice in values.items():
                found.setdefault(name, []).append(statistics.fmean(dice))
        return found

    def n_cases(self, labelled: int, readout: Readout) -> int:
        """Patients that were scored in at least one run."""
        runs = [run for run in self.runs if run.labelled == labelled]
        return len({row["case"] for run in runs for row in run.cases(readout)})

    def __hash__(self) -> int:
        """By identity: results are read once and never change."""
        return id(self)


def read_results(folder: str | Path) -> Results:
    """Read the folder that `benchmark accuracy` left.

    Raises:
        FileNotFoundError: there is no results.csv.
        ValueError: it holds no run.
    """
    folder = Path(folder)
    table = folder / "results.csv"
    if not table.is_file():
        raise FileNotFoundError(f"there is no {table}; run python -m scripts benchmark accuracy --out {folder}")
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{table} holds no run yet")
    runs = {
        (r["method"], r["labelled"], r["seed"]): Run(
            r["method"], int(r["labelled"]), int(r["seed"]), r, folder / f"{r['method']}_{r['labelled']}_{r['seed']}"
        )
        for r in rows
    }
    return Results(folder, tuple(runs.values()))


def write_cases(results: Results, path: str | Path, largest: int = 5_000_000) -> Path:
    """Gather the scores of every run, case and class in one CSV file; what was not scored has no line.

    Args:
        results: the runs.
        path: CSV file to write, compressed if its name ends with .gz; the same scores give the same bytes.
        largest: bytes of text beyond which the distances are left out.
    """
    texts = [_cases_csv(results, CASE_FIELDS)]
    if len(texts[0].encode()) > largest:
        texts.append(_cases_csv(results, CASE_FIELDS[:-2]))
    target = Path(path)
    content = texts[-1].encode()
    target.write_bytes(gzip.compress(content, mtime=0) if target.suffix == ".gz" else content)
    return target


def _cases_csv(results: Results, fields: tuple[str, ...]) -> str:
    lines = [",".join(fields)]
    for run in results.runs:
        for readout in READOUTS:
            start = {"method": run.method, "labelled": run.labelled, "seed": run.seed} | readout._asdict()
            for row in run.cases(readout):
                if not math.isnan(row["dice"]):
                    lines.append(",".join(_cell(value) for value in ({**start, **row}[f] for f in fields)))
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    text = str(value)
    return f'"{text}"' if "," in text else text


@cache
def _summary(path: Path) -> dict[str, Any]:
    return read_summary(path) if path.is_file() else {}


@cache
def _cases(path: Path) -> list[dict[str, Any]]:
    return read_per_case(path) if path.is_file() else []


@cache
def _compared(
    results: Results, first: str, second: str, labelled: int, readout: Readout, measure: str
) -> dict[str, float] | None:
    pair = [{run.seed: run for run in results.of(method, labelled)} for method in (first, second)]
    shared = sorted(pair[0].keys() & pair[1].keys())
    pooled = [pool_runs(case_means(runs[seed].cases(readout), measure) for seed in shared) for runs in pair]
    return paired_comparison(*pooled) if pooled[0].keys() & pooled[1].keys() else None
