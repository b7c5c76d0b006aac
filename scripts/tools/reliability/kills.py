"""Kill trainings of both stages at random moments, resume them, and compare the results bit for bit.

The runs are tests, `tests/reliability/test_kills.py`; this command runs them and writes the outcomes.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..figures_file import RELIABILITY, add_figures, read_figures, replace_rows
from .pytest_report import run_tests


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m scripts benchmark kills`."""
    add = parser.add_argument
    add("--out", type=Path, default=RELIABILITY, help="file to add to")
    add("--only", metavar="WORDS", help="tests that these words name (pytest's -k), as 'stage1'")
    add("--cases", type=int, default=4, help="runs of each stage; each is killed once in every phase")
    add("--seed", type=int, default=0, help="of the moments; rows of other seeds stay in the file")


def run(args: argparse.Namespace) -> int:
    """Run the tests; write `kills_survived` and `kills`; return 1 if a resumed run ended otherwise."""
    only = ["-k", args.only] if args.only else []
    test = "tests/reliability/test_kills.py::test_resumed_runs_end_as_an_uninterrupted_one"
    counts, found = run_tests(["-m", "", test, "--cases", str(args.cases), "--seed", str(args.seed), *only])
    rows = replace_rows(read_figures(args.out).get("kills", []), found["kill"], "stage", "seed", "chain")
    rows.sort(key=lambda row: (row["stage"], row["seed"], row["chain"]))
    add_figures(args.out, summary(rows))
    print(f"{sum(row['survived'] for row in found['kill'])} of {len(found['kill'])} kills survived: {args.out}")
    return int(counts["failed"] > 0 or not found["kill"])


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows, and the number of survived kills, in all and by phase."""
    survived = Counter(f"{row['stage']}, {row['phase']}" for row in rows if row["survived"])
    by_phase = dict(sorted(survived.items()))
    return {"kills_survived": survived.total(), "kills_survived_by_phase": by_phase, "kills": list(rows)}
