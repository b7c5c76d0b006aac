"""Masked image modelling (SimMIM): self-supervised pretraining of the vision encoder on all training slices."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ...ops.losses import masked_pixel_loss
from ...ops.masking import random_blocks
from ..base import Losses


class MaskedImages:
    """Masked image modelling (SimMIM): reconstruct the grey values of masked blocks, L = masked_pixel_loss.

    Pixels are masked, not a transformer's tokens, so that convolutional encoders can be pretrained too. Masked pixels
    are set to 0, the mean of a z-scored volume.

    Args:
        model: (B, 1, H, W) masked image -> (B, 1, H, W) grey values.
        block_px: edge of a block in pixels.
        share: share of the blocks that is masked, in [0, 1].

    References: Xie et al., SimMIM: A Simple Framework for Masked Image Modeling, CVPR 2022.
    """

    def __init__(self, model: nn.Module, block_px: int = 8, share: float = 0.6) -> None:
        self.model, self.block_px, self.share = model, block_px, share

    def __call__(self, batch: dict[str, Any], progress: float) -> Losses:
        """Return `loss` over all images of the batch; labels are not used."""
        image = torch.cat([stream["image"] for stream in batch.values() if stream is not None])  # (B, 1, H, W)
        masked = random_blocks(len(image), image.shape[2:], self.block_px, self.share, image.device)
        return {"loss": masked_pixel_loss(self.model(image.masked_fill(masked, 0.0)), image, masked)}
