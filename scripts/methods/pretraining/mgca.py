"""MGCA as an objective of stage 1: slices and captions aligned as wholes, by their parts, and by prototypes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...ops.contrast import attended, cosines, matched_contrast, sinkhorn, soft_cross_entropy
from ..base import Losses
from .text_guided import logit_scale, read_slices, same_caption

TOKEN_TEMPERATURE = 0.1
PROTOTYPE_TEMPERATURE = 0.2
MAX_PATCHES = 512


class MGCA:
    """Multi-granularity cross-modal alignment (Wang et al., MGCA, NeurIPS 2022) on labelled slices.

    L = `instance` · ITA + `token` · CTA + `prototype` · CPA

    - ITA: InfoNCE of whole slices I and captions T, the sum of both directions.
    - CTA: each word attends to the patches of its slice, softmax(cos / 0.1), which gives it a picture; InfoNCE within
      the caption, temperature 0.1, finds each word's picture among those of the others, and the word of each picture.
      The same with patches that attend to words. The two, each the mean of its directions, are added.
    - CPA: the prototypes that Sinkhorn assigns to T are predicted from I, softmax(cos / 0.2), and the reverse; their
      mean.

    Args:
        model: has `encode` (image -> patches, whole image), `caption_embeddings` (present -> captions) and `scale`.
        prototypes: embeddings (A, E) -> cosines (A, K); trained with the model.
        loss_weights: has the keys `instance`, `token` and `prototype`.
        frozen: share of training in which the prototypes are not moved.

    Deviations: the frame's linear projections in place of perceptrons with batch normalisation, since stage 2 reads
    them; words and patches weigh alike, not by the attention of [CLS]; beyond 512 patches squares of them are averaged;
    equal captions of a batch share the target of ITA (`same_caption`); fewer prototypes, for a hundred slices.
    """

    def __init__(self, model: Any, prototypes: nn.Module, loss_weights: dict[str, float], frozen: float = 0.02) -> None:
        self.model, self.prototypes, self.loss_weights, self.frozen = model, prototypes, loss_weights, frozen

    def __call__(self, batch: dict[str, Any], progress: float) -> Losses:
        """Return `loss` and its parts `instance`, `token` and `prototype`."""
        slices = read_slices(batch)
        patches, images = self.model.encode(slices.image)
        captions = self.model.caption_embeddings(slices.present)
        logits = logit_scale(self.model) * cosines(images, captions.sentence)
        seen = slices.present.any(1)
        losses = {
            "instance": 2 * matched_contrast(logits, *same_caption(slices)),
            "token": self.token(_parts(patches), captions.words, captions.counted & seen[:, None]),
            "prototype": self.prototype(images[seen], captions.sentence[seen], progress < self.frozen),
        }
        total = torch.stack([self.loss_weights[name] * loss for name, loss in losses.items()]).sum()
        return {"loss": total, **losses}

    @staticmethod
    def token(patches: Tensor, words: Tensor, counted: Tensor) -> Tensor:
        """CTA of patches (B, P, E) and words (B, L, E), counted (B, L); a slice without any word is left out."""
        pictures = attended(words, patches, TOKEN_TEMPERATURE)  # (B, L, E)
        sayings = attended(patches, words, TOKEN_TEMPERATURE, counted)  # (B, P, E)
        seen = counted.any(1)[:, None].expand(patches.shape[:2])
        return _own(words, pictures, counted) + _own(patches, sayings, seen)

    def prototype(self, images: Tensor, captions: Tensor, frozen: bool) -> Tensor:
        """CPA of whole slices (A, E) and their captions (A, E)."""
        self.prototypes.requires_grad_(not frozen)
        scores = [self.prototypes(x) for x in (images, captions)]
        by_image, by_caption = (sinkhorn(s) for s in scores)
        of_image, of_caption = (s / PROTOTYPE_TEMPERATURE for s in scores)
        return (soft_cross_entropy(of_image, by_caption) + soft_cross_entropy(of_caption, by_image)) / 2


def _parts(patches: Tensor) -> Tensor:
    """(B, E, h, w) -> (B, P, E) with P ≤ `MAX_PATCHES`: every pair of patches is compared."""
    while patches.shape[2] * patches.shape[3] > MAX_PATCHES:
        patches = F.avg_pool2d(patches, 2, ceil_mode=True)
    return patches.flatten(2).transpose(1, 2)


def _own(first: Tensor, second: Tensor, counted: Tensor) -> Tensor:
    """InfoNCE within each sample: item k of `first` belongs to item k of `second`; both (B, A, D), counted (B, A)."""
    logits = cosines(first, second) / TOKEN_TEMPERATURE  # (B, A, A)
    own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    pairs = counted[:, :, None] & counted[:, None]
    terms = torch.stack([matched_contrast(scores, own, known) for scores, known in zip(logits, pairs, strict=True)])
    return terms.sum() / counted.any(1).sum().clamp_min(1)
