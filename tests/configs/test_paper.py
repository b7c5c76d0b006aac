"""The paper's recipe: every number that it states, in the files that together are its literal form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
GRID = "datasets/mrspineseg.yaml"


def parsed(*files: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in files])
    return parser


@pytest.fixture(scope="module")
def stage2() -> ConfigParser:
    return parsed("train.yaml", "methods/cps4_literal.yaml", "paper_schedule.yaml", GRID)


@pytest.fixture(scope="module")
def stage1() -> ConfigParser:
    return parsed("pretrain.yaml", "literal_pretraining.yaml", GRID)


@pytest.mark.parametrize(
    ("key", "value"),
    {
        "max_epochs": 300, "batch_size": 8, "learning_rate": 1e-4, "optimizer#_target_": "torch.optim.Adam",
        "optimizer#weight_decay": 1e-4, "lr_scheduler#gamma": 0.2, "num_classes": 20, "rounds": 0,
        "fuse#kind": "logit", "prompt_map#integration": "otsu_per_class",
    }.items(),
)  # fmt: skip
def test_stage_2(stage2: ConfigParser, key: str, value: Any) -> None:
    assert stage2[key] == value


def test_the_three_losses_weigh_the_same_and_have_no_ramp(stage2: ConfigParser) -> None:
    assert [stage2[f"loss_weights#{name}"] for name in ("supervised", "prompt", "enhanced")] == [1.0, 1.0, 1.0]
    ramp = stage2.get_parsed_content("ramp")
    assert ramp(0.0) == ramp(0.99) == 1.0


def test_the_rate_falls_at_epochs_100_and_200(stage2: ConfigParser) -> None:
    assert stage2.get_parsed_content("lr_scheduler#milestones") == [100, 200]


@pytest.mark.parametrize(
    ("key", "value"),
    {
        "learning_rate": 1e-5, "optimizer#_target_": "torch.optim.Adam", "num_classes": 20,
        "lr_scheduler#_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau",
        "vision_encoder": "google/vit-base-patch16-224-in21k", "text_encoder": "emilyalsentzer/Bio_ClinicalBERT",
        "loss_weights#token": 1.0, "loss_weights#pixel": 1.0, "per_image": True, "negatives": False,
        "target": "bilinear_gt0", "prompt_map#integration": "otsu_per_class", "train#step#max_grad_norm": None,
    }.items(),
)  # fmt: skip
def test_stage_1(stage1: ConfigParser, key: str, value: Any) -> None:
    assert stage1[key] == value


def test_one_prompt_for_each_of_20_classes(stage1: ConfigParser) -> None:
    stage1["bundle_root"] = str(CONFIGS.parent)
    prompts = stage1.get_parsed_content("prompts")
    assert len(set(prompts)) == 20
    assert all(prompt.startswith("A magnetic resonance image of ") for prompt in prompts)


def test_both_stages_have_one_grid(stage1: ConfigParser, stage2: ConfigParser) -> None:
    for key in ("image_size", "pixel_mm"):
        assert stage1[key] == stage2[key]
