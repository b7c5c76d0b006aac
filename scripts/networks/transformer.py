"""Transformer layer and position embedding over the patches of an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sincos_position(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """(1, height·width, dim) sine and cosine of row and column, at dim/4 wavelengths from 2π to 20000π patches."""
    rates = 10000.0 ** -(torch.arange(dim // 4, device=device) / max(1, dim // 4 - 1))
    rows = torch.arange(height, device=device)[:, None] * rates  # (height, dim/4)
    columns = torch.arange(width, device=device)[:, None] * rates
    rows = torch.cat([rows.sin(), rows.cos()], 1)[:, None].expand(-1, width, -1)  # (height, width, dim/2)
    columns = torch.cat([columns.sin(), columns.cos()], 1)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], 2).reshape(1, height * width, dim)


class TransformerLayer(nn.Module):
    """Self-attention and a two-layer perceptron of four times the width, each normalised first and added.

    torch's own layer takes another path in evaluation, which holds the whole (P, P) attention: 1 GB a slice at 8192
    patches. This one never does, and gives the same numbers in training and in evaluation.

    Args:
        width: D, a multiple of `heads`.
        heads: A, attention heads.
        dropout: of attention weights and of both summands, in training.
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
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=self.dropout.p if self.training else 0.0)
        attended = attended.transpose(1, 2).flatten(2)  # (B, A, P, D/A) -> (B, P, D)
        tokens = tokens + self.dropout(self.attention_out(attended))
        return tokens + self.dropout(self.mlp(tokens))
