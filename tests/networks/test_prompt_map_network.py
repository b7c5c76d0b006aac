from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

from scripts.networks.prompt_map_network import CERTAIN, PromptMapNetwork
from scripts.ops.otsu import otsu_thresholds
from scripts.ops.prompt_map import prompt_guided_map, upsample

GUIDED = partial(prompt_guided_map, gate=0.05)


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 4, stride=4), nn.Softmax(1)).requires_grad_(False)


class TestPromptMapNetwork:
    def test_twin(self, model: nn.Module) -> None:
        image = 3 * torch.randn(2, 1, 16, 8)
        logits = PromptMapNetwork(model, GUIDED)(image)
        maps = upsample(model(image), (16, 8))
        label = GUIDED(maps, otsu_thresholds(maps))
        assert logits.shape == (2, 4, 16, 8)
        assert logits.dtype == torch.float32
        assert len(label.unique()) > 1
        assert torch.equal(logits.argmax(1), label)
        assert sorted(logits.unique().tolist()) == [0.0, CERTAIN]

    def test_certain(self, model: nn.Module) -> None:
        probs = PromptMapNetwork(model, GUIDED)(torch.randn(1, 1, 16, 8)).softmax(1)
        assert probs.amax(1).min() > 1 - 1e-6

    def test_loads_the_weights_of_stage_1(self, model: nn.Module) -> None:
        network, other = PromptMapNetwork(model, GUIDED), copy.deepcopy(model)
        other[0].weight.fill_(0.5)
        network.load_state_dict(other.state_dict())
        torch.testing.assert_close(network.model.state_dict(), other.state_dict())

    def test_exception(self, model: nn.Module) -> None:
        with pytest.raises(RuntimeError, match="Missing key"):
            PromptMapNetwork(model, GUIDED).load_state_dict({})
