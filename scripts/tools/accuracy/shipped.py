"""`benchmark shipped`: score the network that the bundle ships by a user's own path, and write its page and its block.

Test patients are labelled and scored as `evaluating` does it, with the names that labelling writes. Sets whose labels
name no levels give Dice of vertebrae and discs alone.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...bundle.launch import BUNDLE_ROOT, bundle_runs
from ...files import write_whole
from ...labels import LEVEL_RIGHT
from ...report.tables import format_table, percent, write_block
from ...weights import model_settings
from .grid import EVALUATION, device_name, read
from .systems import pairs

MARK = "shipped"
GROUPS = {"vertebra": "vertebrae", "disc": "discs", "sacrum": "sacrum"}
"""Group of the class table -> what a reader calls it."""
COMMAND = (
    "python -m scripts benchmark shipped --datalist D.json --runs OUT{others} "
    "--into README.md docs/README.md --metadata metadata.json configs/metadata.json"
)
BINS = 10
DRAWS = 2000
HEAD = ["structure", "n", "Dice %", "IoU %", "HD95 mm", "ASSD mm"]


class Calibration(NamedTuple):
    """Expected calibration error of the structures' confidence, in [0, 1], its 95 % interval, and their number."""

    error: float
    low: float
    high: float
    structures: int
    scans: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--datalist", type=Path, required=True, help="its test section is scored; training must not have seen it")
    add("--ckpt-dir", type=Path, default=BUNDLE_ROOT / "models", help="folder of the network; default: models")
    add("--unknown-levels", nargs="*", default=[], metavar="NAME=DATALIST", help="sets whose labels name no levels")
    add("--runs", type=Path, required=True, help="folder of the label maps and scores")
    add("--out", type=Path, default=BUNDLE_ROOT / "docs" / "results" / "shipped.md", help="the page")
    add("--into", type=Path, nargs="*", default=[], metavar="FILE.md", help=f"files with a block <!-- {MARK} -->")
    add("--metadata", type=Path, nargs="*", default=[], metavar="FILE.json", help="metadata that get `eval_metrics`")


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
    write_whole(args.out, page(summary, agnostic, model_settings(args.ckpt_dir) or {}, calibration(folders["test"])))
    for document in args.into:
        write_block(document, MARK, headline(summary))
    for metadata in args.metadata:
        content = json.loads(metadata.read_text(encoding="utf-8")) | {"eval_metrics": eval_metrics(summary)}
        write_whole(metadata, json.dumps(content, indent=4) + "\n")
    print(args.out.read_text(encoding="utf-8"))
    return 0


def eval_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """What the bundle's metadata say of the network: fractions."""
    dice = {f"{GROUPS.get(group, group)}_dice": of["dice"] for group, of in summary["groups"].items() if of["n"]}
    values = {"mean_dice": summary["mdice"], **dice, "levels_right": summary["levels_right"]}
    return {key: round(value, 4) for key, value in values.items()}


def scored(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """Scores of the read-out that labelling writes by default: named where the network has a geometry."""
    return summary.get("named") or summary.get("decoded") or summary


def calibration(folder: Path) -> Calibration:
    """How far the `confidence` of the reports is from the share of structures that are right under their own name.

    A structure is right if its Dice is above `LEVEL_RIGHT`. Ten bins of equal width; the interval is a bootstrap over
    scans, whose structures hang together.

    Args:
        folder: of an evaluation: `<case>_levels.json`, and the scores of the names that it wrote.

    References: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    names = ("per_case_named.csv", "per_case_decoded.csv", "per_case.csv")
    scores = next(folder / name for name in names if (folder / name).is_file())
    with scores.open(newline="", encoding="utf-8") as file:
        dice = {(row["case"], int(row["class_id"])): float(row["dice"] or "nan") for row in csv.DictReader(file)}
    scans = []
    for path in sorted(folder.glob("*_levels.json")):
        case, report = path.name.removesuffix("_levels.json"), json.loads(path.read_text(encoding="utf-8"))
        rows = [(row["confidence"], dice[case, row["class_id"]] > LEVEL_RIGHT) for row in report["structures"]]
        scans.append(np.array(rows, dtype=np.float64).reshape(-1, 2))
    rng, n = np.random.default_rng(0), len(scans)
    drawn = [calibration_error(np.concatenate([scans[k] for k in rng.integers(n, size=n)])) for _ in range(DRAWS)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Calibration(
        calibration_error(np.concatenate(scans)), float(low), float(high), sum(map(len, scans)), len(scans)
    )


def calibration_error(rows: NDArray[np.float64]) -> float:
    """Mean distance of mean confidence and share of right ones over the bins, weighted by their counts.

    Args:
        rows: (structures, 2), confidence and whether right, in [0, 1].
    """
    bins = np.minimum((rows[:, 0] * BINS).astype(int), BINS - 1)
    gaps = [abs(float((rows[bins == b, 0] - rows[bins == b, 1]).sum())) for b in range(BINS)]
    return sum(gaps) / len(rows)


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


def page(
    summary: Mapping[str, Any],
    agnostic: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    calibrated: Calibration,
) -> str:
    """The page: headline, a row a structure, other sets, calibration, and how all was made."""
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
        lines += [table, "", "Voxels that such labels call 255 are left out.", ""]
    sets = " ".join(f'"{name}"=T{number}.json' for number, name in enumerate(agnostic, 1))
    lines += [
        f"Expected calibration error of `confidence`, against a Dice above {LEVEL_RIGHT} under the structure's own "
        f"name: {calibrated.error:.3f} (95 % interval {calibrated.low:.3f} to {calibrated.high:.3f}; "
        f"{calibrated.structures} structures of {calibrated.scans} scans, {BINS} bins).",
        "",
        f"The network: {settings.get('image_size')} pixels of {settings.get('pixel_mm')} mm, channels "
        f"{settings.get('channels')}. Its training and terms: [model card](../README.md). Written by",
        "",
        "```",
        COMMAND.format(others=f" --unknown-levels {sets}" if sets else ""),
        "```",
        "",
        f"on {datetime.date.today()}, {device_name()}, {platform.machine()}.",
        "",
    ]
    return "\n".join(lines)


def _cells(of: Mapping[str, Any]) -> list[str]:
    distances = ["–" if of[key] is None else f"{of[key]:.2f}" for key in ("hd95_mm", "assd_mm")]
    return [str(of["n"]), percent(of["dice"]), percent(of["iou"]), *distances]
