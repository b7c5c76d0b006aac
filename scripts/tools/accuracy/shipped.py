"""`benchmark shipped`: score the network that the bundle ships by a user's own path, and write its page and its block.

Test patients are labelled and scored as `evaluating` does it, with the names that labelling writes. Sets whose labels
name no levels give Dice of vertebrae and discs alone.
"""

from __future__ import annotations

import argparse
import datetime
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...bundle.launch import BUNDLE_ROOT, bundle_runs
from ...files import write_whole
from ...report.tables import format_table, percent, write_block
from ...weights import model_settings
from .grid import EVALUATION, device_name, read
from .systems import pairs

MARK = "shipped"
GROUPS = {"vertebra": "vertebrae", "disc": "discs", "sacrum": "sacrum"}
"""Group of the class table -> what a reader calls it."""
COMMAND = (
    "python -m scripts benchmark shipped --datalist D.json --runs OUT --unknown-levels TPTBox=T.json "
    "--into README.md docs/README.md"
)
HEAD = ["structure", "n", "Dice %", "IoU %", "HD95 mm", "ASSD mm"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--datalist", type=Path, required=True, help="its test section is scored; training must not have seen it")
    add("--ckpt-dir", type=Path, default=BUNDLE_ROOT / "models", help="folder of the network; default: models")
    add("--unknown-levels", nargs="*", default=[], metavar="NAME=DATALIST", help="sets whose labels name no levels")
    add("--runs", type=Path, required=True, help="folder of the label maps and scores")
    add("--out", type=Path, default=BUNDLE_ROOT / "docs" / "results" / "shipped.md", help="the page")
    add("--into", type=Path, nargs="*", default=[], metavar="FILE.md", help=f"files with a block <!-- {MARK} -->")


def run(args: argparse.Namespace) -> int:
    """Score, and write the page and the blocks."""
    others = {name: Path(path) for name, path in pairs(args.unknown_levels).items()}
    folders = {name: args.runs.absolute() / f"set_{number}" for number, name in enumerate(["test", *others])}
    runs = [
        (
            "evaluating",
            EVALUATION,
            {
                "datalist": datalist.absolute(),
                "section": "test",
                "ckpt_dir": args.ckpt_dir.absolute(),
                "output_dir": folders[name],
                "pictures": False,
            },
        )
        for name, datalist in {"test": args.datalist, **others}.items()
    ]
    bundle_runs(runs, args.runs.absolute() / "log.txt")
    summary = scored(read(folders["test"] / "summary.json"))
    agnostic = {name: scored(read(folders[name] / "summary.json"))["level_agnostic_dice"] for name in others}
    write_whole(args.out, page(summary, agnostic, model_settings(args.ckpt_dir) or {}))
    for document in args.into:
        write_block(document, MARK, headline(summary))
    print(args.out.read_text(encoding="utf-8"))
    return 0


def scored(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """Scores of the read-out that labelling writes by default: named where the network has a geometry."""
    return summary.get("named") or summary.get("decoded") or summary


def headline(summary: Mapping[str, Any]) -> str:
    """What the block says: a table of three rows."""
    count = round(summary["levels_right"] * summary["n_cases"])
    rows = [
        [GROUPS.get(group, group), percent(of["dice"]), f"{of['hd95_mm']:.2f}", f"{of['assd_mm']:.2f}"]
        for group, of in summary["groups"].items()
        if of["n"]
    ]
    lines = [
        f"{summary['n_cases']} test patients, none of them in training: every level from L5 to L1 right in {count} of "
        f"{summary['n_cases']}, mean Dice of all structures {percent(summary['mdice'])} %.",
        "",
        format_table(["under their own names", "Dice %", "HD95 mm", "ASSD mm"], rows, markdown=True),
    ]
    return "\n".join(lines)


def page(summary: Mapping[str, Any], agnostic: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
    """The page: headline, a row a structure, other sets, and how all was made."""
    rows = [[name, *_cells(of)] for name, of in summary["per_class"].items() if of["n"]]
    rows += [[f"all {GROUPS.get(group, group)}", *_cells(of)] for group, of in summary["groups"].items() if of["n"]]
    low, high = summary["levels_right_interval"]
    lines = [
        "# The network in models/",
        "",
        headline(summary),
        "",
        f"95 % interval (Wilson) of the share of patients with right levels: {percent(low)} to {percent(high)} %. "
        "Structures: {missed} missed, {spurious} spurious, {wrong_level} of wrong level.".format(**summary),
        "",
        format_table(HEAD, rows, markdown=True),
        "",
    ]
    if agnostic:
        cells = [[name, percent(of.get("vertebra")), percent(of.get("disc"))] for name, of in agnostic.items()]
        table = format_table(["labels that name no levels", "vertebrae, Dice %", "discs, Dice %"], cells, markdown=True)
        lines += [table, ""]
    lines += [
        f"The network: {settings.get('image_size')} pixels of {settings.get('pixel_mm')} mm, channels "
        f"{settings.get('channels')}. Its training and terms: [model card](../README.md). Written by",
        "",
        "```",
        COMMAND,
        "```",
        "",
        f"on {datetime.date.today()}, {device_name()}, {platform.machine()}.",
        "",
    ]
    return "\n".join(lines)


def _cells(of: Mapping[str, Any]) -> list[str]:
    distances = ["–" if of[key] is None else f"{of[key]:.2f}" for key in ("hd95_mm", "assd_mm")]
    return [str(of["n"]), percent(of["dice"]), percent(of["iou"]), *distances]
