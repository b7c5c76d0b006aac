"""Time training and inference against stated references, as median ratios of alternating measurements.

Each row of the table is a median ratio ours / reference with its 95 % confidence interval, beside a goal. Parts that
are not measured anew keep their rows.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from ...bundle.launch import BUNDLE_ROOT
from ...files import write_whole
from ...report.tables import format_table
from ..figures_file import read_figures
from .field_trainer import field_rows
from .inference import Setting, inference_rows
from .maps import guided_row, otsu_rows
from .memory import memory_row
from .pairs import conditions_here, conditions_in_words
from .peer import peer_rows
from .training import Sizes, engine_row, method_rows, stage1_row

PARTS = {
    "engine": "a stage-2 step through the engine",
    "method": "a CPS4 step beside Mean Teacher's",
    "field": "training beside a trainer in the style of the field's code, and the wait for data",
    "stage1": "a stage-1 step",
    "otsu": "OTSU thresholds of many maps",
    "guides": "attention maps to prompt-guided maps",
    "inference": "a whole volume, and its level decoding",
    "peer": "a real scan beside nnU-Net's predictor",
    "memory": "peak memory on few and on many volumes",
}
"""Groups of rows, in the order of the table."""
HEAD = ("measured", "ratio", "95 % interval", "goal", "met", "ours", "reference", "pairs", "against")
SIZES = ["channels=[16,32,64,128,256]", "batch_size=6", "unlabelled_batch_size=6"]
DEVICES = ("cpu", "cuda")
EXAMPLE = BUNDLE_ROOT / "docs" / "example" / "spider_052.nii.gz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--out", type=Path, default=BUNDLE_ROOT / "docs/results/speed.json", help="a table .md is written beside it")
    kinds = "; ".join(f"{name}: {words}" for name, words in PARTS.items())
    add("--parts", nargs="+", choices=PARTS, metavar="PART",
        help=f"rows to measure ({kinds}); default: all, peer with --nnunet alone")  # fmt: skip
    add("--pairs", type=int, default=40, help="pairs of measurements of a row; what takes long has its own number")
    add("--threads", type=int, default=1, help="CPU threads of the steps; thresholds always have one")
    add("--seed", type=int, default=0)
    add("--overlays", nargs="*", default=["datasets/phantom.yaml"], help="config files behind train.yaml, for steps")
    add("--set", nargs="*", default=SIZES, metavar="KEY=VALUE", help="overrides of the config, for steps")
    add("--maps", type=int, default=160, help="maps whose thresholds are taken at once")
    add("--map-sides", nargs="+", type=int, default=[128, 512], help="sides of these maps in pixels")
    add("--volumes", nargs=2, type=int, default=[10, 200], metavar=("FEW", "MANY"), help="phantoms of the memory row")
    add("--volume-shape", nargs=2, type=int, default=[128, 128], metavar=("H", "W"), help="pixels of their slices")
    add("--memory-pairs", type=int, default=3, help="runs of both stages on few and on many volumes")
    add("--memory-steps", type=int, default=40, help="optimiser steps of each stage of these runs")
    add("--scan-shape", nargs=2, type=int, default=[512, 512], metavar=("H", "W"), help="of full scans, in pixels")
    add("--scan-pixel-mm", type=float, default=0.58, help="edge of their pixels")
    add("--guides-slices", type=int, default=4, help="slices that become prompt-guided maps at a time")
    add("--model", type=Path, help="folder `models` of a run, for inference; without it a network is trained briefly")
    add("--model-steps", type=int, default=40, help="steps of this training")
    add("--inference-pairs", type=int, default=20, help="labellings of a volume")
    add("--scan", type=Path, default=EXAMPLE, help="of the part peer; its network is --model, or the shipped one")
    add("--nnunet", type=Path, metavar="VENV",
        help="nnU-Net's environment for it: python -m venv VENV && VENV/bin/pip install nnunetv2")  # fmt: skip
    add("--peer-pairs", type=int, default=7, help="labellings of the part peer")
    add("--work", type=Path, help="folder for phantoms and runs; a temporary one if not given")


def run(args: argparse.Namespace) -> int:
    """Measure, print and write the table; after every part, since some take long."""
    torch.set_num_threads(args.threads)
    measured: dict[str, list[dict[str, Any]]] = {}
    for part, row in measure(args):
        measured.setdefault(part, []).append(row)
        print(_plain(row), flush=True)
        write(args.out, measured, conditions(args))
    print("\n" + table([row for rows in measured.values() for row in rows]))
    return 0


def write(out: Path, measured: dict[str, list[dict[str, Any]]], conditions: dict[str, Any]) -> None:
    """Replace the rows of the measured parts in the JSON report and in its page."""
    before = read_figures(out)
    parts = {part: [row for row in before.get("rows", []) if row["part"] == part] for part in PARTS}
    parts |= {part: [{"part": part, **row} for row in rows] for part, rows in measured.items()}
    made = {**before.get("conditions", {}), **{part: conditions for part in measured}}
    report = {
        "rows": [row for rows in parts.values() for row in rows],
        "conditions": {part: made[part] for part, rows in parts.items() if rows},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_whole(out.with_suffix(".md"), page(report))


def measure(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (part, row) of the chosen parts."""
    parts = args.parts or [part for part in PARTS if part != "peer" or args.nnunet]
    if "peer" in parts and not args.nnunet:
        raise ValueError("the part peer needs nnU-Net: name its environment with --nnunet")
    with ExitStack() as stack:
        work = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for part, rows in kinds(args, work).items():
            if part in parts:
                yield from ((part, row) for row in rows())


