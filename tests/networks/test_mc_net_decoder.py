from __future__ import annotations

import pytest
import torch

from scripts.networks.mc_net_decoder import ExtraDecoder, copy_decoder_weights
from tests.tiny import CLASSES, SIZE, network

KINDS = ["transposed", "bilinear", "nearest"]


class TestExtraDecoder:
    @pytest.mark.parametrize("upsampling", KINDS)
    def test_shape(self, upsampling: str) -> None:
        decoder = ExtraDecoder(CLASSES, (4, 8), upsampling=upsampling)
        assert decoder(network().encode(torch.randn(2, 1, SIZE, SIZE))).shape == (2, CLASSES, SIZE, SIZE)

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match="upsampling must be"):
            ExtraDecoder(upsampling="cubic")


class TestStartAs:
    def test_transposed_is_a_copy(self) -> None:
        source, decoder = network().eval(), ExtraDecoder(CLASSES, (4, 8), upsampling="transposed").eval()
        copy_decoder_weights(source, [decoder])
        image = torch.randn(2, 1, SIZE, SIZE)
        assert torch.equal(decoder(source.encode(image)), source(image))

    @pytest.mark.parametrize("upsampling", KINDS[1:])
    def test_step_up_keeps_the_mean_of_constant_features(self, upsampling: str) -> None:
        source, decoder = network(), ExtraDecoder(CLASSES, (4, 8), upsampling=upsampling)
        copy_decoder_weights(source, [decoder])
        constant = torch.randn(1, 8, 1, 1).expand(1, 8, 6, 6)
        ups = [model.decoder.stages[0].up(constant) for model in (source, decoder)]
        inside = [up[:, :, 2:-2, 2:-2].mean((2, 3)) for up in ups]
        torch.testing.assert_close(*inside)

    def test_statistics_come_along(self) -> None:
        source, decoder = network(), ExtraDecoder(CLASSES, (4, 8))
        source(torch.randn(2, 1, SIZE, SIZE))
        copy_decoder_weights(source, [decoder])
        own, theirs = (model.decoder.stages[0].block.state_dict() for model in (decoder, source))
        assert all(torch.equal(own[name], value) for name, value in theirs.items())
