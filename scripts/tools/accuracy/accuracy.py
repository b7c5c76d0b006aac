"""`benchmark accuracy`: train and score systems on the same labelled patients with the same steps, one CSV row a run.

For each number of labelled patients and seed, a supervised warm start and stage 1 are trained once; every system then
takes the same further steps on the segmentation network, with the same total weight of its unlabelled terms. The
checkpoint is chosen on the validation patients; test patients are scored once, at the end. Finished rows are kept.
Several machines with a common folder, or the processes of torchrun, may share a grid.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...bundle.launch import config_paths
from .grid import Grid, Settings, device_name, read, write_csv, write_json
from .jobs import POLL_S, Job, Locks, run_jobs, share, with_needs
from .subsets import Cell, Source, cell, full_cell
from .systems import System, chosen, pairs, systems, variant

FIELDS = (
    "method", "labelled", "seed", "mdice", "miou", "mdice_decoded", "miou_decoded", "unlabelled_mdice",
    "unlabelled_mdice_decoded", "steps", "stage1_steps", "resolution", "device", "date", "map_mdice",
    "pseudo_label_mdice", "validation_mdice", "mdice_named", "miou_named", "unlabelled_mdice_named", "levels_right",
    "levels_right_decoded", "levels_right_named", "unlabelled_levels_right", "unlabelled_levels_right_decoded",
    "unlabelled_levels_right_named",
)  # fmt: skip
SAME = (
    "source", "layout", "overlays", "stage1_overlays", "warm", "epochs", "learning_rate", "stage1_epochs", "iters",
    "set", "stage1_set", "image_size", "encoder", "nnunet_steps", "nnunet_steps_per_epoch", "nnunet_batch_size",
    "nnunet_mirror", "nnunet_device",
)  # fmt: skip
"""Settings that all rows of a folder share."""
GROWING = ("methods", "labelled", "seeds", "variant")
"""Settings that a later call may add to."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_grid_arguments(parser)
    add = parser.add_argument
    add("--methods", nargs="+", default=["supervised", "mean_teacher", "cps4_literal", "cps4"], metavar="NAME",
        help="rows: cps4, full (all training patients labelled), and the names of files in configs/methods and "
        "configs/ablations and of rows in configs/ablations.json")  # fmt: skip
    add("--variant", nargs="+", action="append", default=[], metavar="WORD",
        help="one more row: NAME [ROW] [FILE.yaml | KEY=VALUE | stage1:KEY=VALUE] ...; ROW is cps4 unless "
        "named")  # fmt: skip


def add_grid_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a grid of runs, whatever its rows are."""
    add_cell_arguments(parser)
    add = parser.add_argument
    add("--stage1-overlays", nargs="*", default=[], help="config files behind pretrain.yaml")
    add("--warm", type=int, default=30, help="epochs of the supervised warm start")
    add("--epochs", type=int, default=30, help="epochs of each row after the warm start")
    add("--learning-rate", type=float, default=0.001, help="of the steps after the warm start")
    add("--stage1-epochs", type=int, default=20)
    add("--iters", type=int, default=20, help="optimiser steps an epoch")
    add("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of every run of stage 2")
    add("--stage1-set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of stage 1")
    add("--share", metavar="I/N", help="do every N-th row from the I-th on; others do theirs in the same folder")


def add_cell_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of data and output folder."""
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--datalist", type=Path, help="a datalist; labelled subsets are cut from its training patients")
    source.add_argument("--data", type=Path, help="folder of labelled scans, as `prepare` takes it")
    add("--layout", default="auto", help="layout of the folder, as `prepare` takes it")
    add("--out", type=Path, required=True, help="folder of the runs; results.csv is written here")
    add("--labelled", nargs="+", type=int, default=[1, 2], help="numbers of labelled patients")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--overlays", nargs="*", default=[], help="config files behind the row's, e.g. a data set's")
    add("--image-size", nargs=2, type=int, default=[256, 128], help="H W of the slices")
    add("--jobs", type=int, default=1, help="runs at the same time, each on one core")
    add("--list", action="store_true", help="print the runs and how far they are, and run nothing")


def run(args: argparse.Namespace) -> int:
    """Run the grid and write `results.csv`."""
    known = systems()
    for words in args.variant:
        known[words[0]] = variant(words, known)
    return run_grid(args, chosen([*args.methods, *(words[0] for words in args.variant)], known), known)


def run_grid(args: argparse.Namespace, rows: Sequence[System], known: Mapping[str, System]) -> int:
    """Train and score the rows in every cell of the grid; 1 if a run failed."""
    number, of = _share(args.share)
    out, locks, *cells = open_folder(args, any(row.all_labelled for row in rows))
    return run_rows(args, out, locks, share(grid_jobs(_settings(args, out), rows, known, *cells), number, of))


