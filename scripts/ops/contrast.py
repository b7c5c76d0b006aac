"""Contrastive losses on embeddings: cosine similarity, InfoNCE with soft or several positives, Sinkhorn."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .check_shape import check_shape


def pairwise_cosine(first: Tensor, second: Tensor) -> Tensor:
    """Pairwise cosine similarity of two sets of embeddings, in float32 even under autocast.

    Args:
        first: (..., A, D) embeddings, any scale.
        second: (..., B, D) embeddings, any scale.

    Returns:
        (..., A, B) in [-1, 1] up to rounding; 0 for an embedding of zeros.
    """
    with torch.autocast(first.device.type, enabled=False):
        return F.normalize(_at_least_float32(first), dim=-1) @ F.normalize(_at_least_float32(second), dim=-1).transpose(
            -1, -2
        )


def soft_cross_entropy(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Cross-entropy of each row's softmax against soft targets, mean over the rows that have a target.

    Args:
        logits: (A, B) before softmax.
        target: (A, B) weights ≥ 0, normalised to sum to 1 in each row; a row of zeros is left out.
        valid: (A, B) bool; pairs that are not valid are neither positive nor negative. None: all are valid.

    Returns:
        () loss ≥ 0, float32 or wider; 0 if no row has a target (the graph is kept).

    Raises:
        ValueError: the shapes differ.
    """
    sizes = check_shape("logits", logits, "A B")
    check_shape("target", target, "A B", sizes)
    with torch.autocast(logits.device.type, enabled=False):
        logits, target = _at_least_float32(logits), target.to(_at_least_float32(logits).dtype)
        if valid is not None:
            check_shape("valid", valid, "A B", sizes)
            logits, target = _mask_logits(logits, valid), target * valid
        total = target.sum(1)
        rows = -(target * logits.log_softmax(1)).sum(1) / total.where(total > 0, 1.0)
        return rows.sum() / (total > 0).sum().clamp_min(1)


def symmetric_info_nce(logits: Tensor, matches: Tensor, valid: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE (CLIP loss), the mean of both directions; several positives of a row share its target equally.

    Args:
        logits: (A, B) scaled similarities.
        matches: (A, B) bool, positive pairs; the identity gives the loss of CLIP.
        valid: see :func:`soft_cross_entropy`.

    Returns:
        () loss, see :func:`soft_cross_entropy`.

    References: Radford et al., Learning transferable visual models from natural language supervision, ICML 2021.
    """
    valid_t = None if valid is None else valid.T
    return (soft_cross_entropy(logits, matches, valid) + soft_cross_entropy(logits.T, matches.T, valid_t)) / 2


def multi_label_cross_entropy(logits: Tensor, positive: Tensor, valid: Tensor) -> Tensor:
    """Multi-label cross-entropy of each row: log(1 + Σ e^s over negatives) + log(1 + Σ e^-s over positives).

    Args:
        logits: (..., M) scores s.
        positive: (..., M) bool.
        valid: (..., M) bool, scores that enter the loss; may broadcast.

    Returns:
        (...) loss ≥ 0, float32 or wider; 0 where no score is valid.

    References: the multi-label cross-entropy of EGMA (Ma et al., NeurIPS 2024).
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = _at_least_float32(logits)
        negatives = _mask_logits(logits, valid & ~positive).logsumexp(-1)
        positives = _mask_logits(-logits, valid & positive).logsumexp(-1)
        return F.softplus(negatives) + F.softplus(positives)


def cross_attention(queries: Tensor, keys: Tensor, temperature: float, valid: Tensor | None = None) -> Tensor:
    """Attention output of each query: mean of the L2-normalised keys, weighted by softmax(cosine / temperature).

    Args:
        queries: (B, A, D) embeddings.
        keys: (B, C, D) embeddings.
        temperature: > 0.
        valid: (B, C) bool, keys that may be attended to; None: all.

    Returns:
        (B, A, D) attention output, float32 or wider.
    """
    with torch.autocast(queries.device.type, enabled=False):
        logits = pairwise_cosine(queries, keys) / temperature
        if valid is not None:
            logits = _mask_logits(logits, valid[:, None])
        return logits.softmax(2) @ F.normalize(_at_least_float32(keys), dim=-1)


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Sinkhorn-Knopp: soft assignment of samples to prototypes such that all prototypes get the same share.

    Args:
        scores: (A, K) similarity of sample and prototype.
        epsilon: entropic regularisation; small values give hard assignments.
        iterations: alternating normalisations over samples and prototypes.

    Returns:
        (A, K) float32 or wider, without a gradient; each row sums to 1, each column about to A / K.

    References: Caron et al., Unsupervised learning of visual features by contrasting cluster assignments, NeurIPS 2020;
        Cuturi, Sinkhorn distances, NeurIPS 2013. In the log domain, to avoid overflow.
    """
    logs = _at_least_float32(scores) / epsilon
    for _ in range(iterations):
        logs = logs.log_softmax(0).log_softmax(1)
    return logs.exp()


def _mask_logits(logits: Tensor, valid: Tensor) -> Tensor:
    """Mask logits for a softmax; finite, so that a row without valid entries gives no NaN."""
    return logits.masked_fill(~valid, torch.finfo(logits.dtype).min / 2)


def _at_least_float32(x: Tensor) -> Tensor:
    """Half precision is cast to float32."""
    return x if x.dtype == torch.float64 else x.float()
