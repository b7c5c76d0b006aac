"""`benchmark nnunet`: nnU-Net v2's 2D configuration on the labelled patients, slices and test patients of the others.

nnU-Net is run by its own commands from an environment of its own, with the network, loss, optimiser and augmentation
that it plans. It gets the slices that our networks get, already normalised. Its probabilities are resampled to the
scan's grid, decoded and scored as our own predictions are. It does not read unlabelled scans.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from ...bundle.launch import BUNDLE_ROOT, bundle_runs
from ...bundle.model_file import write_model
from ...data.cache import VolumeDataset
from ...data.check.command import check_datalist
from ...data.datalist import load_datalist, raise_problems
from ...data.prepare.nnunet import DATASET, DATASET_ID, file_name, write_raw_dataset
from ...files import write_whole
from ...ops.levels.geometry import ChainGeometry
from ...weights import model_settings
from .accuracy import add_cell_arguments, open_folder, run_rows
from .grid import columns, device_name, evaluation, read, write_json
from .jobs import Job
from .subsets import Cell

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
    rows = NnunetRows(args, out)
    jobs = [rows.row("nnunet", c) for c in cells if "nnunet" in args.methods]
    jobs += [rows.row("nnunet_full", c) for c in full]
    return run_rows(args, out, locks, jobs)


@dataclass(frozen=True)
class NnunetRows:
    """Makes the jobs of nnU-Net's rows.

    Attributes:
        args: the options.
        out: folder of the runs.
    """

    args: argparse.Namespace
    out: Path

    def row(self, method: str, cell: Cell) -> Job:
        """Train nnU-Net, predict, score; writes `row.json` and `schedule.json` into the row's folder."""
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
        keep_geometry(folder, cell, a.overlays, a.image_size, self.out / "cache")
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
        """Training schedule and plan of this run, for the results page."""
        a, plan = self.args, planned(folder)
        return {
            "steps": a.nnunet_steps, "steps_per_epoch": a.nnunet_steps_per_epoch, "batch_size": plan["batch_size"],
            "patch_size": plan["patch_size"],
            "features_per_stage": plan["architecture"]["arch_kwargs"]["features_per_stage"],
            "mirrored": a.nnunet_mirror, "training_s": round(trained_s(folder)),
        }  # fmt: skip


def _score(folder: Path, cell: Cell, sections: list[str]) -> dict[str, Any]:
    """Columns of the scores, from the evaluation that all rows share."""
    given = {"ckpt_dir": folder / "slices", "probabilities_dir": folder / "predictions"}
    out = {section: folder / f"network_{section}" for section in sections}
    runs = [evaluation(folder, cell, s, path, given, ["evaluate_kept.yaml"]) for s, path in out.items()]
    bundle_runs(runs, folder / "scores.txt")
    test, unlabelled = (read(folder / f"network_{section}" / "summary.json") for section in ("test", "unlabelled"))
    return {
        **columns(test, "mdice", "miou", "levels_right"),
        **{f"unlabelled_{k}": v for k, v in columns(unlabelled, "mdice", "levels_right").items()},
    }  # fmt: skip


CONFIGURATION, TRAINER = "2d", "ShortTrainer"
COMMANDS = ("nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_predict")
TRAINER_FILE = '''"""nnU-Net's own trainer with fewer steps; written by `python -m scripts benchmark nnunet`."""
import random

import numpy
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import nnUNetTrainerNoMirroring


class {name}({base}):
    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict,
                 device: torch.device = torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch = {epochs}, {steps_per_epoch}
        self.num_val_iterations_per_epoch = 1  # of fold `all` these are training slices again
        self.save_every = 5
        for seed in (random.seed, numpy.random.seed, torch.manual_seed):
            seed({seed})

    def perform_actual_validation(self, save_probabilities: bool = False):
        """Leave out the prediction of the training scans, which fold `all` would have."""
'''


