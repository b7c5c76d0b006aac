"""How far the class prompts may be trusted, measured on labelled volumes that no network has learned from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .data.cache import SliceDataset, VolumeDataset
from .metrics import mean_dice

logger = logging.getLogger(__name__)


class MeasuredWeight:
    """Exponent of the prompts' level that makes the best pseudo-labels of held-out volumes.

    Args:
        volumes: labelled volumes that were held out, as validation's are.
        weights: exponents to choose among, ≥ 0; 0 is for prompts that are best left out.
    """

    def __init__(self, volumes: VolumeDataset, weights: Sequence[float]) -> None:
        self.volumes, self.weights = volumes, sorted(weights)

    @torch.no_grad()
    def __call__(
        self, evidence: Callable[[SliceDataset, int], tuple[Tensor, Tensor | None]], label: Callable[..., Tensor]
    ) -> float | None:
        """The weight of the highest mean Dice, the least of equal ones; None if no volume was held out.

        Args:
            evidence: (data set, number of a volume) -> teacher's logits (S, N, H, W) and attention maps.
            label: (logits, maps, gamma=weight) -> class ids (S, H, W).
        """
        if not len(self.volumes):
            return None
        scores = torch.zeros(len(self.volumes), len(self.weights), dtype=torch.float64)
        for case in range(len(self.volumes)):
            volume = self.volumes[case]
            logits, maps = evidence(self.volumes.slices, case)
            hidden = volume["is_unlabelled"].nonzero().flatten().tolist()
            for number, weight in enumerate(self.weights):
                pred = label(logits, maps, gamma=weight).cpu()
                scores[case, number] = mean_dice(pred, volume["label"][:, 0], logits.shape[1], hidden)
        means = scores.nanmean(0)
        best = self.weights[int(means.nan_to_num().argmax())]
        told = ", ".join(f"{weight:g}: {100 * mean:.1f}" for weight, mean in zip(self.weights, means, strict=True))
        logger.info("weight %g for the class prompts; mean Dice of held-out volumes by weight: %s", best, told)
        return best
