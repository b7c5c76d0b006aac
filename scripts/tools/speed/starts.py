"""How long commands take to begin: a training to its first step, and the help of `python -m scripts`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from ignite.engine import Engine, Events

from ...bundle.launch import BUNDLE_ROOT, bundle_run, command
from ...phantom.write import write_phantoms
from .pairs import Goal, in_turns

OVERLAYS = ("smoke.yaml", "datasets/phantom.yaml")
TRAINING = Goal(
    "`monai.bundle run training` to the end of its first step, on a cached set", 2.0, "import monai, torch, ignite"
)
HELP = Goal("`python -m scripts --help`", 5.0, "python -c pass")


class EndAfterFirstStep:
    """Handler that ends the process once the first step is done."""

    def attach(self, engine: Engine) -> None:
        """Wait for the first step."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: os._exit(0))


def start_rows(work: Path, pairs: int, help_pairs: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows: the start of a training of stage 2 with the prompts of a stage 1, and of the command line.

    Args:
        work: folder for phantoms, cache and networks.
        pairs: of trainings, each in a process of its own.
        help_pairs: of helps.
        seed: of the phantoms.
    """
    counts = {"labelled": 2, "unlabelled": 4, "validation": 1, "test": 0}
    datalist = write_phantoms(work / "scans", **counts, seed=seed, shape_hw=(64, 40), pixel_mm=4.7)
    place = {"datalist": datalist, "cache_dir": work / "cache", "prompt_model_dir": work / "prompt"}
    stage1 = ["pretrain.yaml", "offline_encoders.yaml", *OVERLAYS]
    bundle_run("pretraining", stage1, {**place, "output_dir": work / "stage1"}, work / "log.txt", show=False)
    end = work / "end.yaml"
    handler = {"_target_": f"{__name__}.{EndAfterFirstStep.__name__}"}
    end.write_text(yaml.safe_dump({"+train#handlers": [handler]}), encoding="utf-8")
    stage2 = {**place, "ckpt_dir": work / "models", "output_dir": work / "stage2"}
    training = command("training", ["train.yaml", *OVERLAYS, end], stage2)
    imports = [sys.executable, "-W", "ignore", "-c", "import monai, torch, ignite"]
    yield TRAINING.row(in_turns(partial(_run, training), partial(_run, imports), pairs, 1))
    words = [sys.executable, "-m", "scripts", "--help"]
    yield HELP.row(in_turns(partial(_run, words), partial(_run, [sys.executable, "-c", "pass"]), help_pairs, 1))


def _run(line: list[str]) -> None:
    env = {**os.environ, "PYTHONPATH": str(BUNDLE_ROOT)}
    done = subprocess.run(line, cwd=BUNDLE_ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)} failed\n{done.stderr[-1000:]}")
