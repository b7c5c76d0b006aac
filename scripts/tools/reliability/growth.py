"""Time and peak memory of each phase, from a folder of scans to label maps, against the number of volumes."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import logging
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pandas

from ...bundle.launch import runs_here
from ...files import write_whole
from ...phantom.write import write_phantoms
from ..accuracy.grid import device_name
from ..figures_file import RELIABILITY, add_figures
from ..speed.memory import OVERLAYS, STAGE1, in_new_process

SMALL = {"shape_hw": (40, 32), "pixel_mm": 7.0}
"""Small phantoms."""
SIZES = {"unlabelled_batch_size": 8, "image_size": [32, 16], "pixel_mm": 8.0}
LABELLED = 2
PHASES = {
    "prepare": "`prepare`: a datalist of a folder",
    "check": "`check`: every file is read",
    "cache": "slices and attention maps of all volumes, and one training step",
    "epoch": "pseudo-labels of all volumes, then one training step of 8 unlabelled slices for each volume",
    "labelling": "`inference`: label maps of all volumes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m scripts benchmark growth`."""
    parser.add_argument("--out", type=Path, default=RELIABILITY, help="file to add to; a table is written next to it")
    parser.add_argument("--volumes", type=int, nargs="+", default=[10, 100, 1000, 2000], help="numbers of phantoms")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder for phantoms and runs; a temporary one without")


def run(args: argparse.Namespace) -> int:
    """Measure; write `volumes`, `memory_ratio` and `growth` into the file, and the table growth.md."""
    numbers = sorted(set(args.volumes))
    if len(numbers) < 2 or numbers[0] <= LABELLED:
        raise ValueError(f"--volumes takes two or more numbers above {LABELLED}, got {args.volumes}")
    with tempfile.TemporaryDirectory() as scratch:
        rows = growth_rows(args.work or Path(scratch), numbers, args.seed)
    figures = {"volumes": numbers[-1], "memory_ratio": memory_ratio(rows), "growth": rows}
    add_figures(args.out, figures)
    table = args.out.with_name("growth.md")
    write_whole(table, markdown(rows, args.seed))
    print(table.read_text(encoding="utf-8"), args.out, table, sep="\n")
    return 0


def growth_rows(work: Path, numbers: Sequence[int], seed: int = 0) -> list[dict[str, Any]]:
    """A row for each phase and number of volumes: `phase`, `volumes`, `seconds` and `peak_mb` of its own process."""
    rows = []
    for number in numbers:
        datalist = write_phantoms(
            work / "phantoms", labelled=LABELLED, unlabelled=number - LABELLED, validation=1, test=0, seed=seed, **SMALL
        )
        for phase, (do, *given) in _jobs(work / str(number), datalist, number, seed).items():
            seconds, peak = in_new_process(work / f"{number}_{phase}.txt", do, *given)
            rows.append({"phase": phase, "volumes": number, "seconds": round(seconds, 2), "peak_mb": round(peak, 1)})
            logging.getLogger(__name__).info("%s", rows[-1])
    return rows


def _jobs(folder: Path, datalist: Path, number: int, seed: int) -> dict[str, tuple[Any, ...]]:
    """Phase -> a function and its arguments."""
    for name in ("images", "labels"):
        _link(datalist.parent / name, folder / name, number)
    paths = {
        "cache_dir": folder / "cache", "prompt_model_dir": folder / "prompt", "datalist": datalist, "seed": seed,
        "device": "$torch.device('cpu')", "max_epochs": 1, "iters_per_epoch": 1, **SIZES,
    }  # fmt: skip
    stage1 = {**paths, "output_dir": folder / "stage1"}
    stage2 = {
        **paths, "output_dir": folder / "stage2", "ckpt_dir": folder / "models", "ramp#start": 0.0, "ramp#length": 0.0,
        "overwrite": True,  # the phases train into one folder, one after the other
    }  # fmt: skip
    inference = {
        "input_dir": folder / "images", "output_dir": folder / "out", "ckpt_dir": folder / "models",
        "device": paths["device"],
    }  # fmt: skip
    train = ("train.yaml", *OVERLAYS)
    prepare = ["prepare", folder, "--layout", "pairs", "--labelled-cases", LABELLED, "--out", folder / "d.json"]
    return {
        "prepare": (_command, prepare),
        "check": (_command, ["check", datalist]),
        "cache": (runs_here, ("pretraining", STAGE1, stage1), ("training", train, {**stage2, "rounds": 0})),
        "epoch": (runs_here, ("training", train, {**stage2, "rounds": 1, "iters_per_epoch": number})),
        "labelling": (runs_here, ("inference", ("inference.yaml",), inference)),
    }


def _link(source: Path, target: Path, number: int) -> None:
    """Link the first files of a folder into another."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.glob("*.nii.gz"))[:number]:
        with contextlib.suppress(FileExistsError):
            os.link(file, target / file.name)


def _command(words: Sequence[Any]) -> None:
    from ...__main__ import main

    if main([str(word) for word in words]) != 0:
        raise RuntimeError(f"{words[0]} failed")


def memory_ratio(rows: Sequence[dict[str, Any]]) -> float:
    """Largest ratio, over the phases, of peak memory at the largest number of volumes to that at the second smallest.

    With only a few volumes a process has not loaded all that it needs, so the smallest number is left out of three.
    """
    numbers = sorted({row["volumes"] for row in rows})
    few, many = numbers[1 if len(numbers) > 2 else 0], numbers[-1]
    peaks = {(row["phase"], row["volumes"]): row["peak_mb"] for row in rows}
    return round(max(peaks[phase, many] / peaks[phase, few] for phase in {row["phase"] for row in rows}), 4)


def markdown(rows: Sequence[dict[str, Any]], seed: int) -> str:
    """The page: seconds and peak memory of each phase, and the time of each further volume."""
    phases = [phase for phase in PHASES if phase in {row["phase"] for row in rows}]
    wide = pandas.DataFrame(rows).pivot(index="phase", columns="volumes").loc[phases]
    seconds, memory = wide["seconds"], wide["peak_mb"]
    further = 1000 * seconds.diff(axis=1).iloc[:, 1:] / numpy.diff(seconds.columns)
    further.columns = [f"from {a} to {b}" for a, b in itertools.pairwise(seconds.columns)]
    machine = f"{device_name()}, {os.cpu_count()} cores, Python {platform.python_version()}"

    def table(of: pandas.DataFrame, digits: int) -> str:
        of = of.rename(columns=lambda head: head if isinstance(head, str) else f"{head} volumes")
        return of.to_markdown(floatfmt=f".{digits}f")

    return f"""# Growth with the number of volumes

Written by `python -m scripts benchmark growth`: each phase in its own process, without the start of Python, on small
phantoms with small networks, so that growth with the number of volumes shows.

{chr(10).join(f"- **{phase}**: {PHASES[phase]}" for phase in phases)}

Seconds:

{table(seconds, 1)}

Milliseconds of each further volume:

{table(further, 0)}

Peak memory in MB; the largest ratio, of the largest number to the second smallest, is {memory_ratio(rows):.3f}:

{table(memory, 0)}

{machine}; seed {seed}; {datetime.date.today()}.
"""
