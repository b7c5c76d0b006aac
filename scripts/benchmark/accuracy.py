"""Train and score methods on the same labelled patients with the same steps; one CSV row a run, finished rows are kept.

Stage 1 is trained once for each number of labelled patients and seed and shared by the methods that read it. Every
method gets the same optimiser steps on the segmentation network and the same total weight of its unlabelled terms.
Test patients are scored once, at the end of a run; what is kept of a run was chosen on the validation patients.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle_runs import bundle_run
from ..data.prepare import prepare

FIELDS = (
    "method", "labelled", "seed", "mdice", "miou", "mdice_decoded", "miou_decoded", "unlabelled_mdice",
    "unlabelled_mdice_decoded", "steps", "stage1_steps", "resolution", "device", "date", "map_mdice", "teacher_mdice",
    "validation_mdice",
)  # fmt: skip
OVERLAYS: dict[str, list[str]] = {"cps4": []}
"""Config files of a method behind train.yaml; by default `methods/<name>.yaml`."""
USES_PROMPTS = ("cps4", "cps4_literal")


@dataclass(frozen=True)
class Settings:
    """What all runs of a benchmark share."""

    out: Path
    data: Path
    layout: str
    overlays: list[str]
    stage1_overlays: list[str]
    epochs: int
    iters: int
    stage1_epochs: int
    stage1_iters: int
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
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--iters", type=int, default=20, help="optimiser steps an epoch")
    parser.add_argument("--stage1-epochs", type=int, default=30)
    parser.add_argument("--stage1-iters", type=int, default=20)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of every stage-2 run")
    parser.add_argument("--stage1-set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of stage 1")
    parser.add_argument("--image-size", nargs=2, type=int, default=[256, 128], help="H W, for the table and every run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")


def run(args: argparse.Namespace) -> int:
    """Run the grid and write `results.csv`."""
    settings = Settings(
        args.out.absolute(), args.data.absolute(), args.layout, args.overlays, args.stage1_overlays, args.epochs,
        args.iters, args.stage1_epochs, args.stage1_iters, _pairs(args.set), _pairs(args.stage1_set), args.image_size,
    )  # fmt: skip
    settings.out.mkdir(parents=True, exist_ok=True)
    cells = [(n, seed) for n in args.labelled for seed in args.seeds]
    with ThreadPoolExecutor(args.jobs) as pool:
        if any(m in USES_PROMPTS for m in args.methods):
            list(pool.map(lambda cell: train_stage1(settings, *cell), cells))
        jobs = [(method, *cell) for cell in cells for method in args.methods]
        list(pool.map(lambda job: train_and_score(settings, *job), jobs))
    collect(settings.out)
    return 0


def train_stage1(settings: Settings, labelled: int, seed: int) -> Path:
    """Train stage 1 for one labelled set, score its map on the unlabelled patients, and return its folder."""
    folder = settings.out / f"stage1_{labelled}_{seed}"
    if (folder / "done").is_file():
        return folder
    datalist = _datalist(settings, labelled, seed)
    common = {"cache_dir": settings.out / "cache", "prompt_model_dir": folder / "prompt"}
    bundle_run(
        "pretraining",
        ["pretrain.yaml", *settings.stage1_overlays, *settings.overlays],
        {
            **common, "datalist": datalist, "seed": seed, "output_dir": folder, "resume": True,
            "max_epochs": settings.stage1_epochs, "iters_per_epoch": settings.stage1_iters,
            "image_size": settings.image_size, **settings.stage1_overrides,
        },
        folder / "log.txt",
        show=False,
    )  # fmt: skip
    grid = {"prompt_model_dir": folder / "prompt", "image_size": settings.image_size}
    grid |= {k: v for k, v in settings.overrides.items() if k == "pixel_mm"}
    for section in ("unlabelled", "validation"):
        score(folder, datalist, section, "map", grid, ["evaluate_prompt_maps.yaml", *_grids(settings)])
    (folder / "done").touch()
    return folder


def train_and_score(settings: Settings, method: str, labelled: int, seed: int) -> None:
    """Train one method on one labelled set, score it, and leave `row.json` in its folder."""
    folder = settings.out / f"{method}_{labelled}_{seed}"
    if (folder / "row.json").is_file():
        return
    print(f"{method}, {labelled} labelled, seed {seed}", flush=True)
    datalist, stage1 = _datalist(settings, labelled, seed), settings.out / f"stage1_{labelled}_{seed}"
    overlays = OVERLAYS.get(method, [f"methods/{method}.yaml"])
    bundle_run(
        "training",
        ["train.yaml", *overlays, *settings.overlays],
        {
            "datalist": datalist, "seed": seed, "output_dir": folder, "ckpt_dir": folder / "models", "resume": True,
            "cache_dir": settings.out / "cache", "prompt_model_dir": stage1 / "prompt", "max_epochs": settings.epochs,
            "iters_per_epoch": settings.iters, "image_size": settings.image_size, **settings.overrides,
        },
        folder / "log.txt",
        show=False,
    )  # fmt: skip
    test = score(folder, datalist, "test")
    row = {
        "method": method, "labelled": labelled, "seed": seed, "mdice": test["mdice"], "miou": test["miou"],
        "unlabelled_mdice": score(folder, datalist, "unlabelled")["mdice"],
        "steps": settings.epochs * settings.iters,
        "stage1_steps": settings.stage1_epochs * settings.stage1_iters if method in USES_PROMPTS else 0,
        "resolution": "x".join(map(str, settings.image_size)), "device": _device(), "date": str(datetime.date.today()),
        "validation_mdice": score(folder, datalist, "validation")["mdice"],
    }  # fmt: skip
    if method in USES_PROMPTS:
        row["map_mdice"] = json.loads((stage1 / "map_unlabelled" / "summary.json").read_text(encoding="utf-8"))["mdice"]
    if method != "supervised":
        teacher = {"ckpt_path": folder / "checkpoint.pt", "ckpt_key": "teacher"}
        row["teacher_mdice"] = score(folder, datalist, "unlabelled", "teacher", teacher)["mdice"]
    (folder / "row.json").write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")


def score(
    folder: Path,
    datalist: Path,
    section: str,
    what: str = "network",
    overrides: dict[str, Any] | None = None,
    overlays: list[str] | None = None,
) -> dict[str, Any]:
    """Score a run's network (or its teacher, or the prompt-guided map) on a section of its datalist."""
    out = folder / f"{what}_{section}"
    bundle_run(
        "evaluating",
        ["inference.yaml", "evaluate.yaml", *(overlays or [])],
        {
            "datalist": datalist, "section": section, "ckpt_dir": folder / "models", "output_dir": out,
            "pictures": section == "test", "distances": section == "test", "save_labels": section == "test",
            **(overrides or {}),
        },
        out / "log.txt",
        show=False,
    )  # fmt: skip
    return json.loads((out / "summary.json").read_text(encoding="utf-8"))


def collect(out: Path) -> Path:
    """Write `results.csv` from the rows of all finished runs."""
    rows = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(out.glob("*/row.json"))]
    rows.sort(key=lambda r: (r["labelled"], r["method"], r["seed"]))
    path = out / "results.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})
    return path


def _datalist(settings: Settings, labelled: int, seed: int) -> Path:
    path = settings.out / f"datalist_{labelled}_{seed}.json"
    if not path.is_file():
        prepare(settings.data, path, layout=settings.layout, labelled_cases=labelled, seed=seed)
    return path


def _pairs(items: list[str]) -> dict[str, Any]:
    return dict(item.split("=", 1) for item in items)


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
