"""MGCA as an objective of stage 1: alignment of slices and captions at instance, token and prototype level."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...ops.contrast import cross_attention, pairwise_cosine, sinkhorn, soft_cross_entropy, symmetric_info_nce
from ..base import Losses
from .text_guided import caption_matches, logit_scale, read_slices

TOKEN_TEMPERATURE = 0.1
PROTOTYPE_TEMPERATURE = 0.2
MAX_PATCHES = 512


class MGCA:
    """Multi-granularity cross-modal alignment (Wang et al., MGCA, NeurIPS 2022) on labelled slices.

    L = `instance` · ITA + `token` · CTA + `prototype` · CPA

    - ITA: InfoNCE of slices I and captions T, the sum of both directions.
    - CTA: cross-attention of words to the patches of their slice, softmax(cos / 0.1), then symmetric InfoNCE with
      temperature 0.1 of a caption's words and attention outputs; plus the same for patches that attend to words.
    - CPA: cross-entropy of softmax(cos / 0.2) of I against the Sinkhorn assignment of T to prototypes, and the
      reverse; their mean.

    Args:
        model: has `encode` (image -> patches, whole image), `caption_embeddings` (present -> captions) and `scale`.
        prototypes: embeddings (A, E) -> cosines (A, K); trained with the model.
        loss_weights: has the keys `instance`, `token` and `prototype`.
        frozen: share of training at the beginning in which the prototypes are frozen.

    Deviations: the model's linear projections in place of perceptrons with batch normalisation, since stage 2 uses
    them; words and patches have equal weights, not the attention of [CLS]; more than 512 patches are average-pooled;
    equal captions of a batch are positives of each other in ITA (`caption_matches`); fewer prototypes.
    """

    def __init__(self, model: Any, prototypes: nn.Module, loss_weights: dict[str, float], frozen: float = 0.02) -> None:
        self.model, self.prototypes, self.loss_weights, self.frozen = model, prototypes, loss_weights, frozen

    def __call__(self, batch: dict[str, Any], progress: float) -> Losses:
        """Return `loss` and its parts `instance`, `token` and `prototype`."""
        slices = read_slices(batch)
        patches, images = self.model.encode(slices.image)
        captions = self.model.caption_embeddings(slices.present)
        logits = logit_scale(self.model) * pairwise_cosine(images, captions.sentence)
        valid = slices.present.any(1)
        losses = {
            "instance": 2 * symmetric_info_nce(logits, *caption_matches(slices)),
            "token": self.token(_pooled_patches(patches), captions.words, captions.word_mask & valid[:, None]),
            "prototype": self.prototype(images[valid], captions.sentence[valid], progress < self.frozen),
        }
        total = torch.stack([self.loss_weights[name] * loss for name, loss in losses.items()]).sum()
        return {"loss": total, **losses}

    @staticmethod
    def token(patches: Tensor, words: Tensor, valid: Tensor) -> Tensor:
        """CTA of patches (B, P, E) and words (B, L, E), valid (B, L); a slice without words is left out."""
        attended_patches = cross_attention(words, patches, TOKEN_TEMPERATURE)  # (B, L, E)
        attended_words = cross_attention(patches, words, TOKEN_TEMPERATURE, valid)  # (B, P, E)
        has_words = valid.any(1)[:, None].expand(patches.shape[:2])
        return _sample_info_nce(words, attended_patches, valid) + _sample_info_nce(patches, attended_words, has_words)

    def prototype(self, images: Tensor, captions: Tensor, frozen: bool) -> Tensor:
        """CPA of slices (A, E) and their captions (A, E)."""
        self.prototypes.requires_grad_(not frozen)
        scores = [self.prototypes(x) for x in (images, captions)]
        by_image, by_caption = (sinkhorn(s) for s in scores)
        of_image, of_caption = (s / PROTOTYPE_TEMPERATURE for s in scores)
        return (soft_cross_entropy(of_image, by_caption) + soft_cross_entropy(of_caption, by_image)) / 2


def _pooled_patches(patches: Tensor) -> Tensor:
    """(B, E, h, w) -> (B, P, E), average-pooled to P ≤ `MAX_PATCHES` since all pairs of patches are compared."""
    while patches.shape[2] * patches.shape[3] > MAX_PATCHES:
        patches = F.avg_pool2d(patches, 2, ceil_mode=True)
    return patches.flatten(2).transpose(1, 2)


def _sample_info_nce(first: Tensor, second: Tensor, valid: Tensor) -> Tensor:
    """Symmetric InfoNCE within each sample, positives at the same index of both (B, A, D); valid (B, A) bool."""
    logits = pairwise_cosine(first, second) / TOKEN_TEMPERATURE  # (B, A, A)
    identity = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    pairs = valid[:, :, None] & valid[:, None]
    terms = torch.stack(
        [symmetric_info_nce(scores, identity, mask) for scores, mask in zip(logits, pairs, strict=True)]
    )
    return terms.sum() / valid.any(1).sum().clamp_min(1)
