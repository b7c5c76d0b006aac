"""Contrast of two sets of embeddings: cosines, and cross-entropies with soft, several, or uncounted targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .check_shape import check_shape


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosine between all rows of two sets, in float32 even under autocast.

    Args:
        first: (..., A, D) embeddings, any scale.
        second: (..., B, D) embeddings, any scale.

    Returns:
        (..., A, B) in [-1, 1] up to rounding; 0 for an embedding of zeros.
    """
    with torch.autocast(first.device.type, enabled=False):
        return F.normalize(_wide(first), dim=-1) @ F.normalize(_wide(second), dim=-1).transpose(-1, -2)


def soft_cross_entropy(logits: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """Cross-entropy of softmax over each row against a distribution, mean over the rows that have one.

    Args:
        logits: (A, B) before softmax.
        target: (A, B) weights ≥ 0, which are scaled to sum to 1 in each row; a row of zeros is left out.
        counted: (A, B) bool, pairs that are looked at; the others are neither positive nor negative. None counts all.

    Returns:
        () loss ≥ 0, float32 or wider; 0 if no row has a target (the graph is kept).

    Raises:
        ValueError: the shapes differ.
    """
    sizes = check_shape("logits", logits, "A B")
    check_shape("target", target, "A B", sizes)
    with torch.autocast(logits.device.type, enabled=False):
        logits, target = _wide(logits), target.to(_wide(logits).dtype)
        if counted is not None:
            check_shape("counted", counted, "A B", sizes)
            logits, target = _only(logits, counted), target * counted
        total = target.sum(1)
        rows = -(target * logits.log_softmax(1)).sum(1) / total.where(total > 0, 1.0)
        return rows.sum() / (total > 0).sum().clamp_min(1)


def matched_contrast(logits: Tensor, matches: Tensor, counted: Tensor | None = None) -> Tensor:
    """InfoNCE in both directions, ½ each, where a row may match several columns and they share its target alike.

    Args:
        logits: (A, B) scaled similarities.
        matches: (A, B) bool, pairs that belong together; the identity gives the InfoNCE of CLIP.
        counted: see :func:`soft_cross_entropy`.

    Returns:
        () loss, see :func:`soft_cross_entropy`.

    References: Radford et al., Learning transferable visual models from natural language supervision, ICML 2021.
    """
    turned = None if counted is None else counted.T
    return (soft_cross_entropy(logits, matches, counted) + soft_cross_entropy(logits.T, matches.T, turned)) / 2


def multi_label_cross_entropy(logits: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """log(1 + Σ e^s over negatives) + log(1 + Σ e^-s over positives) of each row: positives above 0, negatives below.

    Args:
        logits: (..., M) scores s.
        positive: (..., M) bool.
        counted: (..., M) bool, scores that are looked at; may broadcast.

    Returns:
        (...) loss ≥ 0, float32 or wider; 0 where nothing is counted.

    References: the multi-label cross-entropy of EGMA (Ma et al., NeurIPS 2024).
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = _wide(logits)
        negatives = _only(logits, counted & ~positive).logsumexp(-1)
        positives = _only(-logits, counted & positive).logsumexp(-1)
        return F.softplus(negatives) + F.softplus(positives)


def attended(queries: Tensor, keys: Tensor, temperature: float, counted: Tensor | None = None) -> Tensor:
    """For each query the mean of the keys at length 1, weighted by the softmax of cosine / temperature.

    Args:
        queries: (B, A, D) embeddings.
        keys: (B, C, D) embeddings.
        temperature: > 0.
        counted: (B, C) bool, keys that may be attended to; None counts all.

    Returns:
        (B, A, D) float32 or wider.
    """
    with torch.autocast(queries.device.type, enabled=False):
        logits = cosines(queries, keys) / temperature
        if counted is not None:
            logits = _only(logits, counted[:, None])
        return logits.softmax(2) @ F.normalize(_wide(keys), dim=-1)


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Assign samples to prototypes so that all prototypes get the same share, softly.

    Args:
        scores: (A, K) similarity of sample and prototype.
        epsilon: smoothness; small values assign hard.
        iterations: times that prototypes and then samples are normalised.

    Returns:
        (A, K) float32 or wider, without a gradient; each row sums to 1, each column about to A / K.

    References: Caron et al., Unsupervised learning of visual features by contrasting cluster assignments, NeurIPS 2020;
        Cuturi, Sinkhorn distances, NeurIPS 2013. In logarithms, which do not overflow.
    """
    logs = _wide(scores) / epsilon
    for _ in range(iterations):
        logs = logs.log_softmax(0).log_softmax(1)
    return logs.exp()


def _only(logits: Tensor, counted: Tensor) -> Tensor:
    """Logits whose uncounted entries vanish in a softmax, without a NaN where all of them are uncounted."""
    return logits.masked_fill(~counted, torch.finfo(logits.dtype).min / 2)


def _wide(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return x if x.dtype == torch.float64 else x.float()
