"""`python -m scripts report DIR`: a Markdown page of the runs that `benchmark accuracy` left in a folder."""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

from .tables import case_means, comparison_table, paired_comparison, pool_runs, read_per_case, spider_table

REFERENCE = "cps4"
START, END = "<!-- results -->", "<!-- /results -->"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", type=Path, help="the benchmark's --out")
    parser.add_argument("--name", default="results", help="name of the CSV file and of the page, without ending")
    parser.add_argument("--title", default="Results", help="head of the page")
    parser.add_argument("--note", default="", help="a paragraph that the reader must know, below the head")
    parser.add_argument("--into", type=Path, help="a Markdown file whose block <!-- results --> receives the table")
    parser.add_argument("--to", type=Path, help="where the CSV file and the page go; default: the folder itself")


def run(args: argparse.Namespace) -> int:
    """Write `<name>.csv` and `<name>.md`."""
    to = args.to or args.folder
    to.mkdir(parents=True, exist_ok=True)
    table = args.folder / "results.csv"
    if not table.is_file():
        raise FileNotFoundError(f"there is no {table}; run python -m scripts benchmark accuracy --out {args.folder}")
    (to / f"{args.name}.csv").write_bytes(table.read_bytes())
    settings = json.loads((args.folder / "settings.json").read_text(encoding="utf-8"))
    page = "\n".join([results_page(table, settings, args.title, args.note), comparisons(args.folder, table)])
    (to / f"{args.name}.md").write_text(page, encoding="utf-8")
    print(to / f"{args.name}.md")
    if args.into:
        text = args.into.read_text(encoding="utf-8")
        before, _, rest = text.partition(START)
        _, _, after = rest.partition(END)
        args.into.write_text(f"{before}{START}\n{spider_table(table)}\n{END}{after}", encoding="utf-8")
    return 0


def results_page(table: Path, settings: dict[str, object], title: str, note: str) -> str:
    """The table, how it was made, and how to read it."""
    lines = [f"- {name}: `{value}`" for name, value in settings.items()]
    return "\n".join(
        [
            f"# {title}", "", *([note, ""] if note else []),
            "Percent, mean ± standard deviation over seeds; each has other labelled patients and initial weights.",
            "Test: mean over the test patients. Unlabelled: hidden labels of the unlabelled training patients",
            "(transductive). Map: the prompt-guided map of stage 1 on the unlabelled patients.",
            "Pseudo-label: what the teacher itself predicts there, before any fusion.", "",
            spider_table(table), "", "## Settings", "", *lines, "",
        ]
    )  # fmt: skip


def comparisons(folder: Path, table: Path) -> str:
    """Paired tests of every method against CPS4, per patient, on test and on unlabelled patients."""
    with table.open(newline="", encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    parts = ["## CPS4 against the others", ""]
    for section in ("test", "unlabelled"):
        for labelled in sorted({int(r["labelled"]) for r in runs}):
            scores: dict[str, list[dict[str, float]]] = defaultdict(list)
            for r in runs:
                cases = folder / f"{r['method']}_{r['labelled']}_{r['seed']}" / f"network_{section}" / "per_case.csv"
                if int(r["labelled"]) == labelled and cases.is_file():
                    scores[r["method"]].append(case_means(read_per_case(cases)))
            pooled = {method: pool_runs(found) for method, found in scores.items()}
            others = {m: c for m, c in pooled.items() if m != REFERENCE}
            if REFERENCE in pooled and others:
                compared = {m: paired_comparison(pooled[REFERENCE], c) for m, c in others.items()}
                head = f"### {labelled} labelled, {section} patients"
                parts += [head, "", comparison_table(compared, markdown=True), ""]
    return "\n".join(parts) + "\n"
