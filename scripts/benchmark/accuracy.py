"""Train and score methods on the same labelled patients with the same steps; one CSV row a run, finished rows are kept.

For each number of labelled patients and seed, a supervised warm start and stage 1 are trained once; every method then
takes the same further steps on the segmentation network, with the same total weight of its unlabelled terms. What is
kept of a run was chosen on the validation patients; test patients are scored once, at the end.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..bundle_runs import bundle_run
from ..data.prepare import prepare

FIELDS = (
    "method", "labelled", "seed", "mdice", "miou", "mdice_decoded", "miou_decoded", "unlabelled_mdice",
    "unlabelled_mdice_decoded", "steps", "stage1_steps", "resolution", "device", "date", "map_mdice",
    "pseudo_label_mdice", "validation_mdice",
)  # fmt: skip
OVERLAYS: dict[str, list[str]] = {"cps4": []}
"""Config files of a method behind train.yaml; for the others `methods/<name>.yaml`."""
USES_PROMPTS = ("cps4", "cps4_literal")
EQUAL_WEIGHTS = {"cps4_literal": {"loss_weights#prompt": 0.5, "loss_weights#enhanced": 0.5}}
"""Weights of unlabelled terms that do not sum to 1 in the method's own overlay, scaled so that they do."""


@dataclass(frozen=True)
class Settings:
    """What all runs of a benchmark share.

    Attributes:
        out: folder of the runs.
        data: folder of the scans, in `layout`.
        overlays: config files behind every method's, of the data set for example.
        stage1_overlays: config files behind pretrain.yaml.
        warm, epochs, stage1_epochs: epochs of the supervised warm start, of each method after it, and of stage 1.
        iters: optimiser steps an epoch.
        learning_rate: of the steps after the warm start.
        overrides, stage1_overrides: overrides of every run of stage 2, and of stage 1.
        image_size: (H, W) of the slices.
    """

    out: Path
    data: Path
    layout: str
    overlays: list[str]
    stage1_overlays: list[str]
    warm: int
    epochs: int
    stage1_epochs: int
    iters: int
    learning_rate: float
    overrides: dict[str, Any]
    stage1_overrides: dict[str, Any]
    image_size: list[int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled scans, as `prepare` takes it")
    parser.add_argument("--layout", default="auto", help="layout of the folder, as `prepare` takes it")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; results.csv is written here")
    parser.add_argument("--methods", nargs="+", default=["supervised", "mean_teacher", "cps4_literal", "cps4"])
    parser.add_argument("--labelled", nargs="+", type=int, default=[1, 2], help="numbers of labelled patients")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--overlays", nargs="*", default=[], help="config files behind the method's, e.g. a data set's")
    parser.add_argument("--stage1-overlays", nargs="*", default=[], help="config files behind pretrain.yaml")
    parser.add_argument("--warm", type=int, default=30, help="epochs of the supervised warm start")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of each method after the warm start")
    parser.add_argument("--learning-rate", type=float, default=0.001, help="of the steps after the warm start")
    parser.add_argument("--stage1-epochs", type=int, default=20)
    parser.add_argument("--iters", type=int, default=20, help="optimiser steps an epoch")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of every run of stage 2")
    parser.add_argument("--stage1-set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of stage 1")
    parser.add_argument("--image-size", nargs=2, type=int, default=[256, 128], help="H W of the slices")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, each on one core")


def run(args: argparse.Namespace) -> int:
    """Run the grid and write `results.csv`."""
    if args.jobs > 1:
        os.environ["OMP_NUM_THREADS"] = "1"
    settings = Settings(
        args.out.absolute(), args.data.absolute(), args.layout, args.overlays, args.stage1_overlays, args.warm,
        args.epochs, args.stage1_epochs, args.iters, args.learning_rate, _pairs(args.set), _pairs(args.stage1_set),
        args.image_size,
    )  # fmt: skip
    settings.out.mkdir(parents=True, exist_ok=True)
    _write_settings(settings, args)
    cells = [(n, seed) for n in args.labelled for seed in args.seeds]
    for cell in cells:
        _datalist(settings, *cell)
    first = [(train_warm_start, cell) for cell in cells]
    if any(m in USES_PROMPTS for m in args.methods):
        first += [(train_stage1, cell) for cell in cells]
    _all(first, settings, args.jobs, "warm starts and stage 1")
    _all([(train_and_score, (m, *cell)) for cell in cells for m in args.methods], settings, args.jobs, "methods")
    print(collect(settings.out))
    return 0


def train_warm_start(settings: Settings, labelled: int, seed: int) -> None:
    """Train on the labelled slices alone; every method goes on from these weights."""
    folder = _folder(settings, "warm", labelled, seed)
    if not (folder / "done").is_file():
        _train(settings, folder, "supervised", labelled, seed, settings.warm, {})
        (folder / "done").touch()


def train_stage1(settings: Settings, labelled: int, seed: int) -> None:
    """Train stage 1, and score its prompt-guided map on the unlabelled patients."""
    folder = _folder(settings, "stage1", labelled, seed)
    if (folder / "done").is_file():
        return
    overrides = {
        "datalist": _datalist(settings, labelled, seed), "seed": seed, "output_dir": folder, "resume": True,
        "cache_dir": settings.out / "cache", "prompt_model_dir": folder / "prompt", "image_size": settings.image_size,
        "max_epochs": settings.stage1_epochs, "iters_per_epoch": settings.iters, **settings.stage1_overrides,
    }  # fmt: skip
    configs = ["pretrain.yaml", *settings.stage1_overlays]
    bundle_run("pretraining", configs, overrides, folder / "log.txt", show=False)
    prompts = {"prompt_model_dir": folder / "prompt"}
    score(folder, overrides["datalist"], "unlabelled", "map", prompts, ["evaluate_prompt_maps.yaml"])
    (folder / "done").touch()


def train_and_score(settings: Settings, method: str, labelled: int, seed: int) -> None:
    """Train one method from the warm start, score it, and leave `row.json` in its folder."""
    folder = _folder(settings, method, labelled, seed)
    if (folder / "row.json").is_file():
        return
    warm, stage1 = (_folder(settings, kind, labelled, seed) for kind in ("warm", "stage1"))
    start = {"warm_start": warm / "models" / "model.pt", "ramp#start": 0.0, "learning_rate": settings.learning_rate}
    start |= EQUAL_WEIGHTS.get(method, {})
    if method in USES_PROMPTS:
        start["prompt_model_dir"] = stage1 / "prompt"
    _train(settings, folder, method, labelled, seed, settings.epochs, start)
    datalist = _datalist(settings, labelled, seed)
    test = score(folder, datalist, "test")
    row = {
        "method": method, "labelled": labelled, "seed": seed, "mdice": test["mdice"], "miou": test["miou"],
        "unlabelled_mdice": score(folder, datalist, "unlabelled")["mdice"],
        "steps": (settings.warm + settings.epochs) * settings.iters,
        "stage1_steps": settings.stage1_epochs * settings.iters if method in USES_PROMPTS else 0,
        "resolution": "x".join(map(str, settings.image_size)), "device": _device(), "date": str(datetime.date.today()),
        "validation_mdice": _best_validation(folder),
    }  # fmt: skip
    if method in ("mean_teacher", "cps4"):
        teacher = {"ckpt_path": folder / "checkpoint.pt", "ckpt_key": "teacher"}
        row["pseudo_label_mdice"] = score(folder, datalist, "unlabelled", "teacher", teacher)["mdice"]
    if method in USES_PROMPTS:
        row["map_mdice"] = _read(stage1 / "map_unlabelled" / "summary.json")["mdice"]
    (folder / "row.json").write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")


def score(
    folder: Path,
    datalist: Path,
    section: str,
    what: str = "network",
    overrides: dict[str, Any] | None = None,
    overlays: list[str] | None = None,
) -> dict[str, Any]:
    """Score a run's network (or its teacher, or a prompt-guided map) on a section of the datalist."""
    out, thorough = folder / f"{what}_{section}", section == "test"
    given = {
        "datalist": datalist, "section": section, "ckpt_dir": folder / "models", "output_dir": out,
        "pictures": False, "distances": thorough, "save_labels": thorough, **(overrides or {}),
    }  # fmt: skip
    bundle_run("evaluating", ["inference.yaml", "evaluate.yaml", *(overlays or [])], given, out / "log.txt", show=False)
    return _read(out / "summary.json")


def collect(out: Path) -> Path:
    """Write `results.csv` from the rows of all finished runs."""
    rows = [_read(p) for p in sorted(out.glob("*/row.json"))]
    rows.sort(key=lambda r: (r["labelled"], r["method"], r["seed"]))
    path = out / "results.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})
    return path


def _train(
    settings: Settings, folder: Path, method: str, labelled: int, seed: int, epochs: int, start: dict[str, Any]
) -> None:
    """Train a method of stage 2; killed on the way, it goes on from its last epoch."""
    overrides = {
        "datalist": _datalist(settings, labelled, seed), "seed": seed, "output_dir": folder, "resume": True,
        "ckpt_dir": folder / "models", "cache_dir": settings.out / "cache", "image_size": settings.image_size,
        "max_epochs": epochs, "iters_per_epoch": settings.iters, **start, **settings.overrides,
    }  # fmt: skip
    configs = ["train.yaml", *OVERLAYS.get(method, [f"methods/{method}.yaml"]), *settings.overlays]
    bundle_run("training", configs, overrides, folder / "log.txt", show=False)


def _all(jobs: list[tuple[Any, tuple[Any, ...]]], settings: Settings, at_once: int, what: str) -> None:
    """Do all jobs, some at the same time, with a bar; a failed one stops nothing but is raised at the end."""
    with ThreadPoolExecutor(at_once) as pool:
        futures = [pool.submit(action, settings, *cell) for action, cell in jobs]
        for future in tqdm(futures, desc=what):
            future.exception()
    for future in futures:
        future.result()


def _best_validation(folder: Path) -> float:
    """Best mean Dice of the validation patients during training, on the network's own grid."""
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return max(float(row["value"]) for row in csv.DictReader(file) if row["name"] == "val_mean_dice")


def _folder(settings: Settings, kind: str, labelled: int, seed: int) -> Path:
    return settings.out / f"{kind}_{labelled}_{seed}"


def _datalist(settings: Settings, labelled: int, seed: int) -> Path:
    path = settings.out / f"datalist_{labelled}_{seed}.json"
    if not path.is_file():
        prepare(settings.data, path, layout=settings.layout, labelled_cases=labelled, seed=seed)
    return path


def _write_settings(settings: Settings, args: argparse.Namespace) -> None:
    """What the results page says about how the runs were made; no paths of the machine."""
    shown = {k: v for k, v in vars(args).items() if k not in ("data", "out", "run", "benchmark", "command", "kind")}
    text = json.dumps({**shown, "device": _device()}, indent=1, default=str)
    (settings.out / "settings.json").write_text(text + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _pairs(items: list[str]) -> dict[str, Any]:
    return dict(item.split("=", 1) for item in items)


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
