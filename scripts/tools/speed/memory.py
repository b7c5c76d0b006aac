"""Peak memory (resident set size) of a run of both stages, on few and on many volumes."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import resource
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from ...bundle.launch import runs_here
from ...files import write_whole
from ...phantom.write import write_phantoms
from .pairs import Goal

OVERLAYS = ("smoke.yaml", "datasets/phantom.yaml")
"""Small networks and batches: volumes kept in memory would show beside them."""
STAGE1 = ("pretrain.yaml", "offline_encoders.yaml", *OVERLAYS)


def memory_row(
    work: Path, volumes: tuple[int, int], pairs: int, steps: int, seed: int, **drawing: Any
) -> dict[str, Any]:
    """Row: peak memory of a run on many phantoms against one on few, with the same number of steps.

    Args:
        work: folder of phantoms and runs.
        volumes: few and many, at least 2.
        pairs: runs of each, each in a new process with an empty cache.
        steps: optimiser steps of each stage.
        seed: of phantoms and runs.
        **drawing: see `write_phantoms`.
    """
    few, many = volumes
    lists = [
        write_phantoms(work / f"{n}", labelled=2, unlabelled=n - 2, validation=1, test=0, seed=seed, **drawing)
        for n in (many, few)
    ]
    peaks = []
    for _ in range(pairs):
        ours, reference = (peak_of_run(datalist, work / "run", steps, seed) for datalist in lists)
        peaks.append((ours, reference))
    goal = Goal(
        f"peak memory of a run of both stages on {many} volumes", 1.10, f"the same steps on {few} volumes", unit="MB"
    )
    return goal.row(peaks, steps=steps, volumes=[many, few], **drawing)


def peak_of_run(datalist: Path, folder: Path, steps: int, seed: int) -> float:
    """Peak memory in MB of one run in a new process, in an emptied folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return in_new_process(folder / "log.txt", _run, datalist, folder, steps, seed)[1]


def _run(datalist: Path, folder: Path, steps: int, seed: int) -> None:
    """Train both stages in this process."""
    one_epoch = {"max_epochs": 1, "iters_per_epoch": steps}
    stage1 = {"configs": list(STAGE1), "output_dir": str(folder / "stage1"), **one_epoch}
    overlay = folder / "stage1.json"
    write_whole(overlay, json.dumps({"+pretraining_settings": stage1}))
    overrides = {
        "datalist": datalist, "seed": seed, "output_dir": folder / "stage2", "ckpt_dir": folder / "models",
        "prompt_model_dir": folder / "prompt", "cache_dir": folder / "cache", **one_epoch,
        "ramp#start": 0.0, "ramp#length": 0.0,
    }  # fmt: skip
    runs_here(("run", ("train.yaml", *OVERLAYS, overlay), overrides))


def in_new_process(log: Path, do: Callable[..., None], *given: Any) -> tuple[float, float]:
    """Call a function in a new process; its output goes to a file.

    Returns:
        Seconds of the call, and the process's peak memory in MB.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, log, do, *given).result()


def _measured(log: Path, do: Callable[..., None], *given: Any) -> tuple[float, float]:
    with log.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        begin = time.perf_counter()
        do(*given)
        return time.perf_counter() - begin, peak_mb()


def peak_mb() -> float:
    """Peak memory of this process in MB, without its children."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage also counts what the parent held when it started this process
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
