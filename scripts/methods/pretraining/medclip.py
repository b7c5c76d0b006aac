"""MedCLIP as an objective of stage 1: contrastive learning of slices and class prompts with soft targets."""

from __future__ import annotations

from typing import Any

from ...ops.contrast import pairwise_cosine, soft_cross_entropy
from ..base import Losses
from .text_guided import logit_scale, read_slices


class MedCLIP:
    """Contrastive learning from unpaired images and texts (Wang et al., MedCLIP, EMNLP 2022) on labelled slices.

    L = ½ [ CE(s · I Tᵀ, softmax(C)) + CE((s · I Tᵀ)ᵀ, softmax(Cᵀ)) ], with I image and T text embeddings, and C the
    products of their label vectors.

    The texts are the class prompts, whose label vectors are one-hot, so C says which classes are in a slice.

    Args:
        model: has `encode` (image -> patches, whole image), `prompt_embeddings` and `scale`.

    Deviations: no augmentation of the texts; the model's own projections and [CLS] text embedding. Classes that a
    slice's data set does not label are left out of both softmaxes.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, batch: dict[str, Any], progress: float) -> Losses:
        """Return `loss` and its one part `contrast`."""
        slices = read_slices(batch)
        images, prompts = self.model.encode(slices.image)[1], self.model.prompt_embeddings()
        logits = logit_scale(self.model) * pairwise_cosine(images, prompts)  # (B, N)
        # soft_cross_entropy normalises e^C over the valid pairs, which gives the softmax of C.
        weights, valid = slices.present.to(logits.dtype).exp(), slices.labelled & slices.present.any(1, keepdim=True)
        rows, columns = soft_cross_entropy(logits, weights, valid), soft_cross_entropy(logits.T, weights.T, valid.T)
        loss = (rows + columns) / 2
        return {"loss": loss, "contrast": loss}
