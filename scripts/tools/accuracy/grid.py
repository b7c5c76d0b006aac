"""The jobs of a benchmark grid: warm start and stage 1, shared by systems, then training and scoring of each system."""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...bundle.launch import Run, bundle_run, bundle_runs
from ...files import write_whole
from .jobs import Job
from .subsets import Cell
from .systems import System

TEACHER_SCORED = ("mean_teacher", "cps4")
"""Systems whose teacher is scored on the unlabelled patients too: the pseudo-labels before and after prompts."""
EVALUATION = ["inference.yaml", "evaluate.yaml"]


@dataclass(frozen=True)
class Settings:
    """What all runs of a benchmark share.

    Attributes:
        out: folder of the runs.
        overlays: config files behind every system's, of the data set for example.
        stage1_overlays: config files behind pretrain.yaml.
        warm, epochs, stage1_epochs: epochs of the supervised warm start, of each system after it, and of stage 1.
        iters: optimiser steps an epoch.
        learning_rate: of the steps after the warm start.
        overrides, stage1_overrides: overrides of every run of stage 2, and of stage 1.
        image_size: (H, W) of the slices.
    """

    out: Path
    overlays: list[str]
    stage1_overlays: list[str]
    warm: int
    epochs: int
    stage1_epochs: int
    iters: int
    learning_rate: float
    overrides: Mapping[str, Any]
    stage1_overrides: Mapping[str, Any]
    image_size: list[int]


@dataclass(frozen=True)
class Grid:
    """Makes the jobs.

    Attributes:
        settings: of the benchmark.
        known: all systems by name, since a system may take the stage 1 of another.
    """

    settings: Settings
    known: Mapping[str, System]

    def row(self, system: System, cell: Cell) -> Job:
        """Train a system from the warm start and score it; writes `row.json` into its folder."""
        folder, s = self._folder(system.name, cell), self.settings
        warm = self.warm(cell)
        stage1 = None if system.stage1_of is None else self.stage1(self.known[system.stage1_of or "cps4"], cell)

        def state() -> str:
            return "done" if (folder / "row.json").is_file() else training_state(folder, s.epochs)

        def do() -> None:
            start = {"warm_start": self._folder("warm", cell) / "models" / "model.pt", "ramp#start": 0.0}
            start |= {"learning_rate": s.learning_rate, "prior_geometry": "$None"}  # of the same cohort
            if stage1:
                start["prompt_model_dir"] = s.out / stage1.name / "prompt"
            self._train(folder, system, cell, s.epochs, start)
            scores = self._score(folder, cell, teacher=system.name in TEACHER_SCORED)
            maps = s.out / stage1.name / "map_unlabelled" / "summary.json" if stage1 else None
            row = {
                "method": system.name, "labelled": cell.labelled, "seed": cell.seed, **scores,
                "steps": (s.warm + s.epochs) * s.iters, "stage1_steps": s.stage1_epochs * s.iters if stage1 else 0,
                "resolution": "x".join(map(str, s.image_size)), "device": device_name(),
                "date": str(datetime.date.today()), "validation_mdice": best_validation(folder),
                "map_mdice": read(maps)["mdice"] if maps and maps.is_file() else None,
            }  # fmt: skip
            write_json(folder / "row.json", row)

        return Job(folder.name, system.name, s.epochs * s.iters, state, do, (warm, stage1) if stage1 else (warm,))

    def warm(self, cell: Cell) -> Job:
        """Supervised training on the labelled slices; every system starts from these weights."""
        folder, s = self._folder("warm", cell), self.settings

        def do() -> None:
            self._train(folder, self.known["supervised"], cell, s.warm, {})
            (folder / "done").touch()

        return Job(folder.name, "warm", s.warm * s.iters, lambda: _marked(folder, s.warm), do)

    def stage1(self, system: System, cell: Cell) -> Job:
        """Train a stage 1 and score its prompt-guided maps on the unlabelled patients."""
        own = f"stage1_{system.stage1_of}" if system.stage1_of else "stage1"
        folder, s = self._folder(own, cell), self.settings
        maps = folder / "map_unlabelled"
        needs: tuple[Job, ...] = ()
        before: dict[str, Path] = {}
        if system.follows:
            needs = (self.row(self.known[system.follows[0]], cell),)
            before = {system.follows[1]: s.out / needs[0].name}

        def state() -> str:
            trained = _marked(folder, s.stage1_epochs, "prompt")
            return "scores" if trained == "done" and cell.hidden and not (maps / "summary.json").is_file() else trained

        def do() -> None:
            overrides = {
                "datalist": cell.datalist, "seed": cell.seed, "output_dir": folder, "resume": True,
                "cache_dir": s.out / "cache", "prompt_model_dir": folder / "prompt", "image_size": s.image_size,
                "max_epochs": s.stage1_epochs, "iters_per_epoch": s.iters, **before, **s.stage1_overrides,
                **system.stage1_overrides,
            }  # fmt: skip
            if _marked(folder, s.stage1_epochs, "prompt") not in ("done", "scores"):
                configs = ["pretrain.yaml", *s.stage1_overlays, *system.stage1]
                bundle_run("pretraining", configs, overrides, folder / "log.txt", show=False)
            if cell.hidden:
                prompts = {"prompt_model_dir": folder / "prompt"}
                run = evaluation(folder, cell, "unlabelled", maps, prompts, ["evaluate_prompt_maps.yaml"])
                bundle_runs([run], folder / "scores.txt")
            (folder / "done").touch()

        return Job(folder.name, "stage1", s.stage1_epochs * s.iters, state, do, needs)

    def _train(self, folder: Path, system: System, cell: Cell, epochs: int, start: Mapping[str, Any]) -> None:
        """Train a stage 2, or resume it from its last epoch. A system's own overrides go last."""
        s = self.settings
        if training_state(folder, epochs) == "scores":
            return
        overrides = {
            "datalist": cell.datalist, "seed": cell.seed, "output_dir": folder, "resume": True,
            "ckpt_dir": folder / "models", "cache_dir": s.out / "cache", "image_size": s.image_size,
            "max_epochs": epochs, "iters_per_epoch": s.iters, **start, **s.overrides, **system.overrides,
        }  # fmt: skip
        bundle_run("training", ["train.yaml", *system.stage2, *s.overlays], overrides, folder / "log.txt", show=False)

    def _score(self, folder: Path, cell: Cell, teacher: bool) -> dict[str, Any]:
        """Columns of the scores on test and unlabelled patients; None where there are no labels to score against."""
        out = {what: folder / what for what in ("network_test", "network_unlabelled", "teacher_unlabelled")}
        runs = [evaluation(folder, cell, "test", out["network_test"])]
        if cell.hidden:
            runs.append(evaluation(folder, cell, "unlabelled", out["network_unlabelled"]))
        if cell.hidden and teacher:
            weights = {"ckpt_path": folder / "checkpoint.pt", "ckpt_key": "teacher"}
            runs.append(evaluation(folder, cell, "unlabelled", out["teacher_unlabelled"], weights))
        bundle_runs(runs, folder / "scores.txt")
        test, unlabelled, pseudo = (read(path / "summary.json") for path in out.values())
        return {
            **columns(test, "mdice", "miou", "levels_right"),
            **{f"unlabelled_{k}": v for k, v in columns(unlabelled, "mdice", "levels_right").items()},
            "pseudo_label_mdice": pseudo.get("mdice"),
        }  # fmt: skip

    def _folder(self, kind: str, cell: Cell) -> Path:
        return self.settings.out / f"{kind}_{cell.labelled}_{cell.seed}"


