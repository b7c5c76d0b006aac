"""CLIP as an objective of stage 1: contrastive learning of slices and captions that name their structures."""

from __future__ import annotations

from typing import Any

from ...ops.contrast import pairwise_cosine, symmetric_info_nce
from ..base import Losses
from .text_guided import caption_matches, logit_scale, read_slices


class CLIP:
    """Contrastive language-image pretraining (Radford et al., ICML 2021) on labelled slices.

    L = ½ [ CE(s · I Tᵀ, matches) + CE((s · I Tᵀ)ᵀ, matchesᵀ) ], with I image and T caption embeddings, L2-normalised.

    Patches are not supervised: attention maps come from the projection that patches and whole image share.

    Args:
        model: has `encode` (image -> patches, whole image), `caption_embeddings` (present -> captions) and `scale`; a
            `scripts.networks.vision_language.VisionLanguageModel` whose text encoder writes captions.

    Deviation: equal captions of a batch are positives of each other (`caption_matches`).
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, batch: dict[str, Any], progress: float) -> Losses:
        """Return `loss` and its one part `contrast`."""
        slices = read_slices(batch)
        images, captions = self.model.encode(slices.image)[1], self.model.caption_embeddings(slices.present).sentence
        loss = symmetric_info_nce(logit_scale(self.model) * pairwise_cosine(images, captions), *caption_matches(slices))
        return {"loss": loss, "contrast": loss}
