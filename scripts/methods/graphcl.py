"""GraphCL: BCP with graph-based clustering of the deepest features."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..ops.losses import correlation_clustering_loss
from .base import Losses
from .bcp import BCP


class GraphCL(BCP):
    """Graph-based clustering for semi-supervised segmentation (Wang et al., ICML 2025).

    L = the terms of BCP + `clustering` · ramp(progress) · correlation_clustering_loss(graph(features)), with the
    student's deepest features of the mixed slices.

    Implemented from the paper, without its code. Differences, beside those of `BCP`: affinities are cosines in
    DeepCut's form A - max(A)/alpha, since the paper's (A - max A)/tau is nowhere positive; the loss is divided by the
    squared number of nodes, without which it outweighs all other terms; structure scores come from the averaged
    features; the aligned features enter the clustering only and not the decoder, so that inference needs no batch.

    Args:
        student: a network with `features` and `head`, such as `scripts.networks.resunet.ResUNet2d`.
        graph: features (B, C, h, w) -> (cosines (B, n, n), cluster assignment (B, n, K)); trained with the student.
        alpha: see `scripts.ops.losses.correlation_clustering_loss`.
        options: see `BCP`; `loss_weights` has the key `clustering` too.
    """

    def __init__(self, student: nn.Module, graph: nn.Module, alpha: float = 2.0, **options: Any) -> None:
        super().__init__(student, **options)
        self.graph, self.alpha = graph, alpha

    def predict(self, image: Tensor) -> tuple[Tensor, Losses]:
        """The student's logits of mixed slices and the term `clustering`."""
        student: Any = self.student
        decoded = student.features(image)
        logits = student.head(decoded[-1])[:, :, : image.shape[2], : image.shape[3]]
        cosines, shares = self.graph(decoded[0])
        return logits, {"clustering": correlation_clustering_loss(cosines, shares, self.alpha)}
