"""A federated round of two sites with different labelled patients, by monai.fl's own client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

from scripts.networks.resunet import ResUNet2d

ROOT = Path(__file__).resolve().parents[2]
FILES = ["configs/train.yaml", "configs/smoke.yaml", "configs/federated.yaml"]
ROUNDS = 2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*GHSA"),  # MONAI says that the server's configs are programs
]


def site(number: int, datalist: Path, stage1: SimpleNamespace, folder: Path) -> MonaiAlgo:
    """A client that has one labelled patient of its own, and all unlabelled ones."""
    settings: dict[str, Any] = {
        "bundle_root": str(ROOT),
        "datalist": str(datalist),
        "device": "$torch.device('cpu')",
        "cache_dir": str(stage1.cache),
        "prompt_model_dir": str(stage1.models / "prompt"),
        "output_dir": str(folder / "run"),
        "ckpt_dir": str(folder / "models"),
        "max_epochs": ROUNDS,
        "ramp#start": 0.4,
        "ramp#length": 0.1,
    }
    algo = MonaiAlgo(
        bundle_root=str(ROOT),
        local_epochs=1,
        send_weight_diff=False,
        config_train_filename=FILES,
        train_kwargs=settings,
        config_evaluate_filename=FILES,
        eval_kwargs={**settings, "validate#handlers": []},  # what is evaluated here is no site's model
    )
    algo.initialize({ExtraItems.CLIENT_NAME: f"site {number}"})
    return algo


def mean(states: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Federated averaging of sites with equally many slices."""
    return {
        name: torch.stack([s[name].float() for s in states]).mean(0).to(states[0][name].dtype) for name in states[0]
    }


class TestFederatedRound:
    def test_two_sites(self, edited: Callable[..., Path], stage1: SimpleNamespace, tmp_path: Path) -> None:
        lists = []
        for number in range(2):
            path = edited(training=lambda entries, number=number: entries[number : number + 1])
            lists.append(path.rename(tmp_path / f"site_{number}.json"))
        sites = [site(n, path, stage1, tmp_path / f"site_{n}") for n, path in enumerate(lists)]
        shared = ResUNet2d(out_channels=20, channels=(4, 8, 8)).state_dict()
        for number in range(1, ROUNDS + 1):
            states = []
            for algo in sites:
                algo.train(ExchangeObject(weights={k: v.numpy() for k, v in shared.items()}))
                sent = algo.get_weights()
                assert sent.weight_type == WeightType.WEIGHTS
                states.append({k: torch.as_tensor(v).clone() for k, v in sent.weights.items()})
                assert algo.trainer.state.epoch == number
            assert not torch.equal(states[0]["head.weight"], states[1]["head.weight"])  # their patients differ
            shared = mean(states)
        scores = [algo.evaluate(ExchangeObject(weights=shared)).metrics["val_mean_dice"] for algo in sites]
        assert scores[0] == scores[1]  # one model, the same validation patient
        for number, algo in enumerate(sites):
            rows = (tmp_path / f"site_{number}/run/metrics.csv").read_text(encoding="utf-8").splitlines()
            losses = [row.split(",")[:3] for row in rows[1:]]
            assert ["1", "2", "loss/supervised"] in losses
            assert [
                "2",
                "4",
                "loss/enhanced",
            ] in losses  # prompts reached the second round: the ramp goes over all rounds
            assert ["1", "2", "loss/enhanced"] not in losses
            assert (tmp_path / f"site_{number}/models/model.pt").is_file()
            algo.finalize()
