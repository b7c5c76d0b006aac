"""2D residual U-Net (ResUNet) of SpineParseNet, as encoder, decoder and head that other networks reuse."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]


class BatchStatisticsNorm2d(nn.BatchNorm2d):
    """Batch normalisation by batch statistics in evaluation too, with the parameters of `nn.BatchNorm2d`, for exports.

    Equals `scripts.ops.batch_norm.batch_norm_statistics(network, "volume")`, which an exported graph leaves behind. The
    running averages are kept but not used.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, each channel with mean 0 and variance 1 over B, H and W, then weight and bias."""
        if not is_scripting():  # noqa: SIM102
            # A condition of its own: TorchScript would compile it behind an `and`.
            if torch.onnx.is_in_onnx_export():  # ONNX Runtime has no batch normalisation in training mode
                centred = input - input.mean((0, 2, 3), keepdim=True)
                variance = centred.square().mean((0, 2, 3), keepdim=True)
                scale = self.weight.view(1, -1, 1, 1) * torch.rsqrt(variance + self.eps)
                return centred * scale + self.bias.view(1, -1, 1, 1)
        return F.batch_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)


def normalisation(norm: str, channels: int) -> nn.Module:
    """Normalisation layer by name: "batch", "batch_statistics", "group" (up to 8 groups) or "instance" (affine).

    Raises:
        ValueError: another name.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "batch_statistics":
        return BatchStatisticsNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels)
    if norm == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    raise ValueError(f"norm must be 'batch', 'batch_statistics', 'group' or 'instance', got {norm!r}")


class ResidualBlock(nn.Module):
    """3x3 convolution, then a residual branch of two more; each normalised, ReLU after the sum."""

    def __init__(self, in_channels: int, out_channels: int, norm: str = "batch") -> None:
        super().__init__()
        self.entry = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            normalisation(norm, out_channels),
            nn.ReLU(inplace=True),
        )
        self.residual = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            normalisation(norm, out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            normalisation(norm, out_channels),
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W), ≥ 0."""
        x = self.entry(x)
        return self.activation(self.residual(x) + x)


class ResidualEncoder(nn.Module):
    """Residual blocks with 2x2 max-pooling between them."""

    def __init__(self, in_channels: int, channels: Sequence[int], norm: str = "batch") -> None:
        super().__init__()
        widths = [in_channels, *channels]
        self.stages = nn.ModuleList(ResidualBlock(a, b, norm) for a, b in pairwise(widths))
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W), H and W multiples of 2^(levels-1) -> features, finest first: (B, channels[i], H/2^i, W/2^i)."""
        features: list[Tensor] = []
        for level, stage in enumerate(self.stages):
            if level > 0:
                x = self.pool(x)
            x = stage(x)
            features.append(x)
        return features


class UpStage(nn.Module):
    """Decoder stage: up-sampling by 2, addition of the skip features, residual block.

    Args:
        in_channels: channels of the coarser features.
        out_channels: channels of the skip features and of the result.
        norm: see :func:`normalisation`.
        dropout: share of the coarser features' channels that is set to zero in training.
        upsampling: "transposed" convolution, or "bilinear" or "nearest" interpolation after a 1x1 convolution.

    Raises:
        ValueError: an unknown `norm` or `upsampling`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm: str = "batch",
        dropout: float = 0.0,
        upsampling: str = "transposed",
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.up: nn.Module
        if upsampling == "transposed":
            self.up = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1)
        elif upsampling in ("bilinear", "nearest"):
            # Convolution first, on a quarter of the pixels.
            self.up = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1), nn.Upsample(scale_factor=2.0, mode=upsampling)
            )
        else:
            raise ValueError(f"upsampling must be 'transposed', 'bilinear' or 'nearest', got {upsampling!r}")
        self.block = ResidualBlock(out_channels, out_channels, norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, C_in, H/2, W/2) and skip (B, C_out, H, W) -> (B, C_out, H, W)."""
        return self.block(self.up(self.dropout(x)) + skip)


class ResidualDecoder(nn.Module):
    """Decoder: one :class:`UpStage` per level but the deepest, with the same arguments."""

    def __init__(
        self, channels: Sequence[int], norm: str = "batch", dropout: float = 0.0, upsampling: str = "transposed"
    ) -> None:
        super().__init__()
        widths = list(channels)[::-1]
        self.stages = nn.ModuleList(UpStage(a, b, norm, dropout, upsampling) for a, b in pairwise(widths))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Features of the encoder, finest first -> features of the decoder, deepest first, the finest last."""
        x = features[-1]
        decoded = [x]
        for step, stage in enumerate(self.stages):
            x = stage(x, features[len(features) - 2 - step])
            decoded.append(x)
        return decoded


class ResUNet2d(nn.Module):
    """Residual U-Net with additive skip connections and a 1x1 head, for any image size; TorchScript-compatible.

    Args:
        in_channels: channels of the image.
        out_channels: number of classes, background included.
        channels: width of each level, finest first; each level halves the size.
        norm: see :func:`normalisation`.
        dropout: channel dropout before each up-sampling. The layers exist at 0 too, so that MONAI Label can switch them
            on for uncertainty by Monte Carlo dropout.

    References: SpineParseNet (Pang et al., IEEE TMI 2021), its 2D network; Lee et al. 2017 for the residual U-Net.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 20,
        channels: Sequence[int] = (32, 64, 128, 256, 512),
        norm: str = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.multiple = 2 ** (len(channels) - 1)
        self.encoder = ResidualEncoder(in_channels, channels, norm)
        self.decoder = ResidualDecoder(channels, norm, dropout)
        self.head = nn.Conv2d(channels[0], out_channels, 1)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Encoder features, finest first, of the image padded to a multiple of 2^(levels-1)."""
        bottom = (self.multiple - x.shape[2] % self.multiple) % self.multiple
        right = (self.multiple - x.shape[3] % self.multiple) % self.multiple
        if bottom + right > 0:
            x = F.pad(x, [0, right, 0, bottom], mode="replicate")
        return self.encoder(x)

    def features(self, x: Tensor) -> list[Tensor]:
        """Decoder features of the padded image, deepest first; the last is (B, channels[0], H', W')."""
        return self.decoder(self.encode(x))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) image -> (B, N, H, W) logits."""
        return self.head(self.features(x)[-1])[:, :, : x.shape[2], : x.shape[3]]


def reinitialise(parts: Iterable[nn.Module], seed: int) -> None:
    """Re-initialise parts of a network, running averages included, without changing the global random state."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for part in parts:
            for module in part.modules():
                if reset := getattr(module, "reset_parameters", None):
                    reset()
