"""Time steps, thresholds and memory against stated references, as ratios of pairs measured in turns.

Every row of the table is a median ratio ours / reference with its 95 % interval, beside the goal that was set for it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import monai
import torch
import yaml

from ..bundle_runs import BUNDLE_ROOT
from ..report.tables import format_table
from .memory import memory_row
from .steps import Sizes, engine_row, method_row
from .thresholds import otsu_rows

ROWS = ("engine", "method", "otsu", "memory")
HEAD = ("measured", "ratio", "95 % interval", "goal", "met", "ours", "reference", "pairs", "against")
SIZES = ["channels=[16,32,64,128,256]", "batch_size=6", "unlabelled_batch_size=6"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--out", type=Path, default=BUNDLE_ROOT / "docs/results/speed.json", help="a table .md is written beside it")
    add("--rows", nargs="+", choices=ROWS, default=ROWS, help="what to measure")
    add("--pairs", type=int, default=40, help="pairs of measurements a row; memory has its own number")
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
    add("--work", type=Path, help="folder for phantoms and runs; a temporary one if not given")


def run(args: argparse.Namespace) -> int:
    """Measure, print and write the table."""
    torch.set_num_threads(args.threads)
    rows = []
    for row in measure(args):
        rows.append(row)
        print(_plain(row), flush=True)
    report = {"rows": rows, **conditions(args)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    args.out.with_suffix(".md").write_text(page(report), encoding="utf-8")
    print("\n" + table(rows))
    return 0


def measure(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows that were asked for, one after another."""
    overrides = {key: yaml.safe_load(value) for key, _, value in (item.partition("=") for item in args.set)}
    with ExitStack() as stack:
        work = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sizes = Sizes(args.overlays, overrides, work / "steps", args.seed)
        if "engine" in args.rows:
            yield engine_row(sizes, args.pairs)
        if "method" in args.rows:
            yield method_row(sizes, args.pairs)
        if "otsu" in args.rows:
            yield from otsu_rows(args.maps, args.map_sides, args.pairs, args.seed)
        if "memory" in args.rows:
            few, many = args.volumes
            shape = {"shape_hw": tuple(args.volume_shape), "pixel_mm": 1.1 * 256 / args.volume_shape[0]}
            yield memory_row(work, (few, many), args.memory_pairs, args.memory_steps, args.seed, **shape)


def conditions(args: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on."""
    names = [line for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    processor = names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "machine": {"processor": processor, "cores": os.cpu_count(), "gpu": gpu, "system": platform.system()},
        "python": platform.python_version(), "torch": torch.__version__, "monai": monai.__version__,
        "threads": args.threads, "seed": args.seed, "date": str(datetime.date.today()),
        "config": [*args.overlays, *args.set], "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def page(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    machine = report["machine"]
    gpu = machine["gpu"] or "no GPU"
    return "\n".join(
        [
            "# Speed and memory",
            "",
            "Written by `python -m scripts benchmark speed`. Ratios are ours / reference, the median of pairs measured",
            "in turns, with the 95 % interval of the median (fewer than six pairs: their range).",
            "",
            table(report["rows"], markdown=True),
            "",
            f"{machine['processor']}, {machine['cores']} cores, {gpu}; {report['threads']} thread(s), load "
            f"{report['load']}; Python {report['python']}, PyTorch {report['torch']}, MONAI {report['monai']}; seed "
            f"{report['seed']}; {report['date']}.",
            f"Steps: train.yaml with {', '.join(report['config'])}.",
            "",
        ]
    )


def table(rows: list[dict[str, Any]], *, markdown: bool = False) -> str:
    """The rows as a table."""
    return format_table(HEAD, [_cells(row) for row in rows], markdown=markdown)


def _cells(row: dict[str, Any]) -> list[str]:
    if row["ratio"] is None:
        why = f"{row['reference']} (not measured: {row['reason']})"
        return [row["name"], "–", "–", f"{row['goal']:.2f}", "–", "–", "–", "0", why]
    unit = "ms" if "ours_ms" in row else "MB"
    return [
        row["name"], f"{row['ratio']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}", f"{row['goal']:.2f}",
        "yes" if row["met"] else "no", f"{row[f'ours_{unit}']:.1f} {unit}", f"{row[f'reference_{unit}']:.1f} {unit}",
        str(row["pairs"]), row["reference"],
    ]  # fmt: skip


def _plain(row: dict[str, Any]) -> str:
    return ", ".join(
        f"{head} {cell}" if head != HEAD[0] else cell for head, cell in zip(HEAD, _cells(row), strict=True)
    )


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
