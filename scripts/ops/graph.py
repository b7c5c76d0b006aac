"""Graphs whose nodes are feature vectors, as dense matrices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .shapes import check_shape


def cosine_graph(nodes: Tensor) -> Tensor:
    """Cosine of every two nodes of a graph.

    Args:
        nodes: (B, n, C) feature vectors; half precision is computed in float32.

    Returns:
        (B, n, n) weights of the edges in [-1, 1], symmetric; 1 from a node to itself, 0 where a vector is 0.

    Raises:
        ValueError: another number of axes.
    """
    check_shape("nodes", nodes, "B n C")
    with torch.autocast(nodes.device.type, enabled=False):
        unit = F.normalize(nodes if nodes.dtype == torch.float64 else nodes.float(), dim=2)
        return unit @ unit.transpose(1, 2)


def normalised_adjacency(adjacency: Tensor) -> Tensor:
    """D^(-1/2) A D^(-1/2) with the degrees D, as graph convolutions use it.

    Args:
        adjacency: (B, n, n) weights of the edges, ≥ 0.

    Returns:
        (B, n, n); the row of a node without edges stays 0.

    Raises:
        ValueError: the matrices are not square.

    References: Kipf and Welling, ICLR 2017, eq. (2).
    """
    check_shape("adjacency", adjacency, "B n n")
    degree = adjacency.sum(2)
    root = degree.where(degree > 0, 1.0).rsqrt()
    return root[:, :, None] * adjacency * root[:, None, :]
