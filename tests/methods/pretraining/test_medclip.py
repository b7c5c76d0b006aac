from __future__ import annotations

import math

import torch

from scripts.methods.pretraining.medclip import MedCLIP
from tests.text_guided import batch, model, present, with_hidden_structure
from tests.tiny import CLASSES, train


class TestMedCLIP:
    def test_twin(self) -> None:
        method, data = MedCLIP(model().eval()), batch()
        network = method.model
        patches, prompts = network.patch_embeddings(data["labelled"]["image"]), network.prompt_embeddings()
        logits = torch.empty(4, CLASSES)
        for i in range(4):
            whole = patches[i].mean((1, 2))
            for c in range(CLASSES):
                logits[i, c] = network.scale * (whole @ prompts[c]) / (whole.norm() * prompts[c].norm())
        pairs = [(i, c) for i in range(4) for c in range(CLASSES) if (i, c) != (2, 2)]  # slice 2 does not label class 2
        rows, columns = [], []
        for terms, axis, number in ((rows, 0, 4), (columns, 1, CLASSES)):
            for line in range(number):
                mine = [pair for pair in pairs if pair[axis] == line]
                weights = [math.exp(float(c in present()[i])) for i, c in mine]
                scores = torch.stack([logits[i, c] for i, c in mine])
                log_shares = scores - scores.exp().sum().log()
                terms.append(-sum(w / sum(weights) * s for w, s in zip(weights, log_shares, strict=True)))
        expected = (torch.stack(rows).mean() + torch.stack(columns).mean()) / 2
        torch.testing.assert_close(method(data, 0.0)["loss"], expected, atol=1e-4, rtol=1e-4)

    def test_overfits(self) -> None:
        method = MedCLIP(model())
        losses = train(method, [{"params": [*method.model.parameters()], "lr": 0.001}], batch(), steps=20)
        assert losses[-1] < losses[0]
        # soft targets: no less than their entropy
        assert losses[-1] > math.log(CLASSES) - 0.2

    def test_blind_to_unlabelled_classes(self) -> None:
        method = MedCLIP(model().eval())
        assert torch.equal(method(batch(), 0.0)["loss"], method(with_hidden_structure(batch()), 0.0)["loss"])

    def test_nothing_labelled(self) -> None:
        method, data = MedCLIP(model()), batch()
        data["labelled"]["label"][:] = 255
        loss = method(data, 0.0)["loss"]
        loss.backward()
        assert loss.item() == 0.0
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.model.parameters())

    def test_autocast(self) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            assert MedCLIP(model())(batch(), 0.0)["loss"].dtype == torch.float32
