"""Auxiliary decoders of MC-Net+ on the encoder of a :class:`ResUNet2d`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .resunet import ResidualDecoder, ResUNet2d


class ExtraDecoder(nn.Module):
    """Decoder and 1x1 head of `ResUNet2d` with another kind of up-sampling.

    Args:
        out_channels: number of classes, background included.
        channels: width of each level, finest first, as in the network whose encoder it shares.
        norm: "batch", "group" or "instance".
        dropout: see `ResUNet2d`.
        upsampling: "bilinear", "nearest" or "transposed".

    Raises:
        ValueError: an unknown `norm` or `upsampling`.
    """

    def __init__(
        self,
        out_channels: int = 20,
        channels: Sequence[int] = (32, 64, 128, 256, 512),
        norm: str = "batch",
        dropout: float = 0.0,
        upsampling: str = "bilinear",
    ) -> None:
        super().__init__()
        self.decoder = ResidualDecoder(channels, norm, dropout, upsampling)
        self.head = nn.Conv2d(channels[0], out_channels, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features of the encoder, finest first -> logits (B, N, H', W') of the padded image."""
        return self.head(self.decoder(features)[-1])


@torch.no_grad()
def copy_decoder_weights(network: ResUNet2d, decoders: Iterable[ExtraDecoder]) -> None:
    """Initialise auxiliary decoders by the network's own decoder and head.

    A 1x1 convolution before interpolation gets the sum of the 3x3 transposed convolution's taps / 4, its mean response
    to a constant input.

    Args:
        network: trained network with a transposed-convolution decoder.
        decoders: changed in place, running averages included.
    """
    for decoder in decoders:
        decoder.head.load_state_dict(network.head.state_dict())
        stages: Iterable[tuple[Any, Any]] = zip(decoder.decoder.stages, network.decoder.stages, strict=True)
        for own, source in stages:
            own.block.load_state_dict(source.block.state_dict())
            if isinstance(own.up, nn.ConvTranspose2d):
                own.up.load_state_dict(source.up.state_dict())
            else:
                own.up[0].weight.copy_(source.up.weight.sum((2, 3)).T[:, :, None, None] / 4)
                own.up[0].bias.copy_(source.up.bias)
