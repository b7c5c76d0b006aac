"""Prompt-guided map: the attention maps of all class prompts integrated into one multi-class label map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .check_shape import check_shape
from .levels.tissue import top_class

INTEGRATIONS = ("otsu_per_class", "foreground_by_background", "argmax")


def upsample(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear up-sampling of attention maps (B, N, h, w) to the image size (H, W), with align_corners False."""
    check_shape("maps", maps, "B N h w")
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def prompt_guided_map(
    maps: Tensor,
    thresholds: Tensor | None,
    *,
    gate: float,
    integration: str = "otsu_per_class",
    allowed: Tensor | None = None,
) -> Tensor:
    """Integrate the attention maps of all classes into one multi-class map.

    - "otsu_per_class": each map, the background's included, is binarised by its threshold. Where several masks
      overlap the class with the largest map value wins; where none lies, the pixel is background.
    - "foreground_by_background": foreground is where the background map does not exceed its threshold; there the
      foreground class with the largest map wins. Other thresholds are not read.
    - "argmax": the class with the largest map wins. No threshold is read.

    Args:
        maps: (B, N, H, W) activated and up-sampled attention maps, ≥ 0; class 0 is background.
        thresholds: (B, N) threshold of every map; may be None for "argmax".
        gate: presence gate: a foreground class is left out of an image unless the maximum of its map exceeds this.
            0 switches it off. It is needed because Otsu's threshold marks about half of an absent class's map.
        integration: one of the three above.
        allowed: (N,) bool, classes that may appear; None allows all. Background is always allowed.

    Returns:
        (B, H, W) int64 class indices.

    Raises:
        ValueError: an unknown integration, or shapes that do not fit.

    References: the CPS4 paper, section on class prompt driven segmentation (OTSU per class, then integration).
    """
    sizes = check_shape("maps", maps, "B N H W")
    if integration not in INTEGRATIONS:
        raise ValueError(f"integration must be one of {', '.join(INTEGRATIONS)}, got {integration!r}")
    if integration == "argmax":
        thresholds = torch.full(maps.shape[:2], -torch.inf, device=maps.device)
    elif thresholds is None:
        raise ValueError(f"thresholds must be given for the integration {integration!r}, got None")
    check_shape("thresholds", thresholds, "B N", sizes)
    present = maps.amax(dim=(2, 3)) > gate  # (B, N)
    if allowed is not None:
        check_shape("allowed", allowed, "N", sizes)
        present = present & allowed.to(present.device)
    # With "foreground_by_background" the background map does not compete by value.
    present[:, 0] = integration != "foreground_by_background"
    # An absent class gets an infinite threshold, which no pixel exceeds.
    floor = torch.full_like(thresholds, -torch.inf) if integration == "foreground_by_background" else thresholds
    floor = floor.masked_fill(~present, torch.inf)[:, :, None, None]
    # The first of equals wins: background where no map exceeds its threshold.
    winner = top_class(torch.where(maps > floor, maps, -torch.inf))
    if integration == "foreground_by_background":
        winner = winner.masked_fill(maps[:, 0] > thresholds[:, 0, None, None], 0)
    return winner


def average_slices(maps: Tensor, neighbours: int) -> Tensor:
    """Moving average of maps (S, ...) over the slices, `neighbours` on either side; the end slices are repeated."""
    if neighbours == 0:
        return maps
    padded = torch.cat([maps[:1]] * neighbours + [maps] + [maps[-1:]] * neighbours)
    return torch.stack([padded[i : i + len(maps)] for i in range(2 * neighbours + 1)]).mean(0)
