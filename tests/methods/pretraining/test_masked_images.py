from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from scripts.methods.pretraining.masked_images import MaskedImages
from scripts.networks.encoders import UNetTransformerEncoder
from scripts.networks.masked_image_model import MaskedImageModel
from tests.tiny import batch, stream, train


def painter() -> MaskedImageModel:
    torch.manual_seed(0)
    return MaskedImageModel(UNetTransformerEncoder((8, 16), width=32, layers=1, heads=2, output_stride=2))


class Recorder:
    """A network that remembers what it saw and paints `paint`."""

    def __init__(self, paint: float = 0.5) -> None:
        self.paint, self.seen = paint, torch.empty(0)

    def __call__(self, image: Tensor) -> Tensor:
        self.seen = image
        return torch.full_like(image, self.paint)


class TestMaskedImages:
    @pytest.mark.parametrize("share", [0.25, 0.6])
    def test_twin(self, share: float) -> None:
        """Hidden pixels are 0 for the network, and they alone are in the mean."""
        network, data = Recorder(), batch()
        loss = MaskedImages(network, block_px=4, share=share)(data, 0.0)["loss"]
        image = torch.cat([data["labelled"]["image"], data["unlabelled"]["image"]])
        terms = [
            abs(0.5 - true)
            for true, seen in zip(image.flatten().tolist(), network.seen.flatten().tolist(), strict=True)
            if seen != true
        ]
        assert len(terms) == 4 * round(share * 16) * 16  # images, blocks, pixels of a block
        assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)
        assert set(network.seen[network.seen != image].tolist()) == {0.0}

    def test_labels_are_not_looked_at(self) -> None:
        def loss(data: dict[str, Any]) -> Tensor:
            torch.manual_seed(0)
            return MaskedImages(Recorder(), block_px=4)(data, 0.0)["loss"]

        data = {"labelled": stream(seed=1), "unlabelled": None}
        images = {"labelled": {"image": data["labelled"]["image"]}, "unlabelled": None}
        assert torch.equal(loss(data), loss(images))

    def test_overfits(self) -> None:
        network = painter()
        losses = train(MaskedImages(network, block_px=4), network.parameters(), batch())
        assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
