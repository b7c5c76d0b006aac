"""`python -m scripts report DIR`: tables, charts, pictures and pages of the runs that `benchmark accuracy` left."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from ...labels import ClassTable
from ...report.tables import write_block
from .benchmark_folder import READOUTS, TEST, Benchmark, read_benchmark, write_cases, write_lines
from .document import Chapter, Picture, Table, markdown, settings_table, write_html, write_latex, write_markdown
from .headline import RULE, headline_table, rivals_table
from .level_tables import MEANING, level_table
from .method_charts import ablation_bars, class_chart, curve_over_labelled
from .method_tables import (
    all_columns_table,
    comparison_table,
    other_ablations_table,
    outside_table,
    overview_table,
    score_table,
    steps_table,
)

MARK = "results"
"""Of the block that receives the short table."""
LATEX = ("Summary", "Scores", "Ablation", "CPS4 against the others")
"""Chapters whose tables are written for LaTeX, too."""
NOT_PUBLISHED = "What the runs of the folder share; of those that were published before, their own report said it."
READING = (
    "Percent, mean ± standard deviation over seeds; each has other labelled patients and initial weights. "
    "Test: mean over the test patients. Unlabelled: hidden labels of the unlabelled training patients (transductive). "
    "Map: the prompt-guided map of stage 1 on the unlabelled patients. Pseudo-label: what the teacher itself predicts "
    "there, before any fusion.",
    "Names are given in three ways to all rows alike: raw, the network's own; decoded, in the order of the spine; "
    "named, by the geometry of the training's spines, labelled and unlabelled.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", type=Path, help="the benchmark's --out")
    parser.add_argument("--name", default="results", help="start of the names of all files that are written")
    parser.add_argument("--title", default="Results", help="head of the page")
    parser.add_argument("--note", default="", help="a paragraph that the reader must know, below the head")
    parser.add_argument(
        "--into", type=Path, nargs="+", default=[], metavar="FILE.md",
        help="Markdown files whose block <!-- results --> receives the short table",
    )  # fmt: skip
    parser.add_argument("--to", type=Path, help="where everything goes; default: the folder itself")
    parser.add_argument(
        "--published", type=Path, metavar="START",
        help="an earlier report's START.csv and START_per_case.csv.gz: its runs that the folder does not hold take "
        "part; its pictures stay, since label maps and maps of such runs are not there to draw new ones",
    )  # fmt: skip
    parser.add_argument("--paper", action="store_true", help="the paper's numbers, marked as such, beside ours")
    shown = parser.add_argument_group("what the pictures show")
    shown.add_argument("--no-pictures", action="store_true", help="tables and charts alone, which need no torch")
    shown.add_argument("--labelled", type=int, help="number of labelled patients; default: the smallest")
    shown.add_argument("--seed", type=int, help="default: the first")
    shown.add_argument("--case", help="a test case; default: the one whose score of CPS4 is the median")
    shown.add_argument("--slice", type=int, help="slice of the case, from 1; default: the one that shows most")
    shown.add_argument("--beside", default="clip", help="the stage-1 model whose attention stands below CPS4's")
    shown.add_argument("--attention-case", help="an unlabelled or test case; default: the first unlabelled one")
    shown.add_argument("--classes", nargs="+", default=[], help="classes whose attention is shown, such as L5 L4/L5")


def run(args: argparse.Namespace) -> int:
    """Write `<name>.md`, `.html`, `.tex`, `.csv`, `_per_case.csv.gz` and the charts and pictures as PNG."""
    benchmark = read_benchmark(args.folder, args.published)
    to = args.to or args.folder
    to.mkdir(parents=True, exist_ok=True)
    start = str(to / args.name)
    if args.folder / "results.csv" != Path(f"{start}.csv"):
        write_lines(benchmark.lines, f"{start}.csv")
    write_cases(benchmark.cases, f"{start}_per_case.csv.gz")
    scores = [score_table(benchmark, readout, paper=args.paper and readout == TEST) for readout in READOUTS]
    steps, others, rivals = steps_table(benchmark), other_ablations_table(benchmark), rivals_table(benchmark)
    parts: dict[str, list[str | Table | Picture | None]] = {
        "Summary": [headline_table(benchmark), RULE if rivals is not None else None, rivals],
        "Overview": [overview_table(benchmark)],
        "Levels": [MEANING, *(level_table(benchmark, readout) for readout in READOUTS)],
        "Scores": [*scores, _curve(benchmark, start)],
        "Ablation": [steps, _ablation(benchmark, start), others],
        "CPS4 against the others": [comparison_table(benchmark)],
        "Outside": [outside_table(benchmark)],
        "Structures": [_classes(benchmark, args, start)],
        "Pictures": [] if args.no_pictures else [*_pictures(benchmark, args, start)],
        "All columns": [all_columns_table(benchmark)],
        "Settings": [_settings(benchmark, "What all runs share." if args.published is None else NOT_PUBLISHED)],
    }
    chapters = [Chapter(head, [part for part in found if part]) for head, found in parts.items()]
    lead = [args.note, *READING] if args.note else list(READING)
    latex = write_latex(Path(f"{start}.tex"), [c for c in chapters if c.title in LATEX])
    page = write_markdown(Path(f"{start}.md"), args.title, lead, chapters)
    html = write_html(Path(f"{start}.html"), args.title, lead, chapters)
    print(page, html, latex, sep="\n")
    for document in args.into:
        _write_block(document, benchmark, page)
    return 0


def _write_block(document: Path, benchmark: Benchmark, page: Path) -> None:
    """Put the short table, with a link to the page, between the marks of a Markdown file.

    Raises:
        ValueError: the file has no such marks.
    """
    link = Path(os.path.relpath(page, document.parent)).as_posix()
    table = headline_table(benchmark, more=f"[{page.name}]({link})")
    write_block(document, MARK, markdown(table) if table else "")


def _curve(benchmark: Benchmark, start: str) -> Picture | None:
    path = curve_over_labelled(benchmark, f"{start}_curve.png")
    caption = (
        "Mean Dice over the number of labelled patients: mean and, as a band, one standard deviation over n seeds; "
        "dashed the upper bound."
    )
    return Picture(path, caption) if path else None


def _ablation(benchmark: Benchmark, start: str) -> Picture | None:
    path = ablation_bars(benchmark, f"{start}_ablation.png")
    return Picture(path, "The same as bars: means over n seeds, a dot for each seed.") if path else None


def _classes(benchmark: Benchmark, args: argparse.Namespace, start: str) -> Picture | None:
    labelled = args.labelled or benchmark.labelled[0]
    path = class_chart(benchmark, labelled, ClassTable.load(), f"{start}_classes.png")
    readout = benchmark.written("test")
    cases = benchmark.n_cases(labelled, readout)
    caption = (
        f"Dice (%) of every structure with {labelled} labelled, {readout.variant} levels, over those of the {cases} "
        "test patients that show it, mean over seeds."
    )
    return Picture(path, caption) if path else None


def _pictures(benchmark: Benchmark, args: argparse.Namespace, start: str) -> list[Picture]:
    """The strip of methods and the attention maps; one whose files are missing is left out, and the log says why."""
    if args.published is not None:
        return list(_published_pictures(args.published, start))
    from .method_pictures import PictureError, attention_of_models, strip_of_methods

    table, labelled = ClassTable.load(), args.labelled or benchmark.labelled[0]
    draw: list[Callable[[], tuple[Path, str]]] = [
        lambda: strip_of_methods(
            benchmark, labelled, table, f"{start}_strip.png", seed=args.seed, case=args.case, slice_number=args.slice
        ),
        lambda: attention_of_models(
            benchmark, labelled, table, f"{start}_attention.png", seed=args.seed, beside=args.beside,
            classes=args.classes, case=args.attention_case,
        ),
    ]  # fmt: skip
    found = []
    for picture in draw:
        try:
            found.append(Picture(*picture()))
        except PictureError as reason:
            logging.getLogger(__name__).warning("a picture is left out: %s", reason)
    return found


def _published_pictures(published: Path, start: str) -> Iterator[Picture]:
    """Strip and attention maps of an earlier report, with what its page says below them."""
    page = Path(f"{published}.md").read_text(encoding="utf-8")
    for kind in ("strip", "attention"):
        picture, path = Path(f"{published}_{kind}.png"), Path(f"{start}_{kind}.png")
        if found := re.search(rf"\({re.escape(picture.name)}\)\n\n(.+)", page):
            if picture.resolve() != path.resolve():
                shutil.copyfile(picture, path)
            yield Picture(path, found[1])


def _settings(benchmark: Benchmark, shared: str) -> Table | str:
    """What settings.json holds, under the caption `shared`; of rows that were asked for those that were run."""
    file = benchmark.folder / "settings.json"
    if not file.is_file():
        return "The benchmark left no settings.json."
    settings = json.loads(file.read_text(encoding="utf-8"))
    for key, name in (("methods", str), ("variant", lambda words: words[0])):
        if key in settings:
            settings[key] = [entry for entry in settings[key] if name(entry) in benchmark.names]
    return settings_table(settings, shared)
