"""`python -m scripts train`: stage 1 and stage 2 on a datalist, with a grid and networks that fit data and machine."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from ..bundle.launch import config_paths
from ..bundle.model_file import trained_settings
from ..data.datalist import DataError, load_datalist
from ..data.prepare.fingerprint import MOST_PIXELS, fitting_grid, read_fingerprint
from ..files import FileError
from ..networks.pretrained import require_pretrained
from ..weights import WEIGHTS, is_unfinished
from .estimate import pretraining_seconds, training_seconds
from .long_form import long_command, read_settings, run_long, takes_settings

OF_A_NETWORK = ("image_size", "pixel_mm", "channels", "norm", "statistics")
"""Settings that weights to start from decide."""
SHARED = {
    *("datalist", "prompt_model_dir", "cache_dir", "class_table", "image_size", "pixel_mm", "device", "seed"),
    *("resume", "overwrite"),
}
"""Settings that stage 1 takes over from stage 2."""
STAGE1 = "stage1#"
"""What settings of stage 1 alone begin with."""


@dataclass
class Plan:
    """A training that fits data and machine.

    Attributes:
        settings: key -> value of stage 2.
        configs: config files of stage 2.
        stage1: config files of stage 1; empty where no unlabelled scan would have use of it.
        stage1_settings: key -> value of stage 1.
        notes: what was chosen, and why.
    """

    settings: dict[str, Any]
    configs: list[str] = field(default_factory=lambda: ["train.yaml"])
    stage1: list[str] = field(default_factory=list)
    stage1_settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def runs(self) -> list[tuple[str, list[str], dict[str, Any]]]:
        """Run id, config files and settings of each run; a stage 1 that has ended is not begun again in going on."""
        prompts = Path(str(self.settings["prompt_model_dir"]))
        ended = self.settings.get("resume") and (prompts / WEIGHTS).is_file() and not is_unfinished(prompts)
        first = [("pretraining", self.stage1, self.stage1_settings)] if self.stage1 and not ended else []
        return [*first, ("training", self.configs, self.settings)]


def make_plan(
    datalist: Path, out: Path, warm_start: Path | None = None, device: str | None = None, **settings: Any
) -> Plan:
    """Choose grid, networks and encoders.

    The grid is that of `warm_start`, else what the data's fingerprint asks for, with fewer pixels on a CPU. On a CPU
    the network is the narrow one, and stage 1 has small encoders; so it has where no hub answers.

    Args:
        datalist: what `prepare` wrote.
        out: the run's folder.
        warm_start: weights, `model.json` beside them.
        device: cpu or cuda:N; None takes a GPU where there is one.
        settings: keys of `train.yaml`, or of `pretrain.yaml` behind `STAGE1`, that go before all that is chosen here.

    Raises:
        DataError: no datalist, or one that cannot be read; no weights.
    """
    sections = load_datalist(datalist).sections
    gpu = torch.device(device).type == "cuda" if device else torch.cuda.is_available()
    where = {"output_dir": out, "prompt_model_dir": out / "models" / "prompt", "cache_dir": Path("cache")}
    plan = Plan({"datalist": datalist, **where, **({"device": device} if device else {})})
    if not gpu:
        plan.configs.append("narrow.yaml")
        plan.notes.append("network: narrow, as there is no GPU" if not device else "network: narrow, on a CPU")
    if warm_start is not None:
        _start_from(warm_start, plan)
    elif found := read_fingerprint(datalist):
        plan.settings |= fitting_grid(found, MOST_PIXELS["cuda" if gpu else "cpu"])
        plan.notes.append(f"grid: {_grid(plan.settings)}, for {found.height_mm:.0f} x {found.width_mm:.0f} mm")
    plan.settings |= {key: value for key, value in settings.items() if not key.startswith(STAGE1)}
    if sections.get("unlabelled"):
        plan.stage1 = ["pretrain.yaml"]
        if reason := "on a CPU" if not gpu else _no_hub():
            plan.stage1.append("offline_encoders.yaml")
            plan.notes.append(f"stage 1: small encoders, trained from scratch, {reason}")
        plan.stage1_settings = {key: value for key, value in plan.settings.items() if key in SHARED}
        plan.stage1_settings["output_dir"] = Path(str(plan.settings["output_dir"])) / "pretrain"
        own = {key.removeprefix(STAGE1): value for key, value in settings.items() if key.startswith(STAGE1)}
        plan.stage1_settings |= own
    else:
        plan.notes.append("no unlabelled scans: no stage 1, supervised training")
    return plan


def _start_from(weights: Path, plan: Plan) -> None:
    if not weights.is_file():
        raise DataError(f"there are no weights {weights}; correct --warm_start or leave it out")
    beside = trained_settings(weights.parent)
    plan.settings |= {"warm_start": weights, **{key: beside[key] for key in OF_A_NETWORK if key in beside}}
    if "image_size" in beside:
        plan.notes.append(f"grid and width: of {weights}, {_grid(plan.settings)}, channels {beside['channels']}")


def _grid(settings: Mapping[str, Any]) -> str:
    height, width = settings["image_size"]
    return f"{height} x {width} pixels of {settings['pixel_mm']} mm"


def _no_hub() -> str:
    """Why pretrained encoders cannot be had; "" if they can."""
    base = ConfigParser.load_config_file(config_paths(["pretrain.yaml"])[0])
    try:
        require_pretrained([base["vision_encoder"], base["text_encoder"]])
    except FileError:
        return "as no hub answers"
    return ""


def estimate(plan: Plan) -> str:
    """A line with the hours that a plan will take, from a few timed steps."""
    sections = load_datalist(plan.settings["datalist"]).sections
    counts = [len(sections.get(section, ())) for section in ("unlabelled", "validation")]
    stages = [
        pretraining_seconds(configs, _plain(settings))
        if run_id == "pretraining"
        else training_seconds(configs, _plain(settings), *counts)
        for run_id, configs, settings in plan.runs
    ]
    parts = [f"{steps} steps in {_hours(seconds)}" for steps, seconds in stages]
    total = _hours(sum(seconds for _, seconds in stages))
    return f"time: about {total} ({', then '.join(parts)}), an estimate from a few steps timed now on this machine"


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("datalist", type=Path, metavar="D.json", help="datalist that `prepare` wrote")
    # the longer spellings are those of the long command, which its messages name
    out = "folder of the run; its network comes to DIR/models"
    add("--out", "--output_dir", type=Path, default=Path("runs/cps4"), metavar="DIR", help=out)
    add("--warm_start", type=Path, metavar="FILE", help="weights to start from, which decide grid and width")
    add("--device", help="cpu or cuda:N; else a GPU where there is one")
    flag: dict[str, Any] = {"nargs": "?", "const": "True", "choices": ("True", "False")}
    add("--resume", **flag, help="go on where the last call ended, from the beginning where there was none")
    add("--overwrite", **flag, help="replace what an earlier run left")
    add("--dry-run", action="store_true", help="print plan, time and long command, and train nothing")
    takes_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Say what will be done, how long it will take and by which long command; then do it."""
    given = {key: True for key in ("resume", "overwrite") if getattr(args, key) == "True"}
    plan = make_plan(args.datalist, args.out, args.warm_start, args.device, **given, **read_settings(args.settings))
    print("\n".join(plan.notes), flush=True)
    print(estimate(plan), flush=True)
    for run_id, configs, settings in plan.runs:
        print(f"in long: {long_command(run_id, configs, settings)}", flush=True)
    for one in () if args.dry_run else plan.runs:
        run_long(*one)
    return 0
