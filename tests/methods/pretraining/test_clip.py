from __future__ import annotations

import pytest
import torch

from scripts.methods.pretraining.clip import CLIP
from scripts.methods.pretraining.text_guided import caption_matches, read_slices
from tests.text_guided import batch, matches, model, present, with_hidden_structure
from tests.tiny import stream, train


class TestSameCaption:
    def test_value(self) -> None:
        slices = read_slices(batch())
        assert [set(row.nonzero()[:, 0].tolist()) for row in slices.present] == present()
        fits, counted = caption_matches(slices)
        assert torch.equal(fits, matches())
        assert counted.all()

    def test_slice_without_any_class_is_in_no_pair(self) -> None:
        data = batch()
        data["labelled"]["label"][1] = 255
        counted = caption_matches(read_slices(data))[1]
        assert counted.sum() == 9
        assert not counted[1].any()


class TestCLIP:
    def test_twin(self) -> None:
        method, data = CLIP(model().eval()), batch()
        network = method.model
        patches, prompts = network.patch_embeddings(data["labelled"]["image"]), network.prompt_embeddings()
        raw = network.text_projection(network.text()).mean(0)
        logits = torch.empty(4, 4)
        for i in range(4):
            whole = patches[i].mean((1, 2))  # a linear projection of the mean is the mean of the projections
            for j, classes in enumerate(present()):
                tokens = network.text.tokenizer([network.text.caption(sorted(classes))], return_tensors="pt")
                text = network.text_projection(network.text.bert(**tokens).last_hidden_state[0, 0]) - raw
                logits[i, j] = network.scale * (whole @ text) / (whole.norm() * text.norm())
        assert prompts.mean(0).abs().max() < 1e-6
        fits, terms = matches(), []
        for scores, fit in ((logits, fits), (logits.T, fits.T)):
            for row in range(4):
                shares = scores[row].exp() / scores[row].exp().sum()
                terms.append(-shares[fit[row]].log().mean())
        torch.testing.assert_close(method(data, 0.0)["loss"], torch.stack(terms).mean(), atol=1e-4, rtol=1e-4)

    def test_overfits(self) -> None:
        method, data = CLIP(model()), batch()
        losses = train(method, [{"params": [*method.model.parameters()], "lr": 0.001}], data)
        # one slice of its own and three that share a caption: no less than ¾ log 3
        assert 0.82 < losses[-1] < 1.0 < losses[0]

    def test_blind_to_unlabelled_classes(self) -> None:
        method = CLIP(model().eval())
        assert torch.equal(method(batch(), 0.0)["loss"], method(with_hidden_structure(batch()), 0.0)["loss"])

    def test_unlabelled_stream_is_not_looked_at(self) -> None:
        method, data = CLIP(model().eval()), batch()
        alone = method(data, 0.0)["loss"]
        assert torch.equal(method({**data, "unlabelled": stream(seed=5)}, 0.0)["loss"], alone)

    def test_nothing_labelled(self) -> None:
        method, data = CLIP(model()), batch()
        data["labelled"]["label"][:] = 255
        loss = method(data, 0.0)["loss"]
        loss.backward()
        assert loss.item() == 0.0
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.model.parameters())

    def test_autocast(self) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            assert CLIP(model())(batch(), 0.0)["loss"].dtype == torch.float32

    def test_exception(self) -> None:
        network = model()
        network.text.caption = None
        with pytest.raises(ValueError, match="this objective reads captions"):
            CLIP(network)(batch(), 0.0)
