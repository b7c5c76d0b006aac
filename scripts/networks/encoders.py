"""Vision encoders of stage 1: Vision Transformer and U-Net with transformer, image -> grid of patch embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.check_shape import check_shape
from .pretrained import load_pretrained
from .resunet import ResidualEncoder, UpStage


def resize_to_multiple(image: Tensor, multiple: int, scale: float = 1.0) -> Tensor:
    """Resize an image (B, 1, H, W) by `scale`, each side rounded to a multiple of `multiple`.

    Unlike padding, this keeps the patch grid aligned with the image.
    """
    check_shape("image", image, "B 1 H W")
    size = [max(1, round(side * scale / multiple)) * multiple for side in image.shape[2:]]
    if size == list(image.shape[2:]):
        return image
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False)


class VisionEncoder(nn.Module):
    """Interface of vision encoders; `forward` maps (B, 1, H, W) to patch embeddings (B, D, h, w)."""

    embed_dim: int
    """D, the dimension of a patch embedding."""

    output_stride: int
    """Pixels of the image along a patch's edge, to the nearest whole number."""

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, H, W) z-scored image -> patch embeddings (B, D, h, w) and image embedding (B, D), here their mean."""
        patches = self(image)
        return patches, patches.mean(dim=(2, 3))

    def spec(self) -> dict[str, Any]:
        """Kind and constructor arguments, as JSON for :func:`build_vision_encoder`."""
        raise NotImplementedError


class ViTEncoder(VisionEncoder):
    """Vision Transformer; the default is the ImageNet-21k ViT-B/16, about 86 M weights.

    Args:
        pretrained: name on the Hugging Face hub or a local folder; ignored if there is a `config`.
        config: arguments of `transformers.ViTConfig`, for random weights.
        input_scale: resizes the image, so that with 2.0 a 16-pixel patch covers 8 pixels.

    Raises:
        RuntimeError: the pretrained transformer cannot be loaded.
        ValueError: neither `pretrained` nor `config`.
    """

    def __init__(
        self,
        pretrained: str | None = "google/vit-base-patch16-224-in21k",
        config: dict[str, Any] | None = None,
        input_scale: float = 1.0,
    ) -> None:
        super().__init__()
        from transformers import ViTConfig, ViTModel

        if config is not None:
            self.vit = ViTModel(ViTConfig(**config), add_pooling_layer=False)
        elif pretrained:
            self.vit = load_pretrained(ViTModel, pretrained, "vision encoder")
        else:
            raise ValueError("ViTEncoder needs `pretrained` or `config`")
        self.input_scale = input_scale
        self.embed_dim = self.vit.config.hidden_size
        self.output_stride = max(1, round(self.vit.config.patch_size / input_scale))

    def spec(self) -> dict[str, Any]:
        """See :meth:`VisionEncoder.spec`; the full configuration, so that nothing is downloaded."""
        options = {"config": self.vit.config.to_dict(), "input_scale": self.input_scale}
        return {"kind": "vit", "options": options}

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) z-scored image -> (B, D, h, w) patch embeddings, h ≈ H·input_scale/patch."""
        return self.encode(image)[0]

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`VisionEncoder.encode`; the image embedding is the [CLS] token."""
        patch: int = self.vit.config.patch_size
        image = resize_to_multiple(image, patch, self.input_scale)
        h, w = image.shape[2] // patch, image.shape[3] // patch
        # Pretrained ViTs expect values in [-1, 1]. Unlike clipping, tanh keeps bright fat and fluid distinguishable;
        # the factor 0.5 gives about the standard deviation of photographs.
        image = torch.tanh(0.5 * image).expand(-1, self.vit.config.num_channels, -1, -1)
        tokens = self.vit(pixel_values=image, interpolate_pos_encoding=True).last_hidden_state
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (h, w)), tokens[:, 0]  # (B, 1+P, D) -> (B, D, h, w)


class UNetTransformerEncoder(VisionEncoder):
    """Convolutional encoder (trunk), transformer on its coarsest features, decoder up to the output stride.

    The trunk is the upper part of a :class:`ResUNet2d`. The global receptive field is needed to recognise levels.

    Args:
        channels: widths of the trunk's levels, finest first; three levels end at stride 4.
        width: width of the transformer, a multiple of 4 and of `heads`.
        layers: number of transformer layers.
        heads: attention heads of a layer.
        output_stride: image pixels per output patch: the trunk's last stride, or a finer power of two, by up-sampling
            with the trunk's skip features.
        norm: "batch", "group" or "instance", in the convolutions.
        dropout: in the transformer layers.
        trunk_weights: checkpoint of a :class:`ResUNet2d` whose encoder begins with the same `channels`.

    Raises:
        ValueError: an impossible `output_stride` or `width`, or `trunk_weights` that do not fit.
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 128),
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        output_stride: int = 4,
        norm: str = "batch",
        dropout: float = 0.0,
        trunk_weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.stride = 2 ** (len(channels) - 1)
        strides = [2**level for level in range(len(channels))]
        if output_stride not in strides:
            raise ValueError(f"output_stride must be one of {strides} for {len(channels)} levels, got {output_stride}")
        if width % 4 or width % heads:
            raise ValueError(f"width must be a multiple of 4 and of heads = {heads}, got {width}")
        self.output_stride = output_stride
        self.options = {"channels": [*channels], "width": width, "layers": layers, "heads": heads}
        self.options |= {"output_stride": output_stride, "norm": norm, "dropout": dropout}
        self.trunk = ResidualEncoder(1, channels, norm)
        self.entry = nn.Conv2d(channels[-1], width, 1)
        self.layers = nn.ModuleList(TransformerLayer(width, heads, dropout) for _ in range(layers))
        self.final_norm = nn.LayerNorm(width)
        widths = [width, *channels[strides.index(output_stride) : -1][::-1]]
        self.up = nn.ModuleList(UpStage(a, b, norm) for a, b in pairwise(widths))
        self.embed_dim = widths[-1]
        if trunk_weights:
            self._load_trunk(Path(trunk_weights))

    def spec(self) -> dict[str, Any]:
        """See :meth:`VisionEncoder.spec`."""
        return {"kind": "unet_transformer", "options": self.options}

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) z-scored image -> (B, D, h, w) patch embeddings, h ≈ H/output_stride."""
        features = self.trunk(resize_to_multiple(image, self.stride))
        x = self.entry(features[-1])
        h, w = x.shape[2:]
        tokens = x.flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, P, D)
        tokens = tokens + sincos_position(h, w, tokens.shape[2], x.device).to(x.dtype)
        for layer in self.layers:
            tokens = layer(tokens)
        x = self.final_norm(tokens).transpose(1, 2).unflatten(2, (h, w))
        for step, stage in enumerate(self.up):
            x = stage(x, features[-2 - step])
        return x

    def _load_trunk(self, path: Path) -> None:
        """Initialise the trunk by the encoder of a segmentation network."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        own = self.trunk.state_dict()
        wrong = [k for k, v in own.items() if getattr(state.get(f"encoder.{k}"), "shape", None) != v.shape]
        if wrong:
            raise ValueError(
                f"trunk_weights {path} do not fit channels {self.options['channels']} and norm "
                f"{self.options['norm']!r}: give a ResUNet2d checkpoint with the same (first difference: {wrong[0]})"
            )
        self.trunk.load_state_dict({k: state[f"encoder.{k}"] for k in own})


