"""Two processes under torchrun, with gloo on the CPU: training, resuming, scoring, labelling, against one process."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TRAINING = ["train.yaml", "smoke.yaml"]
STEPS: dict[str, Any] = {
    "device": "$torch.device('cpu')",
    "max_epochs": 4,
    "iters_per_epoch": 1,
    "batch_size": 4,
    "unlabelled_batch_size": 4,
    "ramp#start": 0.0,
    "ramp#length": 0.3,
}
# Equal but for rounding only where nothing couples the slices of a batch but the mean over them: groups of channels are
# normalised slice by slice, without a warp or another slice's box in it every slice has the same number of labelled
# pixels, and Dice sums over the slices of a process. Slices are left out by the certainty of their names only where a
# cohort names them, see `CERTAIN`.
UNCOUPLED: dict[str, Any] = {
    "copy_paste": "$None",
    "pseudo_label_dice": 0.0,
    "norm": "group",
    **{f"augmentation#{name}": 0.0 for name in ("rotate_degrees", "scale", "shift", "elastic_px")},
}
CERTAIN: dict[str, Any] = {"pseudo_labels#cohort": "$None"}
TOLERANCE = 1e-4
"""Relative, of the losses of the first four steps: rounding alone, which Adam's first steps enlarge."""


def launch(run_id: str, configs: Sequence[str], processes: int = 1, **overrides: Any) -> subprocess.CompletedProcess:
    files = str([str(ROOT / "configs" / name) for name in configs])
    line = [sys.executable, "-W", "ignore"]
    if processes > 1:
        line += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    line += ["-m", "monai.bundle", "run", run_id, "--config_file", files, "--bundle_root", str(ROOT)]
    for name, value in overrides.items():
        line += [f"--{name}", str(value)]
    # gloo finds its network by the machine's name, which not every machine knows
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800, check=False)


def run(*args: Any, **kwargs: Any) -> None:
    done = launch(*args, **kwargs)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


def losses(folder: Path, name: str = "loss") -> list[float]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == name]


def training(stage1: SimpleNamespace, folder: Path, processes: int, **overrides: Any) -> Path:
    given: dict[str, Any] = {
        "datalist": stage1.datalist,
        "prompt_model_dir": stage1.models / "prompt",
        "cache_dir": stage1.cache,
        "output_dir": folder / "run",
        "ckpt_dir": folder / "models",
    }
    configs = [*TRAINING, *(["multi_gpu_train.yaml"] if processes > 1 else [])]
    run("training", configs, processes, **(STEPS | UNCOUPLED | given | overrides))
    return folder


