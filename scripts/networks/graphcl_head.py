"""Graph convolution heads of GraphCL on the deepest features, for training only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.check_shape import check_shape


class GraphHead(nn.Module):
    """Structure-aware alignment of the slices of a batch, then soft clustering of the positions of each slice.

    Alignment, a graph whose nodes are the slices: Z = D^(-1/2) X_sa X_saᵀ D^(-1/2) X W, with X the averaged features of
    the slices and X_sa their structure scores, a softmax of a linear layer on X; Z is added at every position.
    Clustering, a graph whose nodes are the positions of a slice: a graph convolution with the positive cosines as
    adjacency, then two linear layers.

    Args:
        channels: channels of the features.
        clusters: largest number of clusters K; clusters may be empty.
        scores: number of structure scores of a slice.
        hidden: width of the layers between features and clusters.
        dropout: share of the hidden activations set to zero in training.

    References: the GraphCL paper (see `scripts.methods.graphcl`); Aflalo et al., DeepCut, ICCVW 2023, the cluster head.
    """

    def __init__(self, channels: int, clusters: int, scores: int = 32, hidden: int = 64, dropout: float = 0.25) -> None:
        super().__init__()
        self.analyser = nn.Linear(channels, scores)
        self.align = nn.Linear(channels, channels, bias=False)
        self.convolve = nn.Linear(channels, hidden)
        self.cluster = nn.Sequential(
            nn.ELU(), nn.Linear(hidden, hidden), nn.ELU(), nn.Dropout(dropout), nn.Linear(hidden, clusters)
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> cosine similarity of positions (B, h·w, h·w) and soft cluster assignment (B, h·w, K)."""
        nodes = self.aligned(features).flatten(2).transpose(1, 2)  # (B, n, C)
        cosines = cosine_graph(nodes)
        hidden = normalised_adjacency(cosines.clamp_min(0)) @ self.convolve(nodes).to(cosines)
        return cosines, self.cluster(hidden).softmax(dim=2)

    def aligned(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) plus the graph convolution over the slices of the batch, at least float32."""
        with torch.autocast(features.device.type, enabled=False):
            features = features if features.dtype == torch.float64 else features.float()
            slices = features.mean(dim=(2, 3))
            scores = self.analyser(slices).softmax(dim=1)
            graph = normalised_adjacency((scores @ scores.T)[None])[0]  # (B, B)
            return features + self.align(graph @ slices)[:, :, None, None]


def cosine_graph(nodes: Tensor) -> Tensor:
    """Pairwise cosine similarity (B, n, n) of node features (B, n, C), in float32 or wider; 0 for a zero vector."""
    check_shape("nodes", nodes, "B n C")
    with torch.autocast(nodes.device.type, enabled=False):
        unit = F.normalize(nodes if nodes.dtype == torch.float64 else nodes.float(), dim=2)
        return unit @ unit.transpose(1, 2)


def normalised_adjacency(adjacency: Tensor) -> Tensor:
    """Symmetrically normalised adjacency D^(-1/2) A D^(-1/2) of (B, n, n) edge weights ≥ 0; 0 for isolated nodes.

    References: Kipf and Welling, ICLR 2017, eq. (2).
    """
    check_shape("adjacency", adjacency, "B n n")
    degree = adjacency.sum(2)
    root = degree.where(degree > 0, 1.0).rsqrt()
    return root[:, :, None] * adjacency * root[:, None, :]
