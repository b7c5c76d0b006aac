"""Learned directions that embeddings are assigned to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops.contrast import cosines


class Prototypes(nn.Module):
    """K learned directions.

    Args:
        count: K.
        embed_dim: E of the embeddings.
    """

    def __init__(self, count: int, embed_dim: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(count, embed_dim))

    def forward(self, embeddings: Tensor) -> Tensor:
        """(A, E) embeddings of any scale -> (A, K) float32 cosines."""
        return cosines(embeddings, self.directions)
