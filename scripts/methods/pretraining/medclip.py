"""MedCLIP as an objective of stage 1: whole slices against class prompts, matched softly by what they show."""

from __future__ import annotations

from typing import Any

from ...ops.contrast import cosines, soft_cross_entropy
from ..base import Losses
from .text_guided import logit_scale, read_slices


class MedCLIP:
    """Contrastive learning from unpaired images and texts (Wang et al., MedCLIP, EMNLP 2022) on labelled slices.

    L = ½ [ CE(s · I Tᵀ, softmax(C)) + CE((s · I Tᵀ)ᵀ, softmax(Cᵀ)) ], with I the whole images, T the texts, and C the
    products of their label vectors.

    The texts are the class prompts, whose label vectors are one-hot, so C is the classes' presence in the slices.

    Args:
        model: has `encode` (image -> patches, whole image), `prompt_embeddings` and `scale`.

    Deviations: no second copy of the texts in other words; the frame's projections and [CLS] embedding of the text. A
    class that a slice's data set does not label is in neither softmax.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, batch: dict[str, Any], progress: float) -> Losses:
        """Return `loss` and its one part `contrast`."""
        slices = read_slices(batch)
        images, prompts = self.model.encode(slices.image)[1], self.model.prompt_embeddings()
        logits = logit_scale(self.model) * cosines(images, prompts)  # (B, N)
        # e^C, which soft_cross_entropy scales over the pairs that count, is the softmax over them.
        weights, counted = slices.present.to(logits.dtype).exp(), slices.labelled & slices.present.any(1, keepdim=True)
        rows, columns = soft_cross_entropy(logits, weights, counted), soft_cross_entropy(logits.T, weights.T, counted.T)
        loss = (rows + columns) / 2
        return {"loss": loss, "contrast": loss}
