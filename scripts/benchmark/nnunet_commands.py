"""nnU-Net v2's own commands: what they are called with, its trainer of fewer steps, what its files say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.nnunet import DATASET, DATASET_ID
from .training import read, write_json

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
    """Where nnU-Net leaves the training of a row's folder."""
    return folder / "nnUNet_results" / DATASET / f"{TRAINER}__nnUNetPlans__{CONFIGURATION}" / "fold_all"


def final_checkpoint(folder: Path) -> Path:
    """What is there once nnU-Net has trained a row's folder to its end."""
    return trained(folder) / "checkpoint_final.pth"


def plans_file(folder: Path) -> Path:
    """Where nnU-Net leaves its plans, below a row's folder."""
    return folder / "nnUNet_preprocessed" / DATASET / "nnUNetPlans.json"


def write_trainer(folder: Path, steps: int, steps_per_epoch: int, seed: int, mirror: bool) -> Path:
    """Write the trainer's file where :func:`environment` has nnU-Net look for it."""
    base = "nnUNetTrainer" if mirror else "nnUNetTrainerNoMirroring"
    text = TRAINER_FILE.format(
        name=TRAINER, base=base, epochs=steps // steps_per_epoch, steps_per_epoch=steps_per_epoch, seed=seed
    )
    path = folder / "trainer" / "short_trainer.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def planned(folder: Path) -> dict[str, Any]:
    """What nnU-Net planned for its 2D configuration."""
    return dict(read(plans_file(folder))["configurations"][CONFIGURATION])


def planning() -> list[str]:
    """Command that plans, and preprocesses the raw dataset for the 2D configuration."""
    return [COMMANDS[0], "-d", str(DATASET_ID), "-c", CONFIGURATION, "-np", "1", "-npfp", "1"]


def training(device: str) -> list[str]:
    """Command that trains on all cases; killed on the way, it goes on from its last checkpoint."""
    return [COMMANDS[1], str(DATASET_ID), CONFIGURATION, "all", "-tr", TRAINER, "-device", device, "--c"]


def predicting(images: Path, out: Path, device: str) -> list[str]:
    """Command that predicts the volumes of a folder that it has not predicted, in one process, with probabilities."""
    return [
        COMMANDS[2], "-i", str(images), "-o", str(out), "-d", str(DATASET_ID), "-c", CONFIGURATION, "-f", "all", "-tr",
        TRAINER, "-device", device, "-npp", "0", "-nps", "0", "--save_probabilities", "--continue_prediction",
    ]  # fmt: skip


def environment(folder: Path, command: str, before: Mapping[str, str]) -> dict[str, str]:
    """Variables of a command of nnU-Net: its folders, its trainer, one process where its own default is many.

    Training augments in its own process, so that the seed counts; planning takes none for a mistake.
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
    """Seconds of all epochs by nnU-Net's logs, those included that a resumed training repeated."""
    logs = [path.read_text(encoding="utf-8") for path in sorted(trained(folder).glob("training_log_*.txt"))]
    return sum(float(s) for text in logs for s in re.findall(r"Epoch time: ([\d.]+) s", text))
