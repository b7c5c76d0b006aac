"""DuSSS (first stage) as an objective of stage 1: contrastive learning with momentum encoders, grounded masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.contrast import pairwise_cosine, soft_cross_entropy, symmetric_info_nce
from ...ops.prompt_map import upsample
from ..base import Losses
from .text_guided import caption_matches, logit_scale, read_slices

MASK_SCALE, MASK_BIAS = 10.0, -2.5


class DuSSS:
    """Dual semantic similarity-supervised vision-language learning (Pan et al., DuSSS, AAAI 2025), its first stage.

    L = 1/6 [ `contrast` · ( I→T' + T→I' + I→I' + T→T' ) + `local` · ( I→patches' + T→words' ) ]
      + `grounded` · G(patches, T) + `masked` · G(masked slices, T)

    Each arrow is an InfoNCE over the batch. I: image embeddings, T: caption embeddings; a prime marks the momentum
    encoder, whose input has other grey values. A mask is sigmoid(10 · cos(patch, caption) − 2.5). G is the symmetric
    InfoNCE of captions and either the patches pooled by each caption's mask, or the slice multiplied by its own
    caption's mask and encoded again.

    Args:
        model: has `encode` (image -> patches, whole image), `caption_embeddings` (present -> captions) and `scale`.
        momentum: the same network; receives no gradient, updated by `scripts.training.handlers.EMATeacher`.
        loss_weights: has the keys `contrast`, `local`, `grounded` and `masked`.
        view: (image, generator) -> augmented image for the momentum encoder.

    Deviations: plain cosines without Gaussian heads, as in the released loss; equal captions of a batch are positives
    of each other (`caption_matches`); stage 2 is that of CPS4, without decoder, refinement or supervision of the maps.
    """

    def __init__(
        self,
        model: Any,
        momentum: Any,
        loss_weights: dict[str, float],
        view: Callable[[Tensor, torch.Generator], Tensor],
    ) -> None:
        self.model, self.momentum = model, momentum.requires_grad_(False)
        self.loss_weights, self.view = loss_weights, view

    def __call__(self, batch: dict[str, Any], progress: float) -> Losses:
        """Return `loss` and its parts `contrast`, `local`, `grounded` and `masked`."""
        slices = read_slices(batch)
        matches, valid = caption_matches(slices)
        identity = torch.eye(len(matches), dtype=torch.bool, device=matches.device)
        scale = logit_scale(self.model)
        patches, images = self.model.encode(slices.image)
        captions = self.model.caption_embeddings(slices.present).sentence
        with torch.no_grad():
            other_patches, other_images = self.momentum.encode(self.view(slices.image, torch.default_generator))
            other_captions, words, is_word = self.momentum.caption_embeddings(slices.present)

        def info_nce(first: Tensor, second: Tensor, matches: Tensor) -> Tensor:
            return soft_cross_entropy(scale * pairwise_cosine(first, second), matches, valid)

        def local(first: Tensor, tokens: Tensor, is_token: Tensor, matches: Tensor) -> Tensor:
            """InfoNCE of global embeddings (B, E) against the local embeddings (B, A, E) of all samples."""
            per_sample = tokens.shape[1]
            pairs = valid.repeat_interleave(per_sample, 1) & is_token.flatten()
            logits = scale * pairwise_cosine(first, tokens.flatten(0, 1))
            return soft_cross_entropy(logits, matches.repeat_interleave(per_sample, 1), pairs)

        contrast = info_nce(images, other_captions, matches) + info_nce(captions, other_images, matches.T)
        contrast = contrast + info_nce(images, other_images, identity) + info_nce(captions, other_captions, matches)
        other_tokens = other_patches.flatten(2).transpose(1, 2)
        every = torch.ones(other_tokens.shape[:2], dtype=torch.bool, device=matches.device)
        masks, pooled = grounded(patches, captions)
        masked = slices.image * upsample(masks, slices.image.shape[-2:])
        from_masked = scale * pairwise_cosine(self.model.encode(masked)[1], captions)
        losses = {
            "contrast": contrast,
            "local": local(images, other_tokens, every, identity) + local(captions, words, is_word, matches),
            "grounded": symmetric_info_nce(scale * pooled, matches, valid),
            "masked": symmetric_info_nce(from_masked, matches, valid),
        }
        weights = {**self.loss_weights}
        for name in ("contrast", "local"):
            weights[name] = weights[name] / 6
        return {"loss": torch.stack([weights[name] * loss for name, loss in losses.items()]).sum(), **losses}


def grounded(patches: Tensor, captions: Tensor) -> tuple[Tensor, Tensor]:
    """Masks of captions over patches, and the similarity of the patches pooled by them.

    Args:
        patches: (B, E, h, w) embeddings.
        captions: (B, E) embeddings.

    Returns:
        (B, 1, h, w) mask of each slice's own caption; (B, B) cosine of caption j (column) with the mean of slice i's
        patches (row) under that caption's mask. Both float32.
    """
    with torch.autocast(patches.device.type, enabled=False):
        tokens = F.normalize(patches.float().flatten(2).transpose(1, 2), dim=2)  # (B, P, E)
        # (B, B, P): slice, caption, patch
        masks = (MASK_SCALE * pairwise_cosine(captions, tokens) + MASK_BIAS).sigmoid()
        pooled = masks @ tokens / masks.sum(2, keepdim=True)  # (B, B, E)
        similarity = (F.normalize(pooled, dim=2) * F.normalize(captions.float(), dim=1)).sum(2)
        own_masks = masks.diagonal().T[:, None]  # (B, 1, P)
    return own_masks.unflatten(2, patches.shape[2:]), similarity
