"""The row from outside: nnU-Net v2's 2D configuration on the labelled patients, slices and test patients of the others.

nnU-Net is run by its own commands, from an environment of its own; its network, loss, optimiser and augmentation are
as it plans them. It sees the slices that our networks see, already normalised, and its probabilities take the path of
our own predictions: names raw and decoded, the scan's own grid, the same scores. It does not read unlabelled scans.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle_runs import bundle_runs
from ..data.nnunet import DATASET, file_name
from .accuracy import add_cell_arguments, open_folder, run_rows
from .nnunet_commands import (
    COMMANDS,
    environment,
    final_checkpoint,
    planned,
    planning,
    predicting,
    set_batch_size,
    trained_s,
    training,
    write_trainer,
)
from .nnunet_slices import entries_of, write_slices
from .queue import Job
from .subsets import Cell
from .training import decoded_columns, device_name, evaluation, read, write_json

ROWS = ("nnunet", "nnunet_full")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_cell_arguments(parser)
    add = parser.add_argument
    add("--nnunet", type=Path, required=True, metavar="VENV",
        help="nnU-Net's own environment: python -m venv VENV && VENV/bin/pip install nnunetv2")  # fmt: skip
    add("--methods", nargs="+", choices=ROWS, default=["nnunet"],
        help="nnunet: the labelled patients of each cell; nnunet_full: all training patients labelled")  # fmt: skip
    add("--steps", dest="nnunet_steps", type=int, default=720, help="optimiser steps; nnU-Net's own schedule: 250000")
    add("--steps-per-epoch", dest="nnunet_steps_per_epoch", type=int, default=20,
        help="the learning rate falls, and nnU-Net logs, once an epoch")  # fmt: skip
    add("--batch-size", dest="nnunet_batch_size", type=int, help="slices a step; default: what nnU-Net plans")
    add("--mirror", dest="nnunet_mirror", action="store_true",
        help="with nnU-Net's own mirroring; left out by default, since names follow the order along the spine, and "
        "none of our rows is mirrored")  # fmt: skip
    add("--device", dest="nnunet_device", choices=["cpu", "cuda"], default="cpu", help="what nnU-Net runs on")


def run(args: argparse.Namespace) -> int:
    """Train and score nnU-Net in every cell; 1 if a run failed."""
    if missing := [name for name in COMMANDS if not (args.nnunet / "bin" / name).is_file()]:
        raise ValueError(
            f"{args.nnunet}: there is no bin/{missing[0]}; make an environment with "
            f"`python -m venv {args.nnunet}` and `{args.nnunet}/bin/pip install nnunetv2`"
        )
    if args.nnunet_steps % args.nnunet_steps_per_epoch:
        raise ValueError(
            f"--steps {args.nnunet_steps} is no multiple of --steps-per-epoch {args.nnunet_steps_per_epoch}; "
            "change one of them"
        )
    out, locks, cells, full = open_folder(args, "nnunet_full" in args.methods)
    plan = Outside(args, out)
    jobs = [plan.row("nnunet", c) for c in cells if "nnunet" in args.methods]
    jobs += [plan.row("nnunet_full", c) for c in full]
    return run_rows(args, out, locks, jobs)


@dataclass(frozen=True)
class Outside:
    """Makes the jobs.

    Attributes:
        args: the options.
        out: folder of the runs.
    """

    args: argparse.Namespace
    out: Path

    def row(self, method: str, cell: Cell) -> Job:
        """Have nnU-Net train and predict, score it, and leave `row.json` and `schedule.json` in the row's folder."""
        folder = self.out / f"{method}_{cell.labelled}_{cell.seed}"

        def state() -> str:
            if (folder / "row.json").is_file():
                return "done"
            return "scores" if final_checkpoint(folder).is_file() else "to do"

        return Job(folder.name, method, self.args.nnunet_steps, state, lambda: self._do(method, folder, cell))

    def _do(self, method: str, folder: Path, cell: Cell) -> None:
        a, sections = self.args, ["test", *(["unlabelled"] if cell.hidden else [])]
        raw, predicted = folder / "nnUNet_raw" / DATASET, folder / "predictions"
        if not (raw / "dataset.json").is_file():
            write_slices(folder, cell, sections, a.overlays, a.image_size, self.out / "cache")
        if not (folder / "planned").is_file():
            self._call(folder, planning(), "plan.txt")
            set_batch_size(folder, a.nnunet_batch_size)
            (folder / "planned").touch()
        write_trainer(folder, a.nnunet_steps, a.nnunet_steps_per_epoch, cell.seed, a.nnunet_mirror)
        if not final_checkpoint(folder).is_file():
            self._call(folder, training(a.nnunet_device), "log.txt")
        names = [file_name(entry["case"]) for entry in entries_of(cell, sections)]
        # nnU-Net writes a label map behind its probabilities
        if any(not (predicted / f"{name}.nii.gz").is_file() for name in names):
            self._call(folder, predicting(raw / "imagesTs", predicted, a.nnunet_device), "predict.txt")
        scores = _score(folder, cell, sections)
        write_json(folder / "schedule.json", self._schedule(folder))
        row = {
            "method": method, "labelled": cell.labelled, "seed": cell.seed, **scores, "steps": a.nnunet_steps,
            "stage1_steps": 0, "resolution": "x".join(map(str, a.image_size)),
            "device": "cpu" if a.nnunet_device == "cpu" else device_name(), "date": str(datetime.date.today()),
        }  # fmt: skip
        write_json(folder / "row.json", row)

    def _call(self, folder: Path, words: list[str], log: str) -> None:
        """Run a command of nnU-Net; what it prints goes to a file of the row's folder.

        Raises:
            RuntimeError: it failed; the message ends with the last lines of the file.
        """
        line = [str(self.args.nnunet.absolute() / "bin" / words[0]), *words[1:]]
        with (folder / log).open("a", encoding="utf-8") as file:
            process = subprocess.run(
                line, cwd=folder, stdout=file, stderr=file, env=environment(folder, words[0], os.environ), check=False
            )
        if process.returncode:
            tail = "\n".join((folder / log).read_text(encoding="utf-8").splitlines()[-5:])
            raise RuntimeError(f"{words[0]} failed, see {folder / log}\n{tail}")

    def _schedule(self, folder: Path) -> dict[str, Any]:
        """What the results page says of this run."""
        a, plan = self.args, planned(folder)
        return {
            "steps": a.nnunet_steps, "steps_per_epoch": a.nnunet_steps_per_epoch, "batch_size": plan["batch_size"],
            "patch_size": plan["patch_size"],
            "features_per_stage": plan["architecture"]["arch_kwargs"]["features_per_stage"],
            "mirrored": a.nnunet_mirror, "training_s": round(trained_s(folder)),
        }  # fmt: skip


def _score(folder: Path, cell: Cell, sections: list[str]) -> dict[str, Any]:
    """Columns of the scores, by the evaluation that all rows have."""
    given = {"ckpt_dir": folder / "slices", "probabilities_dir": folder / "predictions"}
    out = {section: folder / f"network_{section}" for section in sections}
    runs = [evaluation(folder, cell, s, path, given, ["evaluate_kept.yaml"]) for s, path in out.items()]
    bundle_runs(runs, folder / "scores.txt")
    test, unlabelled = (read(folder / f"network_{section}" / "summary.json") for section in ("test", "unlabelled"))
    return {
        "mdice": test["mdice"], "miou": test["miou"], **decoded_columns(test, "mdice", "miou"),
        "unlabelled_mdice": unlabelled.get("mdice"),
        **{f"unlabelled_{k}": v for k, v in decoded_columns(unlabelled, "mdice").items()},
    }  # fmt: skip
