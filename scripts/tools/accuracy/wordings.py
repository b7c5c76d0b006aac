"""`benchmark prompts`: train and score CPS4 under several wordings of its class prompts.

Both stages are trained for each wording, in the grid of `benchmark accuracy`. The control is `shuffled`: long names,
permuted among the structures. Only a pretrained text encoder can tell wordings apart by their meaning.
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ...files import write_whole
from ...labels import ClassTable
from ...report.tables import format_table, percent
from .accuracy import add_grid_arguments, collect, run_grid
from .grid import read, write_csv, write_json
from .systems import System, systems

MEASURES = {"map_mdice": "prompt-guided map", "unlabelled_mdice": "unlabelled patients", "mdice": "test patients"}
"""Columns of results.csv -> heads of the table."""
SILENT = (
    "**Says nothing about wording:** the text encoder started from random weights, to which words mean nothing "
    "beforehand. Name a pretrained one with `--text-encoder FOLDER`."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_grid_arguments(parser)
    parser.add_argument(
        "--wordings", nargs="+", default=["long", "short", "shuffled"], metavar="WORDING",
        help="long, short, shuffled, or JSON files {class name: wording}; differences are to the first",
    )  # fmt: skip
    parser.add_argument(
        "--text-encoder", "--text_encoder", type=Path, metavar="FOLDER", help="a pretrained BERT, in a folder"
    )


def run(args: argparse.Namespace) -> int:
    """Run the grid and write `prompts.csv` and `prompts.md` beside its results."""
    out = args.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    args.encoder = args.text_encoder.name if args.text_encoder else "from scratch"
    encoder = text_overlay(args.text_encoder.absolute(), out) if args.text_encoder else None
    rows = [wording_system(wording, args.seeds[0], out, encoder) for wording in args.wordings]
    args.methods = [row.name for row in rows]
    code = run_grid(args, rows, {**systems(), **{row.name: row for row in rows}})
    if args.list:
        return code
    with collect(out).open(newline="", encoding="utf-8") as file:
        compared = compare(list(csv.DictReader(file)), args.methods)
    if compared:
        informed = all(read(path)["maps_reflect_wording"] for path in out.glob("stage1_*/prompt/model.json"))
        print(write_table(compared, out, informed))
    return code


def wording_system(wording: str, seed: int, out: Path, encoder: Path | None) -> System:
    """CPS4 with a stage 1 of this wording; `seed` draws who gets whose name in the control.

    Raises:
        ValueError: an unknown wording.
    """
    name, value = wording, wording
    if wording == "shuffled":
        path = out / "wording_shuffled.json"
        write_json(path, shuffled_names(ClassTable.load(), seed))
        value = str(path)
    elif wording not in ("long", "short"):
        if not Path(wording).is_file():
            raise ValueError(f"wording {wording!r} is neither long, short nor shuffled, nor a JSON file")
        name, value = Path(wording).stem, str(Path(wording).absolute())
    files = (str(encoder),) if encoder else ()
    return System(name, stage1_of=name, stage1=files, stage1_overrides={"wording": value})


def shuffled_names(table: ClassTable, seed: int) -> dict[str, str]:
    """Class name -> long name of another class; no structure keeps its own, and background stays what it is."""
    order = list(table.foreground)
    random.Random(seed).shuffle(order)
    return {c.name: other.long_name for c, other in zip(order, [*order[1:], order[0]], strict=True)}


def text_overlay(folder: Path, out: Path) -> Path:
    """A config file that puts a pretrained text encoder in the place of whatever stage 1 has."""
    target = "scripts.networks.text_encoder.BertTextEncoder"
    content = {"text": {"_target_": target, "prompts": "@prompts", "caption": "@caption", "pretrained": str(folder)}}
    path = out / "text_encoder.yaml"
    write_whole(path, "# overlay on: pretrain\n" + yaml.safe_dump(content, sort_keys=False))
    return path


def compare(runs: Iterable[Mapping[str, str]], wordings: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each number of labelled patients and wording: means over seeds, and mean differences to the first.

    Differences are taken seed by seed, over the seeds that both have.

    Args:
        runs: rows of results.csv.
        wordings: names, the first is what others are compared with.
    """
    scores: dict[tuple[int, str], dict[str, Mapping[str, str]]] = {}
    for row in runs:
        scores.setdefault((int(row["labelled"]), row["method"]), {})[row["seed"]] = row
    compared = []
    for labelled, wording in [(n, w) for n in sorted({n for n, _ in scores}) for w in wordings if (n, w) in scores]:
        mine, first = scores[labelled, wording], scores.get((labelled, wordings[0]), {})
        made: dict[str, Any] = {"labelled": labelled, "wording": wording, "seeds": len(mine)}
        for measure in MEASURES:
            values = {seed: float(row[measure]) for seed, row in mine.items() if row[measure]}
            reference = {seed: float(row[measure]) for seed, row in first.items() if row[measure]}
            both = [value - reference[seed] for seed, value in values.items() if seed in reference]
            made[measure] = statistics.fmean(values.values()) if values else None
            made[f"{measure}_difference"] = statistics.fmean(both) if both else None
        compared.append(made)
    return compared


def write_table(compared: Sequence[Mapping[str, Any]], out: Path, informed: bool) -> Path:
    """Write `prompts.csv` (fractions) and `prompts.md` (percent).

    Args:
        compared: what :func:`compare` gave.
        out: the folder.
        informed: the text encoder knew words before; if not, the page says that it tells nothing.
    """
    write_csv(out / "prompts.csv", list(compared[0]), compared)
    head = ["labelled patients", "wording", "seeds (n)"]
    head += [words for measure in MEASURES.values() for words in (f"{measure}, mDice %", "difference")]
    first = compared[0]["wording"]
    cells = [
        [str(row["labelled"]), row["wording"], str(row["seeds"])]
        + [cell for m in MEASURES for cell in (percent(row[m]), _points(row[f"{m}_difference"], row["wording"], first))]
        for row in compared
    ]
    words = f"Means over seeds. Differences to `{first}`, in points, seed by seed. `shuffled` gives each structure the "
    words += "long name of another."
    lines = ["# Wording of the class prompts", "", *([] if informed else [SILENT, ""]), words, ""]
    page = out / "prompts.md"
    write_whole(page, "\n".join([*lines, format_table(head, cells, markdown=True), ""]))
    return page


def _points(difference: float | None, wording: str, first: str) -> str:
    return "–" if difference is None or wording == first else f"{100 * difference:+.2f}"
