"""DuSSS, first stage, as an objective of stage 1: contrast with momentum branches, and masks grounded in captions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.contrast import cosines, matched_contrast, soft_cross_entropy
from ...ops.prompt_map import upsample
from ..base import Losses
from .text_guided import logit_scale, read_slices, same_caption

MASK_SCALE, MASK_BIAS = 10.0, -2.5


class DuSSS:
    """Dual semantic similarity-supervised vision-language learning (Pan et al., DuSSS, AAAI 2025), its first stage.

    L = 1/6 [ `contrast` · ( I→T' + T→I' + I→I' + T→T' ) + `local` · ( I→patches' + T→words' ) ]
      + `grounded` · G(patches, T) + `masked` · G(masked slices, T)

    Each arrow is an InfoNCE over the batch; I are whole slices, T captions, and a prime marks the momentum branch,
    which sees the slice with other grey values. A mask is sigmoid(10 · cos(patch, caption) − 2.5); G contrasts with all
    captions, in both directions, the patches pooled by each caption's mask, or the slice multiplied with its own
    caption's mask and encoded again.

    Args:
        model: has `encode` (image -> patches, whole image), `caption_embeddings` (present -> captions) and `scale`.
        momentum: the same network; never receives a gradient, moved by `scripts.training.handlers.EMATeacher`.
        loss_weights: has the keys `contrast`, `local`, `grounded` and `masked`.
        view: (image, generator) -> the image that the momentum branch sees.

    Deviations: plain cosines, as in the released loss, so no Gaussian heads; equal captions of a batch share the target
    (`same_caption`); stage 2 is CPS4's, without decoder or refinement of the maps, or supervision of them by a teacher.
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
        fits, counted = same_caption(slices)
        own = torch.eye(len(fits), dtype=torch.bool, device=fits.device)
        scale = logit_scale(self.model)
        patches, images = self.model.encode(slices.image)
        captions = self.model.caption_embeddings(slices.present).sentence
        with torch.no_grad():
            other_patches, other_images = self.momentum.encode(self.view(slices.image, torch.default_generator))
            other_captions, words, is_word = self.momentum.caption_embeddings(slices.present)

        def arrow(first: Tensor, second: Tensor, matches: Tensor) -> Tensor:
            return soft_cross_entropy(scale * cosines(first, second), matches, counted)

        def local(first: Tensor, parts: Tensor, is_part: Tensor, matches: Tensor) -> Tensor:
            """Wholes (B, E) against the parts (B, A, E) of all."""
            number = parts.shape[1]
            pairs = counted.repeat_interleave(number, 1) & is_part.flatten()
            logits = scale * cosines(first, parts.flatten(0, 1))
            return soft_cross_entropy(logits, matches.repeat_interleave(number, 1), pairs)

        crossed = arrow(images, other_captions, fits) + arrow(captions, other_images, fits.T)
        other_parts = other_patches.flatten(2).transpose(1, 2)
        every = torch.ones(other_parts.shape[:2], dtype=torch.bool, device=fits.device)
        masks, pooled = grounded(patches, captions)
        masked = slices.image * upsample(masks, slices.image.shape[-2:])
        from_masked = scale * cosines(self.model.encode(masked)[1], captions)
        losses = {
            "contrast": crossed + arrow(images, other_images, own) + arrow(captions, other_captions, fits),
            "local": local(images, other_parts, every, own) + local(captions, words, is_word, fits),
            "grounded": matched_contrast(scale * pooled, fits, counted),
            "masked": matched_contrast(from_masked, fits, counted),
        }
        weights = {**self.loss_weights}
        for name in ("contrast", "local"):
            weights[name] = weights[name] / 6
        return {"loss": torch.stack([weights[name] * loss for name, loss in losses.items()]).sum(), **losses}


def grounded(patches: Tensor, captions: Tensor) -> tuple[Tensor, Tensor]:
    """Masks of captions, and how well what they cover fits them.

    Args:
        patches: (B, E, h, w) embeddings.
        captions: (B, E) embeddings.

    Returns:
        (B, 1, h, w) mask of each slice's own caption; (B, B) cosine of caption j (column) with the mean of slice i's
        patches (row) under that caption's mask. Both float32.
    """
    with torch.autocast(patches.device.type, enabled=False):
        parts = F.normalize(patches.float().flatten(2).transpose(1, 2), dim=2)  # (B, P, E)
        masks = (MASK_SCALE * cosines(captions, parts) + MASK_BIAS).sigmoid()  # (B, B, P): slice, caption, patch
        pooled = masks @ parts / masks.sum(2, keepdim=True)  # (B, B, E)
        fit = (F.normalize(pooled, dim=2) * F.normalize(captions.float(), dim=1)).sum(2)
        mine = masks.diagonal().T[:, None]  # (B, 1, P)
    return mine.unflatten(2, patches.shape[2:]), fit