def evaluation(
    folder: Path,
    cell: Cell,
    section: str,
    out: Path,
    overrides: Mapping[str, Any] | None = None,
    overlays: list[str] | None = None,
) -> Run:
    """The run that scores the network of a folder, its teacher or its prompt-guided map on a datalist's section."""
    thorough = section == "test"
    given = {
        "datalist": cell.datalist, "section": section, "ckpt_dir": folder / "models", "output_dir": out,
        "pictures": False, "distances": thorough, "save_labels": thorough, **(overrides or {}),
    }  # fmt: skip
    return "evaluating", [*EVALUATION, *(overlays or [])], given


def training_state(folder: Path, epochs: int, kept: str = "models") -> str:
    """State of a training: "to do", "goes on after epoch N", or "scores" once complete and `kept` has the network.

    Read from `metrics.csv`, to which an epoch is written after its checkpoint and its validation.
    """
    log = folder / "metrics.csv"
    if not log.is_file():
        return "to do"
    with log.open(newline="", encoding="utf-8") as file:
        last = max((int(row["epoch"]) for row in csv.DictReader(file)), default=0)
    return "scores" if last >= epochs and (folder / kept / "model.pt").is_file() else f"goes on after epoch {last}"


def best_validation(folder: Path) -> float | None:
    """Best mean Dice of the validation patients, named, in a training, on the network's own grid; None without them."""
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return max((float(r["value"]) for r in csv.DictReader(file) if r["name"] == "val_mean_dice"), default=None)


def device_name() -> str:
    """The GPU, or "cpu"."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def read(path: Path) -> dict[str, Any]:
    """A JSON file; nothing where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_whole(path, json.dumps(content, indent=1, default=str) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file, whole or not at all; fractions with four digits."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    write_whole(path, text.getvalue())


def _marked(folder: Path, epochs: int, kept: str = "models") -> str:
    return "done" if (folder / "done").is_file() else training_state(folder, epochs, kept)


def columns(summary: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Scores by read-out of the levels (the network's own, decoded, named), None where there are none."""
    readouts = {"": summary, "_decoded": summary.get("decoded") or {}, "_named": summary.get("named") or {}}
    return {f"{name}{ending}": scores.get(name) for ending, scores in readouts.items() for name in names}
