from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from scripts.methods.pretraining.cps4_pretraining import PromptPretraining, parameter_groups
from scripts.networks.encoders import UNetTransformerEncoder
from scripts.networks.text_encoder import ClassVectors, LearnedPrompts
from scripts.networks.vision_language import VisionLanguageModel
from scripts.ops.attention import region_targets
from tests.tiny import CLASSES, stream, train

WEIGHTS = {"token": 0.6, "pixel": 1.7}


def model() -> VisionLanguageModel:
    torch.manual_seed(0)
    vision = UNetTransformerEncoder(channels=(4, 8), width=16, layers=1, heads=2, output_stride=2)
    return VisionLanguageModel(vision, ClassVectors([f"class {i}" for i in range(CLASSES)], 8), embed_dim=12)


def objective(**options: Any) -> PromptPretraining:
    return PromptPretraining(model(), WEIGHTS, **options)


def batch() -> dict[str, Any]:
    """The second slice shows no class 3; the first has pixels that are left out."""
    labelled = stream(seed=1)
    label = labelled["label"]
    label[1][label[1] == 3] = 1
    label[0, 0, :5] = 255
    return {"labelled": labelled, "unlabelled": None}


class TestPromptPretraining:
    @pytest.mark.parametrize("per_image", [True, False])
    @pytest.mark.parametrize("negatives", [True, False])
    @pytest.mark.parametrize("target", ["area", "area_half"])
    def test_twin(self, negatives: bool, target: str, per_image: bool) -> None:
        method, data = objective(negatives=negatives, target=target, per_image=per_image), batch()
        labelled = data["labelled"]
        labelled["is_unlabelled"][0, 2] = True
        losses = method(data, 0.0)
        maps = method.model(labelled["image"])
        grid = tuple(maps.shape[-2:])
        regions = region_targets(labelled["label"][:, 0].long(), CLASSES, grid, target)
        size = 16 // grid[0]
        token: list[list[torch.Tensor]] = [[], []]
        pixel: list[list[torch.Tensor]] = [[], []]
        for b in range(2):
            for c in range(CLASSES):
                if labelled["is_unlabelled"][b, c]:
                    continue
                a, r = maps[b, c], regions[b, c]
                present = bool(r.max() > 0)
                if present:
                    token[b].append((1 - (a * r).sum() / a.sum()) ** 2)
                if not (present or negatives):
                    continue
                total, weights = torch.zeros(()), 0.0
                for i in range(grid[0]):
                    for j in range(grid[1]):
                        patch = labelled["label"][b, 0, i * size : (i + 1) * size, j * size : (j + 1) * size]
                        weight = float((patch != 255).float().mean())
                        p, q = a[i, j], float(r[i, j])
                        total = total - weight * (q * p.log() + (1 - q) * (1 - p).log())
                        weights += weight
                pixel[b].append(total / weights)
        assert len(token[0]) != len(token[1])  # else both means are the same
        for name, parts in (("token", token), ("pixel", pixel)):
            grouped = parts if per_image else [parts[0] + parts[1]]
            expected = torch.stack([torch.stack(part).mean() for part in grouped]).mean()
            torch.testing.assert_close(losses[name], expected)
        torch.testing.assert_close(losses["loss"], 0.6 * losses["token"] + 1.7 * losses["pixel"])

    def test_overfits(self) -> None:
        # hard targets: the pixel loss against shares does not go down to 0
        method = objective(target="area_half")
        losses = train(method, method.model.parameters(), batch())
        assert losses[-1] < 0.5 * losses[0]

    def test_class_that_is_not_labelled_is_neither_positive_nor_negative(self) -> None:
        """Where a class is shown but not labelled, its map may be anything."""
        data = batch()
        data["labelled"]["is_unlabelled"][:, 3] = True

        def maps(value: float) -> Any:
            fixed = torch.full((2, CLASSES, 8, 8), 0.3)
            fixed[:, 3] = value
            return lambda image: fixed

        low, high = (PromptPretraining(maps(v), WEIGHTS)(data, 0.0)["loss"] for v in (0.01, 0.99))
        assert torch.equal(low, high)
        data["labelled"]["is_unlabelled"][:] = False
        low, high = (PromptPretraining(maps(v), WEIGHTS)(data, 0.0)["loss"] for v in (0.01, 0.99))
        assert not torch.equal(low, high)

    def test_negatives(self) -> None:
        """An absent class is pushed down with negatives; without them nothing is said about it."""
        maps = torch.full((2, CLASSES, 8, 8), 0.3)
        maps.requires_grad_()
        for negatives in (True, False):
            maps.grad = None
            PromptPretraining(lambda image: maps, WEIGHTS, negatives=negatives)(batch(), 0.0)["loss"].backward()
            assert bool((maps.grad[1, 3] > 0).all()) is negatives

    def test_unlabelled_stream_is_not_looked_at(self) -> None:
        method, data = objective(), batch()
        method.model.eval()
        alone = method(data, 0.0)["loss"]
        assert torch.equal(method({**data, "unlabelled": stream(seed=5)}, 0.0)["loss"], alone)

    def test_nothing_labelled(self) -> None:
        method, data = objective(), batch()
        data["labelled"]["label"][:] = 255
        losses = method(data, 0.0)
        losses["loss"].backward()
        assert losses["loss"].item() == 0.0
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.model.parameters())

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match="region target must be one of area, area_half, bilinear_gt0, got 'mean'"):
            objective(target="mean")(batch(), 0.0)

    def test_start_is_no_worse_than_guessing(self) -> None:
        # softmax over classes: a uniform map costs the entropy of one class against the rest
        uniform = torch.full((2, CLASSES, 8, 8), 1 / CLASSES)
        data = batch()
        data["labelled"]["label"][:] = 0
        pixel = PromptPretraining(lambda image: uniform, WEIGHTS)(data, 0.0)["pixel"].item()
        expected = -(math.log(1 / 4) + 3 * math.log(3 / 4)) / 4
        assert pixel == pytest.approx(expected)


class TestParameterGroups:
    def test_value(self) -> None:
        network = model()
        encoders, head = parameter_groups(network, 1e-4, 10.0)
        assert (encoders["lr"], head["lr"]) == (1e-4, pytest.approx(1e-3))
        names = {id(p): n for n, p in network.named_parameters()}
        assert {names[id(p)].split(".")[0] for p in encoders["params"]} == {"vision", "text"}
        heads = {"image_projection", "text_projection", "scale", "bias"}
        assert {names[id(p)].split(".")[0] for p in head["params"]} == heads
        together = [*encoders["params"], *head["params"]]
        assert len(together) == len({id(p) for p in together}) == len(names)

    def test_learned_prompts_go_with_the_projections(self) -> None:
        network = model()
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        network.text = LearnedPrompts([f"image of class {i}" for i in range(CLASSES)], config=sizes, context=2)
        encoders, head = parameter_groups(network, 1e-4, 10.0)
        assert any(p is network.text.context for p in head["params"])
        assert len([*encoders["params"], *head["params"]]) == len(list(network.parameters()))
        assert not any(p is network.text.context for p in encoders["params"])
