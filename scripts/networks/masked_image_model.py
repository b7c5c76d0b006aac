"""Network of masked image modelling (SimMIM): a vision encoder with a linear reconstruction head."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .encoders import VisionEncoder


class MaskedImageModel(nn.Module):
    """Reconstruct the grey values of every patch from its embedding by a linear head.

    Args:
        vision: encoder to pretrain, (B, 1, H, W) -> (B, D, h, w).

    References: Xie et al., SimMIM, CVPR 2022, section 3.3 (a linear head suffices).
    """

    def __init__(self, vision: VisionEncoder) -> None:
        super().__init__()
        self.vision = vision
        self.head = nn.Conv2d(vision.embed_dim, vision.output_stride**2, 1)  # a linear layer at each patch
        self.unfold = nn.PixelShuffle(vision.output_stride)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) masked image -> (B, 1, H, W) reconstructed grey values."""
        reconstruction = self.unfold(self.head(self.vision(image)))  # (B, s², h, w) -> (B, 1, h·s, w·s)
        if reconstruction.shape == image.shape:
            return reconstruction
        # the encoder resized the image to whole patches, see `resize_to_multiple`
        return F.interpolate(reconstruction, size=image.shape[2:], mode="bilinear", align_corners=False)
