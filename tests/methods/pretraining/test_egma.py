from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from scripts.methods.pretraining.egma import EGMA
from scripts.methods.pretraining.text_guided import read_slices
from scripts.ops.attention import cosine_similarity, region_targets
from tests.text_guided import batch, matches, model, present, with_hidden_structure
from tests.tiny import CLASSES, train

WEIGHTS = {"fine": 0.6, "region": 1.7}


def objective(**options: Any) -> EGMA:
    return EGMA(model().eval(), WEIGHTS, **options)


def similarity(method: EGMA, data: dict[str, Any]) -> torch.Tensor:
    network = method.model
    return network.scale * cosine_similarity(
        network.patch_embeddings(data["labelled"]["image"]), network.prompt_embeddings()
    )


class TestEGMA:
    def test_twin_of_the_fine_term(self) -> None:
        method, data = objective(region_signal="none"), batch()
        scores = similarity(method, data).flatten(2)  # (4, N, P)
        to_text, to_image = torch.empty(4, 4), torch.empty(4, 4)
        for i in range(4):
            for j in range(4):
                sentences = [c for c in present()[j] if (i, c) != (2, 2)]  # slice 2 does not label class 2
                best = [max(scores[i, c, u] for c in sentences) for u in range(scores.shape[2])]
                to_text[i, j] = sum(best) / len(best)
                to_image[i, j] = sum(scores[i, c].max() for c in sentences) / len(sentences)
        terms = []
        for values, fit in ((to_text, matches()), (to_image.T, matches().T)):
            for row in range(4):
                terms.append(-(values[row].exp() / values[row].exp().sum())[fit[row]].log().mean())
        losses = method(data, 0.0)
        torch.testing.assert_close(losses["fine"], torch.stack(terms).mean(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(losses["loss"], 0.6 * losses["fine"])
        assert losses.keys() == {"loss", "fine"}

    @pytest.mark.parametrize("negatives", [True, False])
    def test_twin_of_the_region_term(self, negatives: bool) -> None:
        method, data = objective(negatives=negatives), batch()
        scores = similarity(method, data).detach()
        label = data["labelled"]["label"][:, 0].long()
        h, w = scores.shape[2:]
        regions = region_targets(label, CLASSES, (h, w), "bilinear_gt0") > 0
        patch_sum, area_sum, of_classes = 0.0, 0.0, []
        for i in range(4):
            area = torch.tensor([[float((label[i, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2] != 255).float().mean())
                                  for x in range(w)] for y in range(h)])  # fmt: skip
            known = [c for c in range(CLASSES) if (i, c) != (2, 2)]
            shown = [c for c in known if regions[i, c].any()]
            for y in range(h):
                for x in range(w):
                    own = known if negatives else shown
                    up = 1 + sum(math.exp(-scores[i, c, y, x]) for c in own if regions[i, c, y, x])
                    down = 1 + sum(math.exp(scores[i, c, y, x]) for c in own if not regions[i, c, y, x])
                    patch_sum += float(area[y, x]) * (math.log(up) + math.log(down))
                    area_sum += float(area[y, x])
            for c in shown:
                inside = regions[i, c]
                up = 1 + (-scores[i, c])[inside & (area > 0)].exp().sum()
                down = 1 + scores[i, c][~inside & (area > 0)].exp().sum()
                of_classes.append(float(up.log() + down.log()))
        expected = (patch_sum / area_sum + sum(of_classes) / len(of_classes)) / 2
        losses = method(data, 0.0)
        assert losses["region"].item() == pytest.approx(expected, rel=1e-4)
        torch.testing.assert_close(losses["loss"], 0.6 * losses["fine"] + 1.7 * losses["region"])

    def test_overfits(self) -> None:
        method = EGMA(model(), {"fine": 1.0, "region": 1.0})
        losses = train(method, [{"params": [*method.model.parameters()], "lr": 0.002}], batch())
        assert losses[-1] < 0.5 * losses[0]

    def test_unlabelled_class_has_no_similarity_to_learn(self) -> None:
        """Whatever the prompt of the class says about the slice that does not label it."""
        method, data = objective(), batch()
        scores = similarity(method, data).detach()
        losses = []
        for value in (-3.0, 3.0):
            scores[2, 2] = value
            slices = read_slices(data)
            losses.append(method.fine(scores, slices) + method.region(scores, slices))
        assert torch.equal(*losses)

    def test_blind_to_unlabelled_classes(self) -> None:
        method = objective(region_signal="none")
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
            assert objective()(batch(), 0.0)["loss"].dtype == torch.float32

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match="region_signal must be one of mask, none, got 'gaze'"):
            objective(region_signal="gaze")
