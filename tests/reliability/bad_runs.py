"""Runs of the bundle that refuse: what a user may get wrong in settings, folders, models and datalists."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scripts.bundle.launch import BUNDLE_ROOT
from tests.reliability.bad_lists import good_list
from tests.reliability.bad_scans import Scan

Run = tuple[str, list[str], dict[str, Any]]
"""Run id, config files, and overrides that come behind `Place`'s."""
INFERENCE, EVALUATION = ["inference.yaml"], ["inference.yaml", "evaluate.yaml"]
TRAINING = ["train.yaml", "methods/supervised.yaml", "smoke.yaml"]

FOLDERS = {"output_dir": "run", "ckpt_dir": "models", "cache_dir": "cache"}


@dataclass
class Place:
    """Where a run reads and writes.

    Attributes:
        scan: of which scans and datalist are made; its folder is the run's.
        trained: a finished training: `run` and `models` below it.
    """

    scan: Scan
    trained: Path

    @property
    def folder(self) -> Path:
        return self.scan.folder

    @property
    def models(self) -> Path:
        """A copy of the finished training's network."""
        return Path(shutil.copytree(self.trained / "models", self.folder / "models"))

    def datalist(self, change: Callable[[dict[str, Any]], Any] = lambda content: None) -> Path:
        content = good_list(self.scan)
        change(content)
        (self.folder / "data.json").write_text(json.dumps(content), encoding="utf-8")
        return self.folder / "data.json"

    def inference(self, **overrides: Any) -> Run:
        if "input_dir" not in overrides:
            overrides["input_dir"] = self.scan.save(self.scan.array, "scans/a.nii.gz").parent
        return (
            "inference",
            INFERENCE,
            {"output_dir": self.folder / "out", "ckpt_dir": self.trained / "models", **overrides},
        )

    def evaluation(self, **overrides: Any) -> Run:
        given = {"output_dir": self.folder / "out", "ckpt_dir": self.trained / "models", "distances": False}
        if "datalist" not in overrides:
            overrides["datalist"] = self.datalist()
        return "evaluating", EVALUATION, {**given, **overrides}

    def training(self, **overrides: Any) -> Run:
        if "datalist" not in overrides:
            overrides["datalist"] = self.datalist()
        given = {name: self.folder / folder for name, folder in FOLDERS.items()}
        return "training", TRAINING, {**given, **overrides}

    def resumed(self, **overrides: Any) -> Run:
        """The finished training, told to go on."""
        for name in ("run", "models"):
            shutil.copytree(self.trained / name, self.folder / name)
        return self.training(datalist=self.trained / "data.json", resume=True, max_epochs=3, **overrides)

    def by_hand(self, name: str, content: bytes = b"by hand") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


def _label_in_the_way(p: Place) -> Run:
    run_id, configs, given = p.evaluation()
    content = json.loads(Path(given["datalist"]).read_text(encoding="utf-8"))
    mine = p.folder / "out/test_seg.nii.gz"
    mine.parent.mkdir()
    shutil.copy(content["test"][0]["label"], mine)
    content["test"][0]["label"] = str(mine)
    Path(given["datalist"]).write_text(json.dumps(content), encoding="utf-8")
    return run_id, configs, given


def _other_weights(p: Place) -> Run:
    models = p.models
    state = torch.load(models / "model.pt", weights_only=True)
    torch.save({name: value + 1 for name, value in state.items()}, models / "model.pt")
    return p.inference(ckpt_dir=models)


def _without_scheduler(p: Place) -> Run:
    run = p.resumed()
    state = torch.load(p.folder / "run/checkpoint.pt", weights_only=True)
    del state["lr_scheduler"]
    torch.save(state, p.folder / "run/checkpoint.pt")
    return run


def _other_classes(p: Place) -> Path:
    table = json.loads((BUNDLE_ROOT / "configs/classes.json").read_text(encoding="utf-8"))
    one, other = table["classes"][1:3]
    one["name"], other["name"] = other["name"], one["name"]
    return p.by_hand("classes.json", json.dumps(table).encode())


