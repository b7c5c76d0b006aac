"""Give bad and unusual files and settings to all commands, and test scans of all orientations.

The cases are tests, `tests/reliability/`; this command runs them and writes a table of the outcomes.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...files import write_whole
from ..figures_file import RELIABILITY, add_figures, read_figures, replace_rows
from .pytest_report import run_tests

FILES = [f"tests/reliability/test_{name}.py" for name in ("bad_scans", "bad_lists", "bad_runs", "orientations")]
SAID = ("inference", "check", "prepare", "run")
"""Keys of a row's messages."""
PARTS = ("scans", "lists", "folders", "runs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m scripts benchmark bad_input`."""
    add = parser.add_argument
    add("--out", type=Path, default=RELIABILITY, help="file to add to; the table bad_input.md is written beside it")
    add("--only", metavar="WORDS", help="tests that these words name (pytest's -k); the others' rows stay")
    add("--cases", type=int, default=3, help="random files of every kind of scan")
    add("--seed", type=int, default=0, help="of the random files")


def run(args: argparse.Namespace) -> int:
    """Run the tests; write rows and table if all pass, else return 1."""
    only = ["-k", args.only] if args.only else []
    counts, found = run_tests(["-m", "", *FILES, "--cases", str(args.cases), "--seed", str(args.seed), *only])
    if counts["failed"] or not found:
        print(f"{counts['failed']} tests failed, {counts['passed']} passed: nothing is written")
        return 1
    before = read_figures(args.out) if args.only else {}
    rows = replace_rows(before.get("bad_input_rows", []), found["bad_input"], "part", "kind")
    rows.sort(key=lambda row: PARTS.index(row["part"]))
    axes = ("axes", "spacing_mm", "turned_degrees")
    turned = replace_rows(before.get("orientation_rows", []), found["orientation"], *axes)
    kinds = len({row["kind"] for row in rows})
    figures = {"bad_inputs": len(rows), "bad_input_kinds": kinds, "orientations": len(turned)}
    add_figures(args.out, {**figures, "bad_input_rows": rows, "orientation_rows": turned})
    table = args.out.with_name("bad_input.md")
    write_whole(table, markdown(rows, turned))
    print(f"{len(rows)} inputs of {kinds} kinds, {len(turned)} orientations: {args.out}, {table}")
    return 0


def markdown(rows: Sequence[dict[str, Any]], turned: Sequence[dict[str, Any]]) -> str:
    """Table of the kinds: number of inputs, how many were refused and accepted, message for the first."""
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        kinds[row["kind"]].append(row)
    off = max((row["off_voxels"] for row in turned), default=0.0)
    lines = [
        "# Bad and unusual input",
        "",
        "Written by `python -m scripts benchmark bad_input`; each input is listed in `reliability.json`.",
        "",
        f"{len(rows)} inputs of {len(kinds)} kinds. {len(turned)} orientations in {len({r['axes'] for r in turned})} "
        f"orders of axes: a marked voxel was labelled at most {off:.2f} voxels from its place.",
        "",
        "| kind | inputs | refused | accepted | message for the first |",
        "|---|---:|---:|---:|---|",
    ]
    for kind, of in kinds.items():
        said = next(
            (row[key][0] for row in of for key in ("inference", "check", "prepare", "run") if row.get(key)), "none"
        )
        refused = sum(row["outcome"] == "refused" for row in of)
        lines.append(f"| {kind} | {len(of)} | {refused} | {len(of) - refused} | {_cell(said)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Escape a message for a table, and cut folders off its paths."""
    words = [Path(word.rstrip(":,;")).name + (word[-1] if word[-1] in ":,;" else "") if "/" in word[:1] else word
             for word in text.split()]  # fmt: skip
    return " ".join(words).replace("|", "\\|").replace("<", "&lt;")
