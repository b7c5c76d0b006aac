"""EGMA as an objective of stage 1: contrastive learning of patches and class prompts, labels in place of eye gaze."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...ops.attention import cosine_similarity, region_targets, valid_area
from ...ops.contrast import multi_label_cross_entropy, soft_cross_entropy
from ..base import Losses
from .text_guided import Slices, caption_matches, logit_scale, read_slices

REGION_SIGNALS = ("mask", "none")


class EGMA:
    """Eye-gaze guided multi-modal alignment (Ma et al., EGMA, NeurIPS 2024) on labelled slices.

    L = `fine` · ½ [ CE(V, matches) + CE(Wᵀ, matchesᵀ) ] + `region` · ½ [ M(patch -> prompts) + M(prompt -> patches) ]

    With Σ = s · cos(patch, prompt) and the class prompts of a slice's present classes as the sentences of its report:
    V is the mean over patches of the largest Σ among the sentences, W the mean over sentences of the largest Σ among
    the patches, M the multi-label cross-entropy whose positives are the pairs of a patch and a class it belongs to.

    Args:
        model: has `patch_embeddings` (image -> (B, E, h, w)), `prompt_embeddings` and `scale`.
        loss_weights: has the keys `fine` and `region`.
        region_signal: "mask" uses the label mask in place of the eye-gaze region, which these data do not have; "none"
            leaves the second term out.
        target: how masks are down-scaled to the patch grid, see `scripts.ops.attention.region_targets`; a patch belongs
            to a class where the target is above 0.
        negatives: whether prompts of absent classes are negatives of a patch.

    Raises:
        ValueError: an unknown region signal.

    Deviations: equal reports of a batch are positives of each other (`caption_matches`); patches are weighted by their
    area that is not ignored; every labelled slice has a region signal. Classes that a slice's data set does not label
    are left out of its terms.
    """

    def __init__(
        self,
        model: Any,
        loss_weights: dict[str, float],
        region_signal: str = "mask",
        target: str = "bilinear_gt0",
        negatives: bool = True,
    ) -> None:
        if region_signal not in REGION_SIGNALS:
            raise ValueError(f"region_signal must be one of {', '.join(REGION_SIGNALS)}, got {region_signal!r}")
        self.model, self.loss_weights = model, loss_weights
        self.region_signal, self.target, self.negatives = region_signal, target, negatives

    def __call__(self, batch: dict[str, Any], progress: float) -> Losses:
        """Return `loss` and its parts `fine` and, where there is a region signal, `region`."""
        slices = read_slices(batch)
        cosine = cosine_similarity(self.model.patch_embeddings(slices.image), self.model.prompt_embeddings())
        similarity = logit_scale(self.model) * cosine  # (B, N, h, w)
        losses = {"fine": self.fine(similarity, slices)}
        if self.region_signal == "mask":
            losses["region"] = self.region(similarity, slices)
        total = torch.stack([self.loss_weights[name] * loss for name, loss in losses.items()]).sum()
        return {"loss": total, **losses}

    @staticmethod
    def fine(similarity: Tensor, slices: Slices) -> Tensor:
        """Symmetric InfoNCE of slices and reports by the maximum similarity over patches and over sentences."""
        matches, valid = caption_matches(slices)
        # sentence n of report j for slice i: left out if slice i does not label the class
        report = slices.present[None] & slices.labelled[:, None]  # (B, B, N)
        flat = similarity.flatten(2)[:, None]  # (B, 1, N, P)
        lowest = torch.finfo(flat.dtype).min
        to_text = flat.masked_fill(~report[..., None], lowest).amax(2).mean(2)
        to_image = (flat.amax(3) * report).sum(2) / report.sum(2).clamp_min(1)
        valid = valid & report.any(2)
        to_text = to_text.masked_fill(~valid, 0.0)
        return (soft_cross_entropy(to_text, matches, valid) + soft_cross_entropy(to_image.T, matches.T, valid.T)) / 2

    def region(self, similarity: Tensor, slices: Slices) -> Tensor:
        """Multi-label cross-entropy of patches and prompts, in both directions; positives by the label."""
        grid = (similarity.shape[2], similarity.shape[3])
        region = region_targets(slices.label, similarity.shape[1], grid, self.target) > 0  # (B, N, h, w)
        area = valid_area(slices.label, grid)  # (B, 1, h, w)
        present = slices.labelled & region.flatten(2).any(2)
        classes = slices.labelled if self.negatives else present
        valid = classes[:, :, None, None] & (area > 0)
        patchwise = multi_label_cross_entropy(*(x.movedim(1, -1) for x in (similarity, region, valid)))  # (B, h, w)
        classwise = multi_label_cross_entropy(*(x.flatten(2) for x in (similarity, region, valid)))  # (B, N)
        of_patches = (patchwise * area[:, 0]).sum() / area.sum().clamp_min(1e-6)
        of_classes = classwise.where(present, 0.0).sum() / present.sum().clamp_min(1)
        return (of_patches + of_classes) / 2
