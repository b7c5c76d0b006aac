from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from scripts.labels import IGNORE
from scripts.methods.mc_net import MCNet, sharpen
from scripts.networks.mc_net_decoder import ExtraDecoder
from scripts.ops.losses import PartialLabelCrossEntropy, sigmoid_ramp
from tests.tiny import CLASSES, SIZE, batch, network, stream, train

WEIGHTS = {"supervised": 0.7, "consistency": 1.3}


def decoders() -> nn.ModuleList:
    torch.manual_seed(1)
    return nn.ModuleList(ExtraDecoder(CLASSES, (4, 8), upsampling=kind) for kind in ("bilinear", "nearest"))


def objective(ramp: Callable[[float], float] = lambda p: p, **options: Any) -> MCNet:
    return MCNet(network(), decoders(), PartialLabelCrossEntropy(), WEIGHTS, ramp, **options)


def parameters(method: MCNet) -> list[nn.Parameter]:
    return [*method.student.parameters(), *method.decoders.parameters()]


class TestMCNet:
    def test_twin(self) -> None:
        method, data = objective(), batch()
        data["labelled"] = stream(batch=3, seed=1)  # unequal streams
        data["labelled"]["label"][0, 0, :3] = IGNORE
        losses = method(data, 0.5)
        label, none = data["labelled"]["label"][:, 0].long(), data["labelled"]["is_unlabelled"]
        logits = {name: method.predict(data[name]["image"]) for name in data}
        supervised = sum(method.supervised_loss(one, label, none) for one in logits["labelled"]) / 3
        total, counted = torch.zeros(()), 0
        for name, several in logits.items():
            probs = [one.softmax(1) for one in several]
            for b in range(len(probs[0])):
                for row in range(SIZE):
                    for column in range(SIZE):
                        if name == "labelled" and label[b, row, column] == IGNORE:
                            continue
                        counted += 1
                        for i in range(3):
                            for j in range(3):
                                if i != j:
                                    p, q = probs[i][b, :, row, column], probs[j][b, :, row, column]
                                    total = total + (p - q**10 / (q**10 + (1 - q) ** 10)).square().mean() / 6
        torch.testing.assert_close(losses["supervised"], supervised)
        torch.testing.assert_close(losses["consistency"], total / counted)
        torch.testing.assert_close(losses["loss"], 0.7 * supervised + 1.3 * 0.5 * losses["consistency"])

    def test_student_is_the_first_decoder(self) -> None:
        method, image = objective(), torch.randn(2, 1, 15, 13)
        assert torch.equal(method.predict(image)[0], method.student(image))
        assert [tuple(one.shape) for one in method.predict(image)] == 3 * [(2, CLASSES, 15, 13)]

    def test_overfits(self) -> None:
        method = objective()
        losses = train(method, parameters(method), batch())
        assert losses[-1] < 0.5 * losses[0]

    def test_every_decoder_is_trained(self) -> None:
        method = objective()
        method(batch(unlabelled=False), 0.0)["loss"].backward()
        assert all(p.grad is not None for p in parameters(method))

    def test_gradient_goes_through_both_sides(self) -> None:
        method = objective()
        one, other = (torch.rand(1, CLASSES, 2, 2, requires_grad=True) for _ in range(2))
        method.consistency([one, other.detach()], torch.ones(1, 2, 2, dtype=torch.bool)).backward()
        as_side_only = torch.autograd.grad((one - sharpen(other.detach(), 0.1)).square().mean() / 2, one)[0]
        assert not torch.allclose(one.grad, as_side_only)

    def test_labels_of_unlabelled_images_cannot_matter(self) -> None:
        data, garbage = batch(), batch()
        garbage["unlabelled"]["label"] = torch.full((2, 1, SIZE, SIZE), 99)
        assert torch.equal(objective()(data, 1.0)["loss"], objective()(garbage, 1.0)["loss"])

    def test_without_unlabelled_stream(self) -> None:
        losses = objective()(batch(unlabelled=False), 1.0)
        assert set(losses) == {"loss", "supervised"}
        torch.testing.assert_close(losses["loss"], 0.7 * losses["supervised"])

    def test_before_the_ramp_unlabelled_slices_are_not_read(self) -> None:
        method, data = objective(ramp=partial(sigmoid_ramp, start=0.5, length=0.1)), batch()
        assert set(method({**data, "unlabelled": {}}, 0.49)) == {"loss", "supervised"}
        assert "consistency" in method(data, 0.5)

    def test_partially_labelled_classes(self) -> None:
        data, partly = batch(), batch()
        partly["labelled"]["is_unlabelled"][:, 2] = True
        full, part = objective()(data, 1.0), objective()(partly, 1.0)
        assert part["supervised"] < full["supervised"]
        torch.testing.assert_close(part["consistency"], full["consistency"])

    def test_mixed_precision(self) -> None:
        method = objective()
        with torch.autocast("cpu", torch.bfloat16):
            losses = method(batch(), 1.0)
        assert losses["consistency"].dtype == torch.float32
        losses["loss"].backward()
        assert all(p.grad.isfinite().all() for p in parameters(method))

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match=r"temperature must be in \(0, 1\], got 0"):
            objective(temperature=0)
        with pytest.raises(ValueError, match="at least one decoder"):
            MCNet(network(), [], PartialLabelCrossEntropy(), WEIGHTS, lambda p: p)


class TestSharpen:
    def test_values(self) -> None:
        p = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
        torch.testing.assert_close(sharpen(p, 1.0), p)
        expected = torch.tensor([0.0, 1 / (1 + 4.0**10), 0.5, 1 / (1 + 9.0**-10), 1.0], dtype=torch.float64)
        torch.testing.assert_close(sharpen(p, 0.1), expected)

    def test_gradient_is_finite_at_the_ends(self) -> None:
        p = torch.tensor([0.0, 1e-30, 1.0], requires_grad=True)
        sharpen(p, 0.1).sum().backward()
        assert p.grad.isfinite().all()