VISION_ENCODERS: dict[str, type[VisionEncoder]] = {"vit": ViTEncoder, "unet_transformer": UNetTransformerEncoder}
"""Kind in a stage-1 checkpoint -> encoder."""


def build_vision_encoder(spec: dict[str, Any]) -> VisionEncoder:
    """Vision encoder with random weights from its `spec()`."""
    if spec["kind"] not in VISION_ENCODERS:
        raise ValueError(f"vision encoder must be one of {', '.join(VISION_ENCODERS)}, got {spec['kind']!r}")
    return VISION_ENCODERS[spec["kind"]](**spec["options"])


def sincos_position(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """2D sinusoidal position encoding (1, height·width, dim) with dim/4 wavelengths from 2π to 20000π patches."""
    rates = 10000.0 ** -(torch.arange(dim // 4, device=device) / max(1, dim // 4 - 1))
    rows = torch.arange(height, device=device)[:, None] * rates  # (height, dim/4)
    columns = torch.arange(width, device=device)[:, None] * rates
    rows = torch.cat([rows.sin(), rows.cos()], 1)[:, None].expand(-1, width, -1)  # (height, width, dim/2)
    columns = torch.cat([columns.sin(), columns.cos()], 1)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], 2).reshape(1, height * width, dim)


class TransformerLayer(nn.Module):
    """Pre-norm transformer layer: self-attention and an MLP of four times the width, each with a residual connection.

    In evaluation `nn.TransformerEncoderLayer` holds the whole (P, P) attention, 1 GB a slice at 8192 patches; this
    layer does not.

    Args:
        width: D, a multiple of `heads`.
        heads: A, attention heads.
        dropout: of attention weights and of both residual branches.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, P, D) -> (B, P, D)."""
        joined = self.query_key_value(self.attention_norm(tokens)).unflatten(2, (3, self.heads, -1))
        query, key, value = joined.permute(2, 0, 3, 1, 4)  # (B, P, 3, A, D/A) -> 3 of (B, A, P, D/A)
        attention_output = F.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout.p if self.training else 0.0
        )
        attention_output = attention_output.transpose(1, 2).flatten(2)  # (B, A, P, D/A) -> (B, P, D)
        tokens = tokens + self.dropout(self.attention_out(attention_output))
        return tokens + self.dropout(self.mlp(tokens))