def trained(folder: Path) -> Path:
    """Folder of nnU-Net's trained model, below a row's folder."""
    return folder / "nnUNet_results" / DATASET / f"{TRAINER}__nnUNetPlans__{CONFIGURATION}" / "fold_all"


def final_checkpoint(folder: Path) -> Path:
    """Checkpoint that nnU-Net writes when its training is complete."""
    return trained(folder) / "checkpoint_final.pth"


def plans_file(folder: Path) -> Path:
    """nnU-Net's plans, below a row's folder."""
    return folder / "nnUNet_preprocessed" / DATASET / "nnUNetPlans.json"


def write_trainer(folder: Path, steps: int, steps_per_epoch: int, seed: int, mirror: bool) -> Path:
    """Write the custom trainer into the folder that :func:`environment` names to nnU-Net."""
    base = "nnUNetTrainer" if mirror else "nnUNetTrainerNoMirroring"
    text = TRAINER_FILE.format(
        name=TRAINER, base=base, epochs=steps // steps_per_epoch, steps_per_epoch=steps_per_epoch, seed=seed
    )
    path = folder / "trainer" / "short_trainer.py"
    write_whole(path, text)
    return path


def planned(folder: Path) -> dict[str, Any]:
    """nnU-Net's plan of its 2D configuration."""
    return dict(read(plans_file(folder))["configurations"][CONFIGURATION])


def planning() -> list[str]:
    """Command that plans, and preprocesses the raw dataset for the 2D configuration."""
    return [COMMANDS[0], "-d", str(DATASET_ID), "-c", CONFIGURATION, "-np", "1", "-npfp", "1"]


def training(device: str) -> list[str]:
    """Command that trains on all cases; given again, it resumes from its last checkpoint."""
    return [COMMANDS[1], str(DATASET_ID), CONFIGURATION, "all", "-tr", TRAINER, "-device", device, "--c"]


def predicting(images: Path, out: Path, device: str) -> list[str]:
    """Command that predicts the volumes of a folder with probabilities, in one process, skipping those it has done."""
    return [
        COMMANDS[2], "-i", str(images), "-o", str(out), "-d", str(DATASET_ID), "-c", CONFIGURATION, "-f", "all", "-tr",
        TRAINER, "-device", device, "-npp", "0", "-nps", "0", "--save_probabilities", "--continue_prediction",
    ]  # fmt: skip


