"""What the compared stage-1 objectives share: which classes a slice shows, which slices belong together, the scale.

They train the same `VisionLanguageModel` as CPS4's own objective, so that stage 2 reads its checkpoint unchanged. The
factor of their cosines is the model's own learned `scale`, at most 100, and linear where CLIP learns its logarithm:
stage 2's maps are the softmax over the classes of that same scaled cosine.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

MAX_SCALE = 100.0


class Slices(NamedTuple):
    """Labelled slices and what their label maps say about classes.

    Attributes:
        image: (B, 1, H, W).
        label: (B, H, W) int64, 255 where left out.
        labelled: (B, N) bool, classes that the slice's data set labels.
        present: (B, N) bool, labelled classes that the slice shows, background included.
    """

    image: Tensor
    label: Tensor
    labelled: Tensor
    present: Tensor


def read_slices(batch: dict[str, Any]) -> Slices:
    """The labelled stream of a batch; a class that is shown but not labelled is never present."""
    stream = batch["labelled"]
    label, labelled = stream["label"].squeeze(1).long(), ~stream["is_unlabelled"]
    classes = torch.arange(labelled.shape[1], device=label.device)
    shown = torch.stack([(label == c).flatten(1).any(1) for c in classes], 1)
    return Slices(stream["image"], label, labelled, shown & labelled)


def same_caption(slices: Slices) -> tuple[Tensor, Tensor]:
    """Which captions fit which slices of the batch.

    Captions repeat within a batch, and a repeated one is no negative: it fits every slice that shows the same classes,
    as far as both slices label them.

    Returns:
        (B, B) bool, whether slice i (row) and caption j fit; and (B, B) bool, the pairs that count: a slice that is
        left out as a whole (no class present) is in none.
    """
    differ = slices.present[:, None] != slices.present[None]  # (B, B, N)
    both = slices.labelled[:, None] & slices.labelled[None]
    counted = slices.present.any(1)
    return ~(differ & both).any(2), counted[:, None] & counted


def logit_scale(model: Any) -> Tensor:
    """() factor of the cosines: the model's own, held at `MAX_SCALE` (CLIP's bound)."""
    return model.scale.clamp(max=MAX_SCALE)
