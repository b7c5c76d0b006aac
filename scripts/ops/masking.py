"""Random block masks for masked image modelling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def random_blocks(
    batch: int, size: Sequence[int], block: int, share: float, device: torch.device | str = "cpu"
) -> Tensor:
    """Random masks of square blocks on a fixed grid, with the same number of blocks in every image.

    Args:
        batch: B.
        size: (H, W) of the images; blocks at the lower and the right edge are cut where they do not fit.
        block: edge of a block in pixels, ≥ 1.
        share: share of the blocks that is masked, in [0, 1], rounded to whole blocks.
        device: of the mask; drawn from that device's global generator.

    Returns:
        (B, 1, H, W) bool, true where masked.

    Raises:
        ValueError: a share outside [0, 1] or a block without pixels.

    References: Xie et al., SimMIM, CVPR 2022, section 3.2.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share of masked blocks must be in [0, 1], got {share}")
    if block < 1:
        raise ValueError(f"block must be at least 1 pixel, got {block}")
    height, width = size
    rows, columns = math.ceil(height / block), math.ceil(width / block)
    place = torch.rand(batch, rows * columns, device=device).argsort(1)  # (B, P), each a random order of the blocks
    masked = (place < round(share * rows * columns)).view(batch, 1, rows, columns)
    return masked.repeat_interleave(block, 2).repeat_interleave(block, 3)[:, :, :height, :width]
