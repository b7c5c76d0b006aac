from __future__ import annotations

import pytest
import torch

from scripts.networks.encoders import UNetTransformerEncoder, VisionEncoder, ViTEncoder
from scripts.networks.masked_image_model import MaskedImageModel

VIT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def trunk(output_stride: int) -> UNetTransformerEncoder:
    return UNetTransformerEncoder((4, 8, 8), width=16, layers=1, heads=2, output_stride=output_stride)


def vit(input_scale: float) -> ViTEncoder:
    return ViTEncoder(config={**VIT, "image_size": 32, "patch_size": 8}, input_scale=input_scale)


ENCODERS = {"stride 4": (trunk, 4), "stride 2": (trunk, 2), "vit": (vit, 1.0), "enlarged vit": (vit, 2.0)}


@pytest.fixture(params=ENCODERS)
def vision(request: pytest.FixtureRequest) -> VisionEncoder:
    make, option = ENCODERS[request.param]
    return make(option)


class TestImagePainter:
    @pytest.mark.parametrize("size", [(32, 16), (33, 18)])
    def test_shape(self, vision: VisionEncoder, size: tuple[int, int]) -> None:
        assert MaskedImageModel(vision)(torch.randn(2, 1, *size)).shape == (2, 1, *size)

    def test_twin(self, vision: VisionEncoder) -> None:
        """Pixel (y, x) of a patch is channel y · stride + x of a linear layer on its embedding."""
        painter, image = MaskedImageModel(vision).eval(), torch.randn(1, 1, 32, 16)
        with torch.no_grad():
            patches, painted = vision(image)[0], painter(image)[0, 0]
        stride = 32 // patches.shape[1]
        weight, bias = painter.head.weight.detach()[:, :, 0, 0], painter.head.bias.detach()
        for row, column in ((0, 0), (13, 7), (31, 15)):
            pixel = row % stride * stride + column % stride
            expected = weight[pixel] @ patches[:, row // stride, column // stride] + bias[pixel]
            torch.testing.assert_close(painted[row, column], expected)

    def test_trains_the_encoder_that_it_was_given(self, vision: VisionEncoder) -> None:
        painter = MaskedImageModel(vision)
        painter(torch.randn(2, 1, 32, 16)).square().sum().backward()
        without = {n for n, p in vision.named_parameters() if p.grad is None}
        assert without <= {"vit.embeddings.cls_token"}