def kinds(args: argparse.Namespace, work: Path) -> dict[str, Callable[[], Iterable[dict[str, Any]]]]:
    """Part -> function that measures its rows."""
    overrides = {key: yaml.safe_load(value) for key, _, value in (item.partition("=") for item in args.set)}
    sizes = Sizes(args.overlays, overrides, work / "steps", args.seed)
    shape, model = tuple(args.scan_shape), args.model or BUNDLE_ROOT / "models"
    setting = Setting(shape, args.scan_pixel_mm, args.model and args.model.absolute(), args.model_steps)

    def on_devices(rows: Callable[..., Any], *rest: Any) -> Iterator[dict[str, Any]]:
        for device in DEVICES:
            made = rows(replace(sizes, device=device), *rest)
            yield from [made] if isinstance(made, dict) else made

    def memory() -> Iterator[dict[str, Any]]:
        few, many = args.volumes
        drawing = {"shape_hw": tuple(args.volume_shape), "pixel_mm": 1.1 * 256 / args.volume_shape[0]}
        yield memory_row(work, (few, many), args.memory_pairs, args.memory_steps, args.seed, **drawing)

    return {
        "engine": partial(on_devices, engine_row, args.pairs),
        "method": partial(on_devices, method_rows, args.pairs),
        "field": partial(on_devices, field_rows, work / "field", args.pairs, shape, args.scan_pixel_mm),
        "stage1": partial(on_devices, stage1_row, args.pairs),
        "otsu": partial(otsu_rows, args.maps, args.map_sides, args.pairs, args.seed),
        "guides": lambda: (guided_row(d, args.guides_slices, shape[0], args.pairs, args.seed) for d in DEVICES),
        "inference": partial(on_devices, inference_rows, setting, work / "inference", args.inference_pairs),
        "peer": lambda: peer_rows(model, args.scan, args.nnunet, work / "peer", args.peer_pairs, args.threads),
        "memory": memory,
    }


def conditions(args: argparse.Namespace) -> dict[str, Any]:
    """Machine, versions and settings that the numbers depend on."""
    return {
        **conditions_here(args.threads), "seed": args.seed, "config": [*args.overlays, *args.set],
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def page(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    places: dict[str, list[str]] = {}
    for part, made in report["conditions"].items():
        places.setdefault(_place(made), []).append(part)
    profiles = [
        f"- {row['name']}: {', '.join(f'{name} {value}' for name, value in row['profile'].items())}"
        for row in report["rows"]
        if "profile" in row
    ]
    return "\n".join(
        [
            "# Speed and memory",
            "",
            "Written by `python -m scripts benchmark speed`. Ratios are ours / reference, the median of pairs measured",
            "in turns, with the 95 % interval of the median (fewer than six pairs: their range). Lower is faster: a",
            "goal of 0.33 asks for three times the speed. What the missed goals would need: [speed.md](../speed.md).",
            "",
            table(report["rows"], markdown=True),
            "",
            *(["Where the time goes:", "", *profiles, ""] if profiles else []),
            *(f"{', '.join(parts)}: {place}" for place, parts in places.items()),
            "",
        ]
    )


def _place(made: dict[str, Any]) -> str:
    """The conditions of a part, in a sentence."""
    return f"{conditions_in_words(made)}; seed {made['seed']}; steps of train.yaml with {', '.join(made['config'])}."


def table(rows: list[dict[str, Any]], *, markdown: bool = False) -> str:
    """The rows as a table."""
    return format_table(HEAD, [_cells(row) for row in rows], markdown=markdown)


def _cells(row: dict[str, Any]) -> list[str]:
    goal = "–" if row["goal"] is None else f"{row['goal']:.2f}"
    if row["ratio"] is None:
        why = f"{row['reference']} (not measured: {row['reason']})"
        return [row["name"], "–", "–", goal, "–", "–", "–", "0", why]
    unit = "ms" if "ours_ms" in row else "MB"
    met = {True: "yes", False: "no", None: "reported"}[row["met"]]
    return [
        row["name"], f"{row['ratio']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}", goal,
        met, f"{row[f'ours_{unit}']:.1f} {unit}", f"{row[f'reference_{unit}']:.1f} {unit}",
        str(row["pairs"]), row["reference"],
    ]  # fmt: skip


def _plain(row: dict[str, Any]) -> str:
    return ", ".join(
        f"{head} {cell}" if head != HEAD[0] else cell for head, cell in zip(HEAD, _cells(row), strict=True)
    )
