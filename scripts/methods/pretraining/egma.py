"""EGMA as an objective of stage 1: class prompts against patches, with the labels in place of a reader's gaze."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...ops.attention import cosine_similarity, region_targets, valid_area
from ...ops.contrast import multi_label_cross_entropy, soft_cross_entropy
from ..base import Losses
from .text_guided import Slices, logit_scale, read_slices, same_caption

REGION_SIGNALS = ("mask", "none")


class EGMA:
    """Eye-gaze guided multi-modal alignment (Ma et al., EGMA, NeurIPS 2024) on labelled slices.

    L = `fine` · ½ [ CE(V, fits) + CE(Wᵀ, fitsᵀ) ] + `region` · ½ [ M(patch -> prompts) + M(prompt -> patches) ]

    With Σ = s · cos(patch, prompt) and the class prompts of a slice's present classes as the sentences of its report:
    V is the mean over patches of the largest Σ among the sentences, W the mean over sentences of the largest Σ among
    the patches, M the multi-label cross-entropy whose positives are the pairs of a patch and a class it belongs to.

    Args:
        model: has `patch_embeddings` (image -> (B, E, h, w)), `prompt_embeddings` and `scale`.
        loss_weights: has the keys `fine` and `region`.
        region_signal: "mask" takes the label for the region that a reader looked at while a sentence was read, the only
            such signal in these data; "none" leaves the second term out.
        target: how a class's mask comes to the patch grid, see `scripts.ops.attention.region_targets`; a patch belongs
            to a class where it is above 0.
        negatives: whether prompts of absent classes are negatives of a patch too.

    Raises:
        ValueError: an unknown region signal.

    Deviations: equal reports of a batch share the target (`same_caption`); patches weigh by their area that is not left
    out; every labelled slice has a region signal. A class that a slice's data set does not label is in none of the
    terms of that slice.
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
        """Contrast of slices and reports by their best pairs of patch and sentence."""
        matches, counted = same_caption(slices)
        # sentence n of report j as slice i sees it: left out where the slice does not label the class
        report = slices.present[None] & slices.labelled[:, None]  # (B, B, N)
        flat = similarity.flatten(2)[:, None]  # (B, 1, N, P)
        lowest = torch.finfo(flat.dtype).min
        to_text = flat.masked_fill(~report[..., None], lowest).amax(2).mean(2)
        to_image = (flat.amax(3) * report).sum(2) / report.sum(2).clamp_min(1)
        counted = counted & report.any(2)
        to_text = to_text.masked_fill(~counted, 0.0)
        return (
            soft_cross_entropy(to_text, matches, counted) + soft_cross_entropy(to_image.T, matches.T, counted.T)
        ) / 2

    def region(self, similarity: Tensor, slices: Slices) -> Tensor:
        """Patches and prompts that belong together by the label, in both directions."""
        grid = (similarity.shape[2], similarity.shape[3])
        region = region_targets(slices.label, similarity.shape[1], grid, self.target) > 0  # (B, N, h, w)
        area = valid_area(slices.label, grid)  # (B, 1, h, w)
        present = slices.labelled & region.flatten(2).any(2)
        classes = slices.labelled if self.negatives else present
        counted = classes[:, :, None, None] & (area > 0)
        patchwise = multi_label_cross_entropy(*(x.movedim(1, -1) for x in (similarity, region, counted)))  # (B, h, w)
        classwise = multi_label_cross_entropy(*(x.flatten(2) for x in (similarity, region, counted)))  # (B, N)
        of_patches = (patchwise * area[:, 0]).sum() / area.sum().clamp_min(1e-6)
        of_classes = classwise.where(present, 0.0).sum() / present.sum().clamp_min(1)
        return (of_patches + of_classes) / 2
