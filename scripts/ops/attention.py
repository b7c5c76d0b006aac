"""Attention maps of class prompts over image patches, and their targets from a label."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..labels import IGNORE
from .check_shape import check_shape

ACTIVATIONS = ("softmax_classes", "sigmoid")
TARGETS = ("area", "area_half", "bilinear_gt0")


def cosine_similarity(patches: Tensor, prompts: Tensor) -> Tensor:
    """Cosine similarity of every image patch and every class prompt, in float32 even under autocast.

    Args:
        patches: (B, D, h, w) embeddings of the patches, any scale.
        prompts: (N, D) embeddings of the class prompts, any scale.

    Returns:
        (B, N, h, w) in [-1, 1] up to rounding; 0 for an embedding of zeros.

    Raises:
        ValueError: the embeddings differ in D, or have other numbers of axes.
    """
    check_shape("prompts", prompts, "N D", check_shape("patches", patches, "B D h w"))
    # Half precision resolves cosines near 1 to 5e-4 only, and the scale that follows would amplify that.
    with torch.autocast(patches.device.type, enabled=False):
        unit_patches = F.normalize(_at_least_float32(patches), dim=1)
        unit_prompts = F.normalize(_at_least_float32(prompts), dim=1)
        return torch.einsum("bdhw,nd->bnhw", unit_patches, unit_prompts)


def activate(similarity: Tensor, kind: str, scale: Tensor, bias: Tensor) -> Tensor:
    """Attention maps from logits scale · similarity + bias, by softmax over the classes or by sigmoid.

    Args:
        similarity: (B, N, h, w) cosines.
        kind: "softmax_classes" (maps of a patch sum to 1) or "sigmoid" (classes are independent).
        scale: () learnable factor.
        bias: () learnable offset; it cancels in the softmax, where its gradient is 0.

    Returns:
        (B, N, h, w) attention maps in [0, 1], float32 or wider.

    Raises:
        ValueError: an unknown kind, or a similarity without four axes.
    """
    check_shape("similarity", similarity, "B N h w")
    if kind not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {kind!r}")
    with torch.autocast(similarity.device.type, enabled=False):
        logits = _at_least_float32(similarity) * scale + bias
        return logits.softmax(dim=1) if kind == "softmax_classes" else logits.sigmoid()


def region_targets(label: Tensor, num_classes: int, grid: tuple[int, int], kind: str = "area") -> Tensor:
    """Down-scale the region of every class from the pixel grid to the patch grid.

    Args:
        label: (B, H, W) integer class indices; 255 and other values outside 0..N-1 belong to no class.
        num_classes: N, background included.
        grid: (h, w) of the patch grid.
        kind: "area" is the share of the patch that the class covers; "area_half" is 1 where that share is ≥ 0.5;
            "bilinear_gt0" is 1 where the bilinear interpolation (without antialiasing) of the mask is > 0.

    Returns:
        (B, N, h, w) float32 in [0, 1]; all 0 for a class that is absent or too small for the grid.

    Raises:
        ValueError: an unknown kind, or a label without three axes.

    Convention: ignored pixels count as part of the patch, so "area" sums over classes to :func:`valid_area`.

    References: bilinear and > 0 is the reading of TokenCompose (Wang et al., CVPR 2024); area shares have the
        highest attainable Dice at every patch size, see the docs on stage 1.
    """
    check_shape("label", label, "B H W")
    if kind not in TARGETS:
        raise ValueError(f"region target must be one of {', '.join(TARGETS)}, got {kind!r}")
    classes = torch.arange(num_classes, device=label.device, dtype=label.dtype)
    masks = (label[:, None] == classes[:, None, None]).float()  # (B, H, W) -> (B, N, H, W)
    if kind == "bilinear_gt0":
        return (F.interpolate(masks, size=grid, mode="bilinear", align_corners=False) > 0).float()
    share = F.adaptive_avg_pool2d(masks, grid)
    return share if kind == "area" else (share >= 0.5).float()


def valid_area(label: Tensor, grid: tuple[int, int]) -> Tensor:
    """Share (B, 1, h, w) in [0, 1] of every patch of a label (B, H, W) that is not ignored (255)."""
    check_shape("label", label, "B H W")
    return F.adaptive_avg_pool2d((label[:, None] != IGNORE).float(), grid)


def _at_least_float32(x: Tensor) -> Tensor:
    """Half precision is cast to float32."""
    return x if x.dtype == torch.float64 else x.float()
