from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from scripts.methods.pretraining.dusss import DuSSS
from scripts.ops.prompt_map import upsample
from tests.text_guided import batch, matches, model, present, with_hidden_structure
from tests.tiny import train

WEIGHTS = {"contrast": 0.9, "local": 0.2, "grounded": 0.3, "masked": 0.4}


def brighter(image: Tensor, generator: torch.Generator) -> Tensor:
    return 1.1 * image + 0.2


def objective() -> DuSSS:
    network = model().eval()
    torch.manual_seed(1)
    momentum = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in momentum.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return DuSSS(network, momentum, WEIGHTS, brighter)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def contrast(logits: Tensor, fits: Tensor) -> Tensor:
    """InfoNCE of the rows, each with its matching columns alike."""
    return torch.stack([-(r.exp() / r.exp().sum())[f].log().mean() for r, f in zip(logits, fits, strict=True)]).mean()


class TestDuSSS:
    def test_twin(self) -> None:
        method, data = objective(), batch()
        image = data["labelled"]["image"]
        shown = torch.tensor([[c in classes for c in range(4)] for classes in present()])
        online, momentum, s = method.model, method.momentum, method.model.scale
        patches, images = online.encode(image)
        patches2, images2 = momentum.encode(brighter(image, torch.default_generator))
        captions = online.caption_embeddings(shown).sentence
        captions2, words2, counted2 = momentum.caption_embeddings(shown)
        i, t, i2, t2 = (unit(x) for x in (images, captions, images2, captions2))
        fits, own = matches(), torch.eye(4, dtype=torch.bool)
        losses = method(data, 0.0)

        four = [(i @ t2.T, fits), (t @ i2.T, fits.T), (i @ i2.T, own), (t @ t2.T, fits)]
        expected = sum(contrast(s * logits, fit) for logits, fit in four)
        torch.testing.assert_close(losses["contrast"], expected, atol=1e-4, rtol=1e-4)

        parts = [(k, p) for k in range(4) for p in patches2[k].flatten(1).T]
        local = contrast(
            torch.stack([torch.stack([s * (unit(p) @ i[row]) for _, p in parts]) for row in range(4)]),
            torch.tensor([[k == row for k, _ in parts] for row in range(4)]),
        )
        parts = [(k, w) for k in range(4) for w in words2[k][counted2[k]]]
        local = local + contrast(
            torch.stack([torch.stack([s * (unit(w) @ t[row]) for _, w in parts]) for row in range(4)]),
            torch.tensor([[bool(fits[row, k]) for k, _ in parts] for row in range(4)]),
        )
        torch.testing.assert_close(losses["local"], local, atol=1e-4, rtol=1e-4)

        pooled, masks = torch.empty(4, 4), []
        for a in range(4):
            v = unit(patches[a].flatten(1).T)
            for b in range(4):
                mask = torch.sigmoid(10 * (v @ t[b]) - 2.5)
                pooled[a, b] = unit((mask[:, None] * v).sum(0) / mask.sum()) @ t[b]
                if a == b:
                    masks.append(mask.view(1, 8, 8))
        expected = (contrast(s * pooled, fits) + contrast(s * pooled.T, fits.T)) / 2
        torch.testing.assert_close(losses["grounded"], expected, atol=1e-4, rtol=1e-4)

        again = unit(online.encode(image * upsample(torch.stack(masks), image.shape[-2:]))[1])
        expected = (contrast(s * again @ t.T, fits) + contrast(s * t @ again.T, fits.T)) / 2
        torch.testing.assert_close(losses["masked"], expected, atol=1e-4, rtol=1e-4)

        total = (0.9 * losses["contrast"] + 0.2 * losses["local"]) / 6 + 0.3 * losses["grounded"]
        torch.testing.assert_close(losses["loss"], total + 0.4 * losses["masked"])

    def test_momentum_branch_gets_no_gradient(self) -> None:
        method = objective()
        before = copy.deepcopy(method.momentum.state_dict())
        method(batch(), 0.0)["loss"].backward()
        assert all(p.grad is None and not p.requires_grad for p in method.momentum.parameters())
        assert any(p.grad is not None for p in method.model.parameters())
        assert all(torch.equal(value, before[name]) for name, value in method.momentum.state_dict().items())

    def test_overfits(self) -> None:
        network = model()
        method = DuSSS(network, copy.deepcopy(network), WEIGHTS, brighter)
        losses = train(method, [{"params": [*network.parameters()], "lr": 0.001}], batch(), steps=30)
        assert losses[-1] < losses[0] - 0.1

    def test_blind_to_unlabelled_classes(self) -> None:
        method = objective()
        assert torch.equal(method(batch(), 0.0)["loss"], method(with_hidden_structure(batch()), 0.0)["loss"])

    def test_nothing_labelled(self) -> None:
        method, data = objective(), batch()
        data["labelled"]["label"][:] = 255
        loss = method(data, 0.0)["loss"]
        loss.backward()
        assert loss.item() == 0.0
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.model.parameters())

    def test_autocast(self) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            losses = objective()(batch(), 0.0)
        assert losses["loss"].dtype == torch.float32
        assert math.isfinite(losses["loss"].item())
