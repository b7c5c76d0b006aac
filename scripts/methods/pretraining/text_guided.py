"""Shared parts of the vision-language baselines of stage 1: present classes, matching captions, logit scale.

The baselines train the same `VisionLanguageModel` as CPS4, so that stage 2 can use their checkpoint. The logit scale is
the model's learned `scale`, clamped at 100 and not in the log domain as in CLIP, because the maps of stage 2 are the
softmax over classes of the same scaled cosine.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

MAX_SCALE = 100.0


class Slices(NamedTuple):
    """Labelled slices with their labelled and present classes.

    Attributes:
        image: (B, 1, H, W).
        label: (B, H, W) int64, 255 at ignored pixels.
        labelled: (B, N) bool, classes that the slice's data set labels.
        present: (B, N) bool, labelled classes in the slice, background included.
    """

    image: Tensor
    label: Tensor
    labelled: Tensor
    present: Tensor


def read_slices(batch: dict[str, Any]) -> Slices:
    """Labelled slices of a batch, with the classes in each."""
    stream = batch["labelled"]
    label, labelled = stream["label"].squeeze(1).long(), ~stream["is_unlabelled"]
    classes = torch.arange(labelled.shape[1], device=label.device)
    shown = torch.stack([(label == c).flatten(1).any(1) for c in classes], 1)
    return Slices(stream["image"], label, labelled, shown & labelled)


def caption_matches(slices: Slices) -> tuple[Tensor, Tensor]:
    """Positive pairs of slice (row) and caption (column), and valid pairs; both (B, B) bool.

    A pair is positive if both slices have the same classes, among those that both label: equal captions of a batch are
    not negatives. Slices without any class are in no valid pair.
    """
    differ = slices.present[:, None] != slices.present[None]  # (B, B, N)
    both = slices.labelled[:, None] & slices.labelled[None]
    valid = slices.present.any(1)
    return ~(differ & both).any(2), valid[:, None] & valid


def logit_scale(model: Any) -> Tensor:
    """() logit scale (inverse temperature) of the model, clamped at `MAX_SCALE` as in CLIP."""
    return model.scale.clamp(max=MAX_SCALE)