def open_folder(args: argparse.Namespace, full: bool) -> tuple[Path, Locks, list[Cell], list[Cell]]:
    """Open the folder of the runs: its path, its locks, its cells, and the cells with all labels if `full`.

    Raises:
        FileError: a config file is missing.
        ValueError: the folder holds runs of other settings.
        DataError: there are not that many labelled patients.
    """
    config_paths([*args.overlays, *getattr(args, "stage1_overlays", [])])
    if args.jobs > 1:
        os.environ["OMP_NUM_THREADS"] = "1"
    out = args.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    locks = Locks(out / ".locks")
    while not locks.claim("settings"):
        time.sleep(POLL_S)
    try:
        check_settings(out / "settings.json", args)
        return out, locks, *_cells(args, out, full)
    finally:
        locks.release("settings")


def run_rows(args: argparse.Namespace, out: Path, locks: Locks, jobs: Sequence[Job]) -> int:
    """Run the rows and the jobs that they need, or list them, and write `results.csv`; 1 if a run failed."""
    if args.list:
        print(listed(with_needs(jobs), jobs))
        return 0
    failed = run_jobs(with_needs(jobs), args.jobs, locks, after=lambda: collect(out))
    print(collect(out))
    for name, error in failed.items():
        print(f"failed: {name}: {str(error).strip().splitlines()[-1]} (log: {out / name})")
    return 1 if failed else 0


def grid_jobs(
    settings: Settings, rows: Sequence[System], known: Mapping[str, System], cells: Sequence[Cell], full: Sequence[Cell]
) -> list[Job]:
    """A job for every row in every cell; rows with all labels have cells of their own, one for each seed."""
    grid = Grid(settings, known)
    jobs = [grid.row(row, c) for c in cells for row in rows if not row.all_labelled]
    return jobs + [grid.row(row, c) for c in full for row in rows if row.all_labelled]


def listed(jobs: Sequence[Job], rows: Sequence[Job]) -> str:
    """A line for each run that is left, and how many of the rows are done."""
    lines = [f"{job.name:32s}{job.steps:8d} steps  {job.state()}" for job in jobs]
    done = sum(row.state() == "done" for row in rows)
    steps = sum(job.steps for job in jobs)
    return "\n".join([*lines, f"{done} of {len(rows)} rows are done; {steps} steps in the list"])


def collect(out: Path) -> Path:
    """Write `results.csv` from the rows of all finished runs."""
    rows = [read(p) for p in sorted(out.glob("*/row.json"))]
    rows.sort(key=lambda r: (r["labelled"], r["method"], r["seed"]))
    path = out / "results.csv"
    write_csv(path, FIELDS, rows)
    return path


def check_settings(path: Path, args: argparse.Namespace) -> None:
    """Write `settings.json` for the results page, or compare with the one that is there; it has no paths.

    Raises:
        ValueError: the folder holds runs of other settings.
    """
    known = {**vars(args), "source": (args.datalist or args.data).name}
    given = json.loads(json.dumps({k: known[k] for k in (*SAME, *GROWING) if k in known}))
    before = read(path)
    if other := [
        f"{k}: {before[k]}, now {given[k]}" for k in SAME if k in before and k in given and before[k] != given[k]
    ]:
        raise ValueError(f"{path.parent} holds runs of other settings ({'; '.join(other)}); give another --out")
    for k in GROWING:
        old = before.get(k, [])
        given[k] = [*old, *(entry for entry in given.get(k, []) if entry not in old)]
    if not args.list:
        write_json(path, {**before, **given, "jobs": args.jobs, "device": device_name()})


def _settings(args: argparse.Namespace, out: Path) -> Settings:
    return Settings(
        out, args.overlays, args.stage1_overlays, args.warm, args.epochs, args.stage1_epochs, args.iters,
        args.learning_rate, pairs(args.set), pairs(args.stage1_set), args.image_size,
    )  # fmt: skip


def _cells(args: argparse.Namespace, out: Path, full: bool) -> tuple[list[Cell], list[Cell]]:
    """The cells of the grid, and those with all labels."""
    source = Source(args.data and args.data.absolute(), args.layout, args.datalist and args.datalist.absolute())
    cells = [cell(source, n, seed, out) for n in args.labelled for seed in args.seeds]
    return cells, [full_cell(source, args.labelled[0], seed, out) for seed in args.seeds] if full else []


def _share(words: str | None) -> tuple[int, int]:
    """(number, of how many) of `I/N`; the process's own under torchrun, where each also takes a GPU of its own.

    Raises:
        ValueError: neither.
    """
    if words is None and "WORLD_SIZE" in os.environ:
        rank, size, local = (os.environ.pop(k, "0") for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", local)
        return int(rank) + 1, int(size)
    try:
        number, of = map(int, (words or "1/1").split("/"))
    except ValueError as error:
        raise ValueError(f"a share is written I/N, 1/3 for example, got {words}") from error
    return number, of