def environment(folder: Path, command: str, before: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of a command of nnU-Net: its folders, its trainer, one process instead of many.

    Training augments in the main process (0 workers), so that the seed decides; planning refuses 0.
    """
    own = {name: str(folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    own |= {"nnUNet_extTrainer": str(folder / "trainer"), "nnUNet_def_n_proc": "1"}
    own["nnUNet_n_proc_DA"] = "0" if command == COMMANDS[1] else "1"
    return {**{k: v for k, v in before.items() if k not in ("PYTHONPATH", "PYTHONHOME")}, **own}


def set_batch_size(folder: Path, size: int | None) -> None:
    """Put another batch size into nnU-Net's plans, as its documentation proposes; None leaves its own."""
    if size is not None:
        content = read(plans_file(folder))
        content["configurations"][CONFIGURATION]["batch_size"] = size
        write_json(plans_file(folder), content)


def trained_s(folder: Path) -> float:
    """Seconds of all epochs in nnU-Net's logs, with those that a resumed training repeated."""
    logs = [path.read_text(encoding="utf-8") for path in sorted(trained(folder).glob("training_log_*.txt"))]
    return sum(float(s) for text in logs for s in re.findall(r"Epoch time: ([\d.]+) s", text))


def write_slices(
    folder: Path, cell: Cell, sections: Sequence[str], overlays: Sequence[str], image_size: Sequence[int], cache: Path
) -> Path:
    """Write nnU-Net's raw dataset of a cell, and `slices/model.json`, from which our inference takes the same grid.

    Training slices are those of train.yaml, from its cache; scans to predict are preprocessed by inference.yaml.

    Args:
        folder: of the row; gets `nnUNet_raw` and `slices`.
        cell: its training patients are written with labels.
        sections: of its datalist that are to be predicted; they are written without labels.
        overlays: config files behind train.yaml.
        image_size: (H, W) of the slices.
        cache: folder of the slice cache.

    Returns:
        The dataset's folder.

    Raises:
        DataError: problems in the data.
    """
    raise_problems(check_datalist(cell.datalist, sections=("training", *sections), cache_folder=cache))
    train = _graph(["train.yaml", *overlays], datalist=str(cell.datalist), cache_dir=str(cache), image_size=image_size)
    names = [str(name) for name in train.get_parsed_content("class_names")]
    slices = train.get_parsed_content("train#dataset")
    pixel_mm = float(train.get_parsed_content("pixel_mm"))
    settings = {
        "classes": names, "network": "nnunet", "image_size": image_size, "pixel_mm": pixel_mm,
        "labelled_classes": slices.labelled_classes(),
    }  # fmt: skip
    write_model(torch.nn.Identity(), folder / "slices", settings)
    preprocessing = _graph(["inference.yaml"], ckpt_dir=str(folder / "slices")).get_parsed_content("preprocessing")
    volumes = VolumeDataset(slices.data, slices.cache, len(names))

    def labelled() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for entry, item in zip(volumes.data, (volumes[i] for i in range(len(volumes))), strict=True):
            yield entry["case"], item["image"][:, 0].numpy(), item["label"][:, 0].numpy()

    def others() -> Iterator[tuple[str, np.ndarray]]:
        for entry in entries_of(cell, sections):
            image = preprocessing({"image": entry["image"]})["image"]  # (1, H, W, S)
            yield entry["case"], np.moveaxis(np.asarray(image)[0], -1, 0)

    return write_raw_dataset(folder / "nnUNet_raw", names, labelled(), others(), pixel_mm)


def keep_geometry(
    folder: Path, cell: Cell, overlays: Sequence[str], image_size: Sequence[int], cache: Path
) -> ChainGeometry | None:
    """Fit the cohort's geometry to nnU-Net's predictions, as our trainings do, and add it to `slices/model.json`.

    Labelled and unlabelled volumes of the training take part, no others; see `scripts.training.cohort`.

    Args:
        folder: of the row; holds `slices` and `predictions`.
        cell: see :func:`write_slices`.
        overlays: see :func:`write_slices`.
        image_size: see :func:`write_slices`.
        cache: see :func:`write_slices`.

    Returns:
        What was kept; None if no label shows a landmark of the chain.
    """
    train = _graph(["train.yaml", *overlays], datalist=str(cell.datalist), cache_dir=str(cache), image_size=image_size)
    cohort, seen = train.get_parsed_content("cohort"), []
    for entry in entries_of(cell, ["unlabelled"] if cell.hidden else []):
        with np.load(folder / "predictions" / f"{file_name(entry['case'])}.npz") as file:
            probs = torch.from_numpy(file["probabilities"]).float().movedim(0, 1)  # (N, S, H, W) -> (S, N, H, W)
        seen.append(cohort.see(probs)[1])
    geometry: ChainGeometry | None = cohort.fit(seen)
    if geometry is not None:
        settings = {**(model_settings(folder / "slices") or {}), "chain_geometry": geometry.as_json()}
        write_model(torch.nn.Identity(), folder / "slices", settings)
    return geometry


def entries_of(cell: Cell, sections: Sequence[str]) -> list[dict[str, Any]]:
    """The entries of some sections of a cell's datalist, one section after the other."""
    whole = load_datalist(cell.datalist).sections
    return [entry for section in sections for entry in whole.get(section, [])]


def _graph(files: list[str], **overrides: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(BUNDLE_ROOT / "configs" / file) for file in files])
    parser.update({"bundle_root": str(BUNDLE_ROOT), **overrides})
    return parser
