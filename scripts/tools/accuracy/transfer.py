"""`benchmark transfer`: score a trained network on other data (domain shift), and say what breaks.

What may break is finding the structures, their outlines or their levels. Beside the given datalists, the network is
scored on drawn phantoms of T2-like and of T1-like contrast: the same spines, other grey values.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...bundle.launch import bundle_runs
from ...data.datalist import load_datalist, write_datalist
from ...files import write_whole
from ...phantom.write import write_phantoms
from ...report.tables import format_table, percent
from .grid import EVALUATION, read, write_csv, write_json
from .systems import pairs

CONTRASTS = ("t2", "t1")
BROKEN = 0.1
"""Share of the structures from which on missing them, or calling them by another level, counts as broken."""
OUTLINED = 0.6
"""Level-agnostic Dice below which outlines count as broken."""
HEAD = [
    "data", "cases", "mDice %", "mDice %, decoded", "vertebrae %", "discs %", "structures", "missed", "spurious",
    "wrong level", "breaks",
]  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="the folder `models` of a run of stage 2")
    add("--out", type=Path, required=True, help="folder of the results: transfer.csv, .md and .json")
    add("--sets", nargs="*", default=[], metavar="NAME=DATALIST", help="data whose test section is scored")
    add("--unknown-levels", nargs="*", default=[], metavar="NAME", help="sets whose labels name no levels")
    add("--leave-out", nargs="*", default=[], metavar="CLASS", help="classes of the phantoms that training did not "
        "label: S for SPIDER")  # fmt: skip
    add("--phantoms", type=int, default=6, help="drawn volumes of each contrast; 0 draws none")
    add("--shape", nargs=2, type=int, default=[256, 256], metavar=("H", "W"), help="pixels of their slices")
    add("--pixel-mm", type=float, default=1.1)
    add("--seed", type=int, default=0, help="of the phantoms")


def run(args: argparse.Namespace) -> int:
    """Score all sets in one process and write the table."""
    out = args.out.absolute()
    sets = {name: Path(path).absolute() for name, path in pairs(args.sets).items()}
    if unknown := [name for name in args.unknown_levels if name not in sets]:
        raise ValueError(f"--unknown-levels {', '.join(unknown)}: no such set was named; give --sets NAME=DATALIST")
    for contrast in CONTRASTS if args.phantoms else ():
        sets[f"phantoms, {contrast.upper()}-like"] = draw(out / f"phantoms_{contrast}", contrast, args)
    if not sets:
        raise ValueError("there is nothing to score; give --sets NAME=DATALIST, or --phantoms 6")
    folders = {name: out / "scores" / "".join(c if c.isalnum() else "_" for c in name) for name in sets}
    common = {"section": "test", "ckpt_dir": args.model.absolute(), "distances": False}
    runs = [
        ("evaluating", EVALUATION, {**common, "datalist": path, "output_dir": folders[name]})
        for name, path in sets.items()
    ]
    bundle_runs(runs, out / "log.txt")
    rows = [row_of(name, read(folders[name] / "summary.json"), name not in args.unknown_levels) for name in sets]
    page = write_table(rows, out)
    print(page.read_text(encoding="utf-8"))
    return 0


def draw(folder: Path, contrast: str, args: argparse.Namespace) -> Path:
    """Draw phantoms to test on; the datalist that names the classes which training did not label."""
    counts = {"labelled": 0, "unlabelled": 0, "validation": 0, "test": args.phantoms, "seed": args.seed}
    path = write_phantoms(folder, **counts, shape_hw=tuple(args.shape), pixel_mm=args.pixel_mm, contrast=contrast)
    rows = [{k: v for k, v in row.items() if k != "unlabelled_classes"} for row in load_datalist(path).sections["test"]]
    return write_datalist(folder / "transfer.json", {"test": rows}, unlabelled_classes=args.leave_out)


def row_of(name: str, summary: Mapping[str, Any], levels: bool) -> dict[str, Any]:
    """A row of the table.

    Args:
        name: of the data.
        summary: what evaluation wrote.
        levels: the labels name levels; if not, what rests on them is None.

    Returns:
        Scores as fractions, counts of structures, and `breaks`: what of "finding", "outlines" and "levels" did.
    """
    agnostic, decoded = summary["level_agnostic_dice"], summary.get("decoded") or {}
    # n counts a class in a case if truth or prediction has it
    structures = sum(c["n"] for c in summary["per_class"].values()) - summary["spurious"]
    row: dict[str, Any] = {
        "data": name, "cases": summary["n_cases"], "mdice": summary["mdice"], "mdice_decoded": decoded.get("mdice"),
        "vertebra": agnostic.get("vertebra"), "disc": agnostic.get("disc"), "structures": structures,
        **{count: summary[count] for count in ("missed", "spurious", "wrong_level")},
    }  # fmt: skip
    if not levels:
        row |= dict.fromkeys(("mdice", "mdice_decoded", "structures", "missed", "spurious", "wrong_level"))
    row["breaks"] = [
        *(["finding"] if levels and row["missed"] > BROKEN * structures else []),
        *(["outlines"] if any((row[group] or 0) < OUTLINED for group in ("vertebra", "disc")) else []),
        *(["levels"] if levels and row["wrong_level"] > BROKEN * structures else []),
    ]
    return row


def write_table(rows: Sequence[Mapping[str, Any]], out: Path) -> Path:
    """Write `transfer.json` and `transfer.csv` (fractions) and `transfer.md` (percent)."""
    write_json(out / "transfer.json", list(rows))
    write_csv(out / "transfer.csv", list(rows[0]), [{**row, "breaks": " ".join(row["breaks"])} for row in rows])
    shares, counts = ("mdice", "mdice_decoded", "vertebra", "disc"), ("structures", "missed", "spurious", "wrong_level")
    cells = [
        [row["data"], str(row["cases"]), *(percent(row[k]) for k in shares)]
        + ["–" if row[k] is None else str(row[k]) for k in counts]
        + [", ".join(row["breaks"]) or "nothing"]
        for row in rows
    ]
    lines = [
        "# On other data", "", format_table(HEAD, cells, markdown=True), "",
        "Vertebrae, discs: Dice of the group whatever the level. Where labels name no levels, scores by level are left "
        f"out. Finding breaks where more than {BROKEN:.0%} of the structures are missed, levels where more than "
        f"{BROKEN:.0%} carry another level, outlines where the Dice of a group is below {OUTLINED:.0%}.", "",
    ]  # fmt: skip
    page = out / "transfer.md"
    write_whole(page, "\n".join(lines))
    return page