@pytest.fixture(scope="module")
def alone(stage1: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training(stage1, tmp_path_factory.mktemp("alone"), 1)


@pytest.fixture(scope="module")
def together(stage1: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One validation volume for two processes, two unlabelled volumes, two labelled ones."""
    return training(stage1, tmp_path_factory.mktemp("together"), 2)


class TestTraining:
    def test_losses_of_the_first_steps(self, stage1: SimpleNamespace, tmp_path: Path) -> None:
        alone, together = (training(stage1, tmp_path / str(count), count, **CERTAIN) for count in (1, 2))
        for name in ("loss", "loss/supervised", "loss/enhanced"):
            one, two = losses(alone / "run", name), losses(together / "run", name)
            assert len(one) == 4
            assert two == pytest.approx(one, rel=TOLERANCE)

    def test_the_files_of_one_process(self, alone: Path, together: Path) -> None:
        names = [
            sorted(str(p.relative_to(f)) for p in f.rglob("*") if p.is_file() and "tfevents" not in p.name)
            for f in (alone, together)
        ]
        assert names[0] == names[1]
        assert len(list((together / "run/tensorboard").glob("*"))) == len(list((alone / "run/tensorboard").glob("*")))

    def test_pseudo_labels(self, alone: Path, together: Path) -> None:
        for path in (alone / "run/pseudo_labels").iterdir():
            one, two = np.load(path), np.load(together / "run/pseudo_labels" / path.name)
            assert one.shape == two.shape
            assert (one == two).mean() > 0.99  # weights differ in their last bits

    def test_resumed(self, stage1: SimpleNamespace, together: Path, tmp_path: Path) -> None:
        # the ramps and the learning rate know the length of training, so a shorter run is no half of it: the rows go on
        checkpoint = torch.load(together / "run/checkpoint.pt", weights_only=True)
        training(stage1, tmp_path, 2, max_epochs=2)
        training(stage1, tmp_path, 2, resume=True)
        resumed = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
        assert (resumed["epoch"], resumed["iteration"]) == (checkpoint["epoch"], checkpoint["iteration"]) == (4, 4)
        assert len(losses(tmp_path / "run")) == 4

    def test_equal_on_both_processes(self, stage1: SimpleNamespace, tmp_path: Path) -> None:
        """With batch normalisation, whose running averages come from other slices on each process."""
        probe = tmp_path / "probe.yaml"
        probe.write_text(
            "+train#handlers:\n"
            "- _target_: tests.integration.probe.DumpNetworks\n"
            "  objects: '@checkpoint_objects'\n"
            f"  folder: {tmp_path}\n",
            encoding="utf-8",
        )
        given = {
            "datalist": stage1.datalist,
            "prompt_model_dir": stage1.models / "prompt",
            "cache_dir": stage1.cache,
            "output_dir": tmp_path / "run",
            "ckpt_dir": tmp_path / "models",
        }
        run(
            "training", [*TRAINING, "multi_gpu_train.yaml", str(probe)], 2, **(STEPS | given), teacher_buffers="average"
        )
        states = [torch.load(tmp_path / f"rank_{rank}.pt", weights_only=True) for rank in range(2)]
        for name in ("student", "teacher"):
            assert states[0][name].keys() == states[1][name].keys()
            for key, tensor in states[0][name].items():
                assert torch.equal(tensor, states[1][name][key]), f"{name} {key}"

    def test_stage_1(self, stage1: SimpleNamespace, tmp_path: Path) -> None:
        given = {
            "datalist": stage1.datalist,
            "cache_dir": stage1.cache,
            "output_dir": tmp_path / "run",
            "prompt_model_dir": tmp_path / "prompt",
        }
        run("pretraining", ["pretrain.yaml", "offline_encoders.yaml", "smoke.yaml", "multi_gpu_train.yaml"], 2, **given)
        assert sorted(path.name for path in (tmp_path / "prompt").iterdir()) == ["model.json", "model.pt", "vocab.txt"]
        assert len(losses(tmp_path / "run")) == 2

    def test_batch_that_cannot_be_shared(self, stage1: SimpleNamespace, tmp_path: Path) -> None:
        given = {"datalist": stage1.datalist, "cache_dir": stage1.cache, "output_dir": tmp_path / "run"}
        given |= {"when_no_prompt_model": "supervised", "prompt_model_dir": tmp_path, "batch_size": 3}
        done = launch("training", [*TRAINING, "multi_gpu_train.yaml"], 2, **given)
        assert done.returncode != 0
        assert "a batch of 3 slices cannot be shared equally by 2 processes; set --batch_size" in done.stderr


class TestRefusal:
    """Said once, whether all processes find it or the first alone, and no process waits for one that has ended."""

    @pytest.mark.parametrize(
        ("overrides", "sentence"),
        [
            ({"larning_rate": 1}, "Error: --larning_rate is not a key of this configuration; did you mean"),
            ({"datalist": "no.json"}, "no.json: there is no such datalist; write one with"),
        ],
        ids=["by all", "by the first"],
    )
    def test_training(self, tmp_path: Path, overrides: dict[str, Any], sentence: str) -> None:
        given = {"datalist": "no.json", "output_dir": tmp_path / "run", **overrides}
        done = launch("training", [*TRAINING, "multi_gpu_train.yaml"], 2, **given)
        assert done.returncode != 0
        assert done.stderr.count(sentence) == 1
        assert done.stderr.count("exitcode  : 1 ") + done.stderr.count("exitcode  : -15 ") == 2
        assert "site-packages/monai" not in done.stderr  # the traceback is torchrun's own
        assert not (tmp_path / "run").exists()

    def test_labelling(self, tmp_path: Path) -> None:
        given = {"input_dir": tmp_path, "ckpt_dir": tmp_path / "none", "output_dir": tmp_path / "out"}
        done = launch("inference", ["inference.yaml", "label_datasets.yaml"], 2, **given)
        assert done.returncode != 0
        assert done.stderr.count("Error: there is no trained network") == 1


class TestEvaluation:
    @pytest.mark.parametrize("section", ["unlabelled", "test"])
    def test_scores_of_one_process(self, stage1: SimpleNamespace, alone: Path, tmp_path: Path, section: str) -> None:
        """Two volumes, and one, which leaves a process without any."""
        given = {"datalist": stage1.datalist, "ckpt_dir": alone / "models", "section": section, "pictures": False}
        configs = ["inference.yaml", "evaluate.yaml"]
        run("evaluating", configs, 1, output_dir=tmp_path / "one", **given)
        run("evaluating", [*configs, "multi_gpu_evaluate.yaml"], 2, output_dir=tmp_path / "two", **given)
        for name in ("summary.json", "per_case.csv", "per_case_decoded.csv"):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


class TestLabelling:
    def test_every_scan_once(self, stage1: SimpleNamespace, alone: Path, tmp_path: Path) -> None:
        scans = stage1.datalist.parent / "images"
        configs = ["inference.yaml", "label_datasets.yaml"]
        given = {"input_dir": scans, "ckpt_dir": alone / "models"}
        run("inference", ["inference.yaml"], 1, output_dir=tmp_path / "one", **given)
        run("inference", configs, 2, output_dir=tmp_path / "two", **given)
        made = sorted((tmp_path / "two").glob("*_seg.nii.gz"))
        assert len(made) == len(list(scans.iterdir())) == 6
        for path in made:
            assert path.read_bytes() == (tmp_path / "one" / path.name).read_bytes()
        made[2].unlink()
        before = {path: path.stat().st_mtime_ns for path in made if path.exists()}
        run("inference", configs, 1, output_dir=tmp_path / "two", **given)  # one process finishes what two began
        assert made[2].read_bytes() == (tmp_path / "one" / made[2].name).read_bytes()
        assert {path: path.stat().st_mtime_ns for path in before} == before
        run("inference", configs, 1, output_dir=tmp_path / "two", **given)  # nothing is left