def _from_another(p: Place) -> Run:
    """The results of another scan of the same name are there."""
    source = {"source": str(p.folder / "other/a.nii.gz"), "sha256": None}
    p.by_hand("out/manifest.json", json.dumps({"files": {"a_seg.nii.gz": source, "a_levels.json": source}}).encode())
    file = p.by_hand("out/a_seg.nii.gz")
    source["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    p.by_hand("out/manifest.json", json.dumps({"files": {"a_seg.nii.gz": source}}).encode())
    return p.inference()


def _equal_names(p: Place) -> Run:
    p.scan.save(p.scan.array, "scans/a/b.nii.gz")
    return p.inference(input_dir=p.scan.save(p.scan.array, "scans/a_b.nii.gz").parent)


def _second(p: Place, **overrides: Any) -> Run:
    shutil.copytree(p.trained / "run", p.folder / "run")
    return p.training(**overrides)


RUNS: dict[str, Callable[[Place], Run]] = {
    "label map made by hand": lambda p: (p.by_hand("out/a_seg.nii.gz"), p.inference())[1],
    "results of a scan of the same name": _from_another,
    "two scans of one name": _equal_names,
    "manifest that is damaged": lambda p: (p.by_hand("out/manifest.json"), p.inference())[1],
    "label names of other classes": lambda p: (p.by_hand("out/labels.json", b"{}"), p.inference())[1],
    "label in the place of its prediction": _label_in_the_way,
    "scores made by hand": lambda p: (p.by_hand("out/summary.json"), p.evaluation())[1],
    "picture made by hand": lambda p: (p.by_hand("out/pictures/test.png"), p.evaluation())[1],
    "no network": lambda p: p.inference(ckpt_dir=p.folder / "none"),
    "network of another model.json": _other_weights,
    "network cut off": lambda p: p.inference(
        ckpt_dir=p.by_hand("models2/model.pt", (p.trained / "models/model.pt").read_bytes()[:-99]).parent
    ),
    "network of other classes": lambda p: p.inference(class_table=_other_classes(p)),
    "no scans for inference": lambda p: p.inference(input_dir=p.by_hand("empty/notes.txt").parent),
    "scans that are not there": lambda p: p.inference(input_dir=p.folder / "none"),
    "inference into a file": lambda p: p.inference(output_dir=p.by_hand("file") / "out"),
    "inference: key misspelt": lambda p: p.inference(input_dri="x"),
    "inference: unknown levels": lambda p: p.inference(levels="guessed"),
    "inference: unknown sequence": lambda p: p.inference(sequence="t9"),
    "inference: no slices at once": lambda p: p.inference(batch_size=0),
    "scoring an unknown section": lambda p: p.evaluation(section="holdout"),
    "scoring without a datalist": lambda p: p.evaluation(datalist=""),
    "scoring with an unlabelled section": lambda p: p.evaluation(section="unlabelled"),
    "training without a datalist": lambda p: p.training(datalist=""),
    "training on one patient in two splits": lambda p: p.training(
        datalist=p.datalist(lambda c: c["test"][0].update(patient="p0"))
    ),
    "training on a patient of validation": lambda p: p.training(
        datalist=p.datalist(lambda c: c["validation"][0].update(patient="p0"))
    ),
    "second training": lambda p: _second(p),
    "second training over other weights": lambda p: p.training(ckpt_dir=p.models),
    "resume with other channels": lambda p: p.resumed(channels=[4, 8, 16]),
    "resume with another grid": lambda p: p.resumed(image_size=[64, 32]),
    "resume without a part of the checkpoint": _without_scheduler,
    "resume with a damaged checkpoint": lambda p: (
        (p.resumed(), p.by_hand("run/checkpoint.pt"))
        and p.training(datalist=p.trained / "data.json", resume=True, max_epochs=3)
    ),
    "loss that is no number": lambda p: p.training(learning_rate=1e30),
    "epochs: many": lambda p: p.training(max_epochs="many"),
    "epochs: 0": lambda p: p.training(max_epochs=0),
    "epochs: 1.5": lambda p: p.training(max_epochs=1.5),
    "steps: -1": lambda p: p.training(iters_per_epoch=-1),
    "batch of 0": lambda p: p.training(batch_size=0),
    "size of one number": lambda p: p.training(image_size=96),
    "size as words": lambda p: p.training(image_size="96 48"),
    "size of three numbers": lambda p: p.training(image_size=[32, 16, 8]),
    "pixels of 0 mm": lambda p: p.training(pixel_mm=0),
    "learning rate below 0": lambda p: p.training(learning_rate=-1),
    "switch that is a word": lambda p: p.training(resume="yes"),
    "training: key misspelt": lambda p: p.training(larning_rate=0.1),
    "training: key deep inside misspelt": lambda p: p.training(**{"train#trainer#max_epoch": 3}),
    "value None": lambda p: p.training(batch_size=None),
    "device that is not there": lambda p: p.training(device="cuda:77"),
    "device that does not exist": lambda p: p.training(device="gpu"),
    "training into a file": lambda p: p.training(output_dir=p.by_hand("file") / "run"),
    "models into a file": lambda p: p.training(ckpt_dir=p.by_hand("file") / "models"),
    "cache into a file": lambda p: p.training(cache_dir=p.by_hand("file") / "cache"),
}
"""Kinds of runs that refuse."""
