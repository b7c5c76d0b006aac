"""Labelling of a folder of volumes with two processes against one process, one volume after another."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ...bundle.launch import BUNDLE_ROOT, command
from ...phantom.write import write_phantoms
from .inference import Setting
from .pairs import Goal, in_turns
from .steps import Sizes

DRAWN = 4
"""Phantoms that are drawn; the other scans are copies."""


def folder_row(sizes: Sizes, setting: Setting, work: Path, volumes: int, pairs: int) -> dict[str, Any]:
    """Row: label_datasets.yaml under torchrun with two processes, against inference.yaml; both from start to end.

    Args:
        sizes: the seed.
        setting: scans and network.
        work: folder for scans, network and label maps.
        volumes: number of scans.
        pairs: of runs.

    Raises:
        RuntimeError: a run failed, or the label maps differ.
    """
    goal = Goal(
        f"inference of {volumes} volumes with reading and writing, two processes of one thread",
        1 / 1.7,
        "one process of one thread, one volume after another",
    )
    drawing: dict[str, Any] = {"shape_hw": setting.shape, "pixel_mm": setting.pixel_mm}
    datalist = write_phantoms(
        work / "drawn", labelled=1, unlabelled=DRAWN - 1, validation=0, test=0, seed=sizes.seed, **drawing
    )
    folder = setting.network(sizes, datalist, work)
    scans = work / "many"
    scans.mkdir(parents=True, exist_ok=True)
    for number in range(volumes):
        drawn = datalist.parent / "images" / f"phantom_{number % DRAWN + 1:04d}.nii.gz"
        shutil.copyfile(drawn, scans / f"scan_{number:04d}.nii.gz")
    common = {"input_dir": scans, "ckpt_dir": folder, "device": "$torch.device('cpu')"}
    one, two = work / "one", work / "two"
    reference = command("inference", ["inference.yaml"], {**common, "output_dir": one})
    share = command("inference", ["inference.yaml", "label_datasets.yaml"], {**common, "output_dir": two})
    torchrun = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    ours = [*torchrun, *share[share.index("-m") :]]
    times = in_turns(lambda: _fresh(ours, two), lambda: _fresh(reference, one), pairs, 0)
    made = [sorted(out.glob("*_seg.nii.gz")) for out in (one, two)]
    if len(made[0]) != volumes or [f.read_bytes() for f in made[0]] != [f.read_bytes() for f in made[1]]:
        raise RuntimeError(f"both must write the same {volumes} label maps, see {work}")
    return goal.row(times, scan_shape=[*setting.shape], volumes=volumes)


def _fresh(line: list[str], out: Path) -> None:
    """Run a command into an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    env = {**os.environ, "PYTHONPATH": str(BUNDLE_ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=BUNDLE_ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)} failed\n{done.stderr[-1000:]}")
