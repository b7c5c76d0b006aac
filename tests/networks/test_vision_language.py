import math

import pytest
import torch

from scripts.networks.encoders import UNetTransformerEncoder
from scripts.networks.text_encoder import BertTextEncoder, ClassVectors
from scripts.networks.vision_language import VisionLanguageModel

PROMPTS = [f"A magnetic resonance image of {name}" for name in ("the background", "a sacrum", "an L5")]
TRUNK = {"channels": (4, 8), "width": 16, "layers": 1, "heads": 2, "output_stride": 2}
BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def small_model(**options) -> VisionLanguageModel:
    text = BertTextEncoder(PROMPTS, config=BERT)
    return VisionLanguageModel(UNetTransformerEncoder(**TRUNK), text, embed_dim=24, **options)


class TestVisionLanguageModel:
    def test_shape(self):
        maps = small_model()(torch.randn(2, 1, 16, 8))
        assert maps.shape == (2, 3, 8, 4)
        torch.testing.assert_close(maps.sum(1), torch.ones(2, 8, 4))

    def test_prompts_are_centred(self):
        torch.testing.assert_close(small_model().eval().prompt_embeddings().mean(0), torch.zeros(24), atol=1e-6, rtol=0)
        assert small_model(centre_prompts=False).eval().prompt_embeddings().mean(0).abs().max() > 0.01

    def test_twin(self):
        model, image = small_model(activation="sigmoid", scale=7.0, bias=-1.5).eval(), torch.randn(1, 1, 16, 8)
        patches, prompts, maps = model.patch_embeddings(image), model.prompt_embeddings(), model(image)
        for n, row, column in ((0, 0, 0), (2, 5, 3)):
            p, t = patches[0, :, row, column], prompts[n]
            cosine = (p @ t) / (p.norm() * t.norm())
            torch.testing.assert_close(maps[0, n, row, column], (7.0 * cosine - 1.5).sigmoid())

    def test_whole_image_goes_through_the_projection_of_the_patches(self):
        model, image = small_model().eval(), torch.randn(2, 1, 16, 8)
        patches, whole = model.encode(image)
        torch.testing.assert_close(patches, model.patch_embeddings(image))
        torch.testing.assert_close(whole, patches.mean((2, 3)))  # the projection is linear

    @pytest.mark.parametrize("centred", [True, False])
    def test_captions_are_measured_from_where_the_prompts_are(self, centred):
        model = small_model(centre_prompts=centred).eval()
        model.text = ClassVectors(PROMPTS, 16)
        captions = model.caption_embeddings(torch.tensor([[False, True, False], [True, True, False]]))
        prompts = model.prompt_embeddings()
        torch.testing.assert_close(captions.sentence, torch.stack([prompts[1], prompts[:2].mean(0)]))
        torch.testing.assert_close(captions.words[1, :2], prompts[:2])

    def test_class_that_does_not_compete_takes_no_patch(self):
        model, image = small_model(competing=[0, 2]).eval(), torch.randn(2, 1, 16, 8)
        similarity = model.similarity(image).detach()
        similarity[:, 1] = 1.0  # nothing was said about it, so that it may be anything
        model.similarity = lambda _: similarity
        maps = model(image)
        assert (maps[:, 1] == 0).all()
        torch.testing.assert_close(maps[:, [0, 2]].sum(1), torch.ones(2, 8, 4))

    def test_dot(self):
        model, image = small_model(similarity="dot").eval(), torch.randn(1, 1, 16, 8)
        dot = model.patch_embeddings(image)[0, :, 5, 3] @ model.prompt_embeddings()[2] / math.sqrt(24)
        torch.testing.assert_close(model.similarity(image)[0, 2, 5, 3], dot)

    def test_cosines_are_bounded(self):
        similarity = small_model().similarity(10 * torch.randn(1, 1, 16, 8))
        assert similarity.abs().max() <= 1 + 1e-6

    @pytest.mark.parametrize("activation", ["softmax_classes", "sigmoid"])
    @pytest.mark.parametrize("similarity", ["cosine", "dot"])
    @pytest.mark.parametrize("training", [True, False])
    def test_autocast(self, activation, similarity, training):
        model = small_model(activation=activation, similarity=similarity).train(training)
        with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(training):
            maps = model(torch.randn(2, 1, 16, 8))
        assert maps.dtype == torch.float32
        assert ((maps >= 0) & (maps <= 1)).all()

    def test_every_weight_gets_a_gradient(self):
        model = small_model()
        model(torch.randn(2, 1, 16, 8)).square().sum().backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []

    @pytest.mark.parametrize("text", ["bert", "vectors"])
    def test_overfits(self, text):
        model = small_model()
        if text == "vectors":
            model = VisionLanguageModel(model.vision, ClassVectors(PROMPTS, 16), embed_dim=24)
        image = torch.randn(2, 1, 16, 8)
        label = torch.arange(8).view(1, 8, 1).expand(2, 8, 4) // 3  # class by height
        optimiser = torch.optim.Adam(model.parameters(), 3e-3)
        losses = []
        for _ in range(40):
            loss = torch.nn.functional.nll_loss(model(image).log(), label)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.5 * losses[0]

    def test_exception(self):
        with pytest.raises(ValueError, match="activation must be one of softmax_classes, sigmoid, got 'softmax'"):
            small_model(activation="softmax")
        with pytest.raises(ValueError, match="similarity must be one of cosine, dot, got 'l2'"):
            small_model(similarity="l2")
