"""The network of masked-image pretraining: a vision encoder, and a head that paints the patches again."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .encoders import VisionEncoder


class ImagePainter(nn.Module):
    """Grey values of every pixel from the embedding of its patch alone, so that the encoder has to know them.

    Args:
        vision: encoder (B, 1, H, W) -> (B, D, h, w); shared with the network that it is pretrained for.

    References: Xie et al., SimMIM, CVPR 2022, section 3.3: a linear layer is as good a head as any.
    """

    def __init__(self, vision: VisionEncoder) -> None:
        super().__init__()
        self.vision = vision
        self.head = nn.Conv2d(vision.embed_dim, vision.output_stride**2, 1)  # a linear layer at each patch
        self.unfold = nn.PixelShuffle(vision.output_stride)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) image with hidden parts -> (B, 1, H, W) predicted grey values."""
        painted = self.unfold(self.head(self.vision(image)))  # (B, s², h, w) -> (B, 1, h·s, w·s)
        if painted.shape == image.shape:
            return painted
        # the encoder has resized the image to whole patches, see `resize_to_multiple`
        return F.interpolate(painted, size=image.shape[2:], mode="bilinear", align_corners=False)
