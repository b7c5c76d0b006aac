"""Both stages with mixed precision on a GPU, at small size; skipped where there is none."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from monai.bundle import run

from scripts.phantom.write import write_phantoms
from tests.overlays import methods_on

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.gpu


def bundle(run_id: str, configs: list[str], **overrides: object) -> None:
    run(
        run_id=run_id,
        config_file=[str(ROOT / "configs" / config) for config in configs],
        meta_file=str(ROOT / "configs/metadata.json"),
        logging_file=False,
        bundle_root=str(ROOT),
        device="$torch.device('cuda:0')",
        **{key: str(value) if isinstance(value, Path) else value for key, value in overrides.items()},
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with phantoms and a finished stage 1."""
    root = tmp_path_factory.mktemp("gpu")
    datalist = write_phantoms(
        root / "phantoms", labelled=2, unlabelled=2, validation=1, test=1, shape_hw=(80, 64), pixel_mm=3.5
    )
    bundle(
        "pretraining",
        ["pretrain.yaml", "offline_encoders.yaml", "smoke.yaml"],
        datalist=datalist,
        output_dir=root / "stage1",
        prompt_model_dir=root / "models/prompt",
        cache_dir=root / "cache",
        image_size=[64, 32],
        pixel_mm=4.0,
    )
    return root


def values(folder: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["name"], []).append(float(row["value"]))
    return found


def test_pretraining(work: Path) -> None:
    found = values(work / "stage1")
    assert {"loss", "val_prompt_map_dice"} <= found.keys()
    assert all(math.isfinite(value) for column in found.values() for value in column)
    state = torch.load(work / "models/prompt/model.pt", weights_only=True)
    assert {value.device.type for value in state.values()} == {"cpu"}
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("overlay", [None, *methods_on("train")], ids=str)
def test_training_and_inference(work: Path, overlay: Path | None, tmp_path: Path) -> None:
    torch.cuda.reset_peak_memory_stats()
    bundle(
        "training",
        ["train.yaml", *([f"methods/{overlay.name}"] if overlay else []), "smoke.yaml"],
        datalist=work / "phantoms/datalist.json",
        output_dir=tmp_path / "run",
        ckpt_dir=tmp_path / "models",
        prompt_model_dir=work / "models/prompt",
        cache_dir=work / "cache",
        image_size=[64, 32],
        pixel_mm=4.0,
    )
    found = values(tmp_path / "run")
    assert all(math.isfinite(value) for column in found.values() for value in column)
    assert torch.cuda.max_memory_allocated() > 0  # it did run there
    state = torch.load(tmp_path / "models/model.pt", weights_only=True)
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}
    bundle(
        "evaluating",
        ["inference.yaml", "evaluate.yaml"],
        datalist=work / "phantoms/datalist.json",
        output_dir=tmp_path / "scores",
        ckpt_dir=tmp_path / "models",
    )
    assert (tmp_path / "scores/summary.json").is_file()


def test_resume(work: Path, tmp_path: Path) -> None:
    settings = {
        **{"datalist": work / "phantoms/datalist.json", "cache_dir": work / "cache", "image_size": [64, 32]},
        **{"prompt_model_dir": work / "models/prompt", "pixel_mm": 4.0, "output_dir": tmp_path / "run"},
    }
    bundle("training", ["train.yaml", "smoke.yaml"], ckpt_dir=tmp_path / "models", max_epochs=1, **settings)
    bundle("training", ["train.yaml", "smoke.yaml"], ckpt_dir=tmp_path / "models", resume=True, **settings)
    checkpoint = torch.load(tmp_path / "run/checkpoint.pt", map_location="cpu", weights_only=True)
    assert (checkpoint["epoch"], checkpoint["iteration"]) == (2, 4)
