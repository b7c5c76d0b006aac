"""The four steps of CONTRIBUTING.md, walked with a toy method in a copy of the bundle: no line of it is changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.phantom.write import write_phantoms

ROOT = Path(__file__).resolve().parents[3]
OBJECTIVE = '''"""A toy: supervised training, and a student that is sure of itself."""

from __future__ import annotations

from typing import Any

from .base import Losses
from .supervised import Supervised


class Toy(Supervised):
    """L = `supervised` · CE(student, label) + `sureness` · entropy(student on unlabelled slices)."""

    def __call__(self, batch: dict[str, Any], progress: float) -> Losses:
        """Return `loss` and its parts `supervised` and `sureness`."""
        supervised = self.supervised_term(batch["labelled"])
        probs = self.student(batch["unlabelled"]["image"]).softmax(1)
        sureness = -(probs * probs.clamp_min(1e-8).log()).sum(1).mean()
        weights = self.loss_weights
        total = weights["supervised"] * supervised + weights["sureness"] * sureness
        return {"loss": total, "supervised": supervised, "sureness": sureness}
'''
OVERLAY = """# overlay on: train
# adds: loss_weights#sureness
# equal weights: loss_weights#sureness=1.0
# A toy. Run:    python -m monai.bundle run training --config_file "['configs/train.yaml','configs/methods/toy.yaml']"
output_dir: $@bundle_root + '/runs/toy'
prompt_maps: null
loss_weights#sureness: 0.1
method:
  _target_: scripts.methods.toy.Toy
  student: '@network'
  supervised_loss: '@supervised_loss'
  loss_weights: '@loss_weights'
"""
TEST = """import torch

from scripts.methods.toy import Toy
from tests.tiny import batch, network


def test_sureness() -> None:
    toy = Toy(network(), lambda logits, label, is_unlabelled: logits.sum() * 0, {"supervised": 1.0, "sureness": 2.0})
    losses = toy(batch(), 0.5)
    assert torch.isclose(losses["loss"], 2 * losses["sureness"])
"""
ROW = "| `methods/toy.yaml` | a toy |\n"


def python(copy: Path, *line: str) -> str:
    """What a fresh interpreter prints in the copy."""
    env = {**os.environ, "PYTHONPATH": str(copy)}
    command = [sys.executable, "-W", "ignore", *line]
    done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_four_steps(tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    for part in ("scripts", "configs", "docs", "tests"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "images", "results"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    # the steps, each the one file that it names
    (copy / "scripts/methods/toy.py").write_text(OBJECTIVE, encoding="utf-8")
    (copy / "configs/methods/toy.yaml").write_text(OVERLAY, encoding="utf-8")
    (copy / "tests/methods/test_toy.py").write_text(TEST, encoding="utf-8")
    page = (copy / "docs/compare.md").read_text(encoding="utf-8")
    before = "| `methods/supervised.yaml`"
    (copy / "docs/compare.md").write_text(page.replace(before, ROW + before), encoding="utf-8")

    # its own test, and the tests over all overlays and modules
    chosen = ["tests/methods/test_toy.py", "tests/configs/test_compose.py", "tests/test_architecture.py"]
    assert "passed" in python(copy, "-m", "pytest", "-q", *chosen, "-k", "toy or no_cycles")
    # it trains, through MONAI's own command
    counts = {"labelled": 2, "unlabelled": 1, "validation": 1, "test": 1}
    datalist = write_phantoms(tmp_path / "phantoms", **counts, shape_hw=(40, 32), pixel_mm=7.0)
    files = [f"configs/{name}.yaml" for name in ("train", "methods/toy", "smoke")]
    run = ["-m", "monai.bundle", "run", "training", "--config_file", str(files), "--datalist", str(datalist)]
    python(copy, *run, "--output_dir", str(tmp_path / "run"), "--ckpt_dir", str(tmp_path / "models"))
    assert "loss/sureness" in (tmp_path / "run/metrics.csv").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "models/model.json").read_text(encoding="utf-8"))["channels"] == [4, 8, 8]
    # it is a row of the benchmark, which knows that it needs no stage 1 and how its weights compare
    rows = python(copy, "-c", "from scripts.tools.accuracy.systems import systems; print(systems()['toy'])")
    assert "stage2=('methods/toy.yaml',)" in rows
    assert "overrides={'loss_weights#sureness': '1.0'}, stage1_of=None" in rows
    assert "toy" in python(copy, "-m", "scripts", "info")
