from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from scripts.methods.pretraining.mgca import MGCA, _pooled_patches
from scripts.networks.vision_language import Prototypes
from tests.text_guided import batch, matches, model, present, with_hidden_structure
from tests.tiny import train

WEIGHTS = {"instance": 0.6, "token": 1.7, "prototype": 0.4}


def objective(**options: Any) -> MGCA:
    network = model().eval()
    return MGCA(network, Prototypes(5, 12), WEIGHTS, **options)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a.norm() * b.norm())


def attend(query: Tensor, keys: Tensor) -> Tensor:
    shares = torch.stack([cosine(query, key) / 0.1 for key in keys]).exp()
    return sum(share * key / key.norm() for share, key in zip(shares / shares.sum(), keys, strict=True))


def own(first: Tensor, second: Tensor) -> Tensor:
    """Mean InfoNCE of pairs within one sample, both directions."""
    scores = torch.stack([torch.stack([cosine(a, b) / 0.1 for b in second]) for a in first])
    terms = [-(table.exp().diagonal() / table.exp().sum(1)).log().mean() for table in (scores, scores.T)]
    return (terms[0] + terms[1]) / 2


class TestMGCA:
    def test_twin(self) -> None:
        method, data = objective(), batch()
        network = method.model
        patches, images = network.encode(data["labelled"]["image"])
        shown = torch.tensor([[c in classes for c in range(4)] for classes in present()])
        sentence, words, word_mask = network.caption_embeddings(shown)
        losses = method(data, 0.5)

        logits = torch.stack([torch.stack([network.scale * cosine(i, t) for t in sentence]) for i in images])
        instance = []
        for scores, fit in ((logits, matches()), (logits.T, matches().T)):
            instance += [-(row.exp() / row.exp().sum())[fit[k]].log().mean() for k, row in enumerate(scores)]
        torch.testing.assert_close(losses["instance"], sum(instance) / 4, atol=1e-4, rtol=1e-4)

        token = []
        for i in range(4):
            v, w = patches[i].flatten(1).T, words[i][word_mask[i]]
            pictures, sayings = [attend(a, v) for a in w], [attend(a, w) for a in v]
            token.append(own(w, torch.stack(pictures)) + own(v, torch.stack(sayings)))
        torch.testing.assert_close(losses["token"], sum(token) / 4, atol=1e-4, rtol=1e-4)

        def codes(scores: Tensor) -> Tensor:
            table = (scores / 0.05).double().exp()
            for _ in range(3):
                table = table / table.sum(0, keepdim=True)
                table = table / table.sum(1, keepdim=True)
            return table.float()

        directions = method.prototypes.directions
        of = [
            torch.stack([torch.stack([cosine(x, p) for p in directions]) for x in part]) for part in (images, sentence)
        ]
        swapped = [
            -(codes(of[1 - k]) * ((of[k] / 0.2).exp() / (of[k] / 0.2).exp().sum(1, keepdim=True)).log()).sum(1).mean()
            for k in (0, 1)
        ]
        torch.testing.assert_close(losses["prototype"], (swapped[0] + swapped[1]) / 2, atol=1e-4, rtol=1e-4)
        total = 0.6 * losses["instance"] + 1.7 * losses["token"] + 0.4 * losses["prototype"]
        torch.testing.assert_close(losses["loss"], total)

    def test_overfits(self) -> None:
        method = MGCA(model(), Prototypes(5, 12), WEIGHTS)
        parameters = [*method.model.parameters(), *method.prototypes.parameters()]
        losses = train(method, [{"params": parameters, "lr": 0.001}], batch(), steps=20)
        assert losses[-1] < losses[0] - 0.3

    def test_prototypes_rest_at_first(self) -> None:
        method = objective(frozen=0.1)
        for progress, moved in ((0.0, False), (0.1, True)):
            method(batch(), progress)["loss"].backward()
            assert (method.prototypes.directions.grad is not None) is moved

    def test_more_than_512_patches_are_averaged(self) -> None:
        patches = torch.randn(1, 3, 40, 20)
        parts = _pooled_patches(patches)
        assert parts.shape == (1, 20 * 10, 3)
        torch.testing.assert_close(parts[0, 0], patches[0, :, :2, :2].mean((1, 2)))

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
            losses = objective()(batch(), 0.5)
        assert losses["loss"].dtype == torch.float32
        assert math.isfinite(losses["loss"].item())
