"""Arg max of bilinearly resampled class scores, without resampling all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from .check_shape import check_shape

_PIXELS_AT_A_TIME = 2**18
"""Pixels that are interpolated at once, so that memory does not grow with a noisy prediction."""


def resampled_top_class(
    scores: Tensor, scale: tuple[float, float], shift: tuple[float, float], size: tuple[int, int]
) -> Tensor:
    """Arg max over classes after bilinear in-plane resampling, with border padding.

    If the four pixels around a point have the same arg max, so has their bilinear mean. Scores are therefore
    interpolated only between pixels of different classes; elsewhere the label is copied. The result equals the arg max
    of all resampled scores, except possibly where two scores are equal but for rounding.

    Args:
        scores: (N, H, W, S) class scores, slices last.
        scale: input pixels per output pixel along H and W, > 0.
        shift: row and column in `scores` of the first output pixel.
        size: (H', W') of the output.

    Returns:
        (H', W', S) uint8 class ids.

    Raises:
        ValueError: scores without four axes, or of more than 256 classes.
    """
    sizes = check_shape("scores", scores, "N H W S")
    if sizes["N"] > 256:
        raise ValueError(f"scores must be of 256 classes at most, got {sizes['N']}")
    (y0, y1, down), (x0, x1, right) = (
        _neighbours(*axis, scores.device) for axis in zip(scale, shift, scores.shape[1:3], size, strict=True)
    )
    label = scores.max(0).indices.to(torch.uint8)  # (H, W, S)
    above, below = label[y0], label[y1]  # (H', W, S)
    result, beside = above[:, x0], above[:, x1]  # (H', W', S)
    differs = above != below
    between = (result != beside) | differs[:, x0] | differs[:, x1]
    rows = scores.movedim(0, -1).flatten(0, 2)  # (H·W·S, N): the scores of a pixel lie together
    width, depth = scores.shape[2:]
    for pixels in between.nonzero().split(_PIXELS_AT_A_TIME):
        y, x, z = pixels.unbind(1)
        corners = [
            rows[(row[y] * width + column[x]) * depth + z].float() for row in (y0, y1) for column in (x0, x1)
        ]  # 4 times (M, N)
        upper = torch.lerp(corners[0], corners[1], right[x, None])
        lower = torch.lerp(corners[2], corners[3], right[x, None])
        result[y, x, z] = torch.lerp(upper, lower, down[y, None]).max(1).indices.to(torch.uint8)
    return result


def _neighbours(
    scale: float, shift: float, length: int, count: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the two pixels around each of `count` sampling points on an axis, and the second one's weight."""
    place = (torch.arange(count, device=device, dtype=torch.float64) * scale + shift).clamp_(0, length - 1)
    before = place.floor().long()
    return before, (before + 1).clamp_max_(length - 1), (place - before).float()
