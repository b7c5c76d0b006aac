"""CLIP as an objective of stage 1: whole slices against captions that name their structures."""

from __future__ import annotations

from typing import Any

from ...ops.contrast import cosines, matched_contrast
from ..base import Losses
from .text_guided import logit_scale, read_slices, same_caption


class CLIP:
    """Contrastive language-image pretraining (Radford et al., ICML 2021) on labelled slices.

    L = ½ [ CE(s · I Tᵀ, fits) + CE((s · I Tᵀ)ᵀ, fitsᵀ) ], I the whole images, T their captions, both of unit length.

    No patch is supervised: attention maps are by-products of the projection that patches and whole image share.

    Args:
        model: has `encode` (image -> patches, whole image), `caption_embeddings` (present -> captions) and `scale`; a
            `scripts.networks.vision_language.VisionLanguageModel` whose text encoder writes captions.

    Deviation: equal captions of a batch share the target (`same_caption`), where CLIP takes each pair as the only one.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, batch: dict[str, Any], progress: float) -> Losses:
        """Return `loss` and its one part `contrast`."""
        slices = read_slices(batch)
        images, captions = self.model.encode(slices.image)[1], self.model.caption_embeddings(slices.present).sentence
        loss = matched_contrast(logit_scale(self.model) * cosines(images, captions), *same_caption(slices))
        return {"loss": loss, "contrast": loss}
