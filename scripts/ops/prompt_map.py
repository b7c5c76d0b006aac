"""From attention maps to the prompt-guided map: one class for every pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .check_shape import check_shape
from .levels.tissue import top_class

INTEGRATIONS = ("otsu_per_class", "foreground_by_background", "argmax")


def upsample(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bring attention maps to the size of the image, bilinear with pixel centres aligned.

    Args:
        maps: (B, N, h, w) attention maps.
        size: (H, W) of the image.

    Returns:
        (B, N, H, W); values stay within the range of the map.

    Raises:
        ValueError: maps without four axes.
    """
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

    - "otsu_per_class": a class competes where its map exceeds its threshold; the largest map wins, nobody gives
      background. Background's own map competes in the same way.
    - "foreground_by_background": foreground is where background's map does not exceed its threshold; there the
      foreground class with the largest map wins. Other thresholds are not read.
    - "argmax": the largest map wins. No threshold is read.

    Args:
        maps: (B, N, H, W) activated and up-sampled attention maps, ≥ 0; class 0 is background.
        thresholds: (B, N) threshold of every map; may be None for "argmax".
        gate: a foreground class may appear in an image only if the maximum of its map exceeds the gate; 0 lets all
            pass. OTSU marks half of the map of an absent class, which only this keeps out.
        integration: one of the three ways above.
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
    kept = maps.amax(dim=(2, 3)) > gate  # (B, N)
    if allowed is not None:
        check_shape("allowed", allowed, "N", sizes)
        kept = kept & allowed.to(kept.device)
    # Background never wins by value where it decides what foreground is, only by default.
    kept[:, 0] = integration != "foreground_by_background"
    # A class that is out gets a threshold that no pixel exceeds, so that one comparison does all.
    floor = torch.full_like(thresholds, -torch.inf) if integration == "foreground_by_background" else thresholds
    floor = floor.masked_fill(~kept, torch.inf)[:, :, None, None]
    # The first of equals wins: where every class is out, background.
    winner = top_class(torch.where(maps > floor, maps, -torch.inf))
    if integration == "foreground_by_background":
        winner = winner.masked_fill(maps[:, 0] > thresholds[:, 0, None, None], 0)
    return winner


def average_slices(maps: Tensor, neighbours: int) -> Tensor:
    """Mean of each slice's maps and those of the slices beside it; (S, ...) in and out, the ends repeat themselves."""
    if neighbours == 0:
        return maps
    padded = torch.cat([maps[:1]] * neighbours + [maps] + [maps[-1:]] * neighbours)
    return torch.stack([padded[i : i + len(maps)] for i in range(2 * neighbours + 1)]).mean(0)
