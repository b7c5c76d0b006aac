"""Copy-paste of slices: labelled and unlabelled ones with a common box between them, Bai et al., CVPR 2023."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..labels import IGNORE


class Mixed(NamedTuple):
    """Pairs of one labelled and one unlabelled slice, pasted into each other.

    Attributes:
        image: (P, 1, H, W).
        foreign: (P, H, W) bool, true where a pixel comes from the unlabelled slice.
        one, other: (P,) which labelled and which unlabelled slice.
    """

    image: Tensor
    foreign: Tensor
    one: Tensor
    other: Tensor

    def label(self, label: Tensor) -> Tensor:
        """Labels (L, H, W) of the labelled slices -> (P, H, W) int64, 255 where a pixel is not theirs."""
        return label.long()[self.one].masked_fill(self.foreign, IGNORE)

    def target(self, target: Tensor) -> Tensor:
        """Pseudo-labels (U, H, W) of the unlabelled slices -> (P, H, W) int64, 255 where a pixel is not theirs."""
        return target.long()[self.other].masked_fill(~self.foreign, IGNORE)


def copy_paste(labelled: Tensor, unlabelled: Tensor, box: Tensor) -> Mixed:
    """Paste slices into each other, in both directions.

    In every other pair the unlabelled slice fills the box (inward), in the rest the labelled slice does (outward).
    Streams of unequal length: the shorter one is gone through again, so that every slice of both is used at least once.

    Args:
        labelled: (L, 1, H, W) slices.
        unlabelled: (U, 1, H, W) slices.
        box: (H, W) bool, see :func:`random_box`.

    Returns:
        max(L, U) pairs.
    """
    pairs = torch.arange(max(len(labelled), len(unlabelled)), device=unlabelled.device)
    one, other = pairs % len(labelled), pairs % len(unlabelled)
    foreign = box ^ (pairs % 2 == 1)[:, None, None]
    return Mixed(torch.where(foreign[:, None], unlabelled[other], labelled[one]), foreign, one, other)


def random_box(image: Tensor, share: float) -> Tensor:
    """A box at a random place, (H, W) bool, for slices (..., H, W); its sides are a share of theirs.

    Its place is drawn from torch's generator of the CPU, which a checkpoint keeps.
    """
    mask = torch.zeros(image.shape[-2:], dtype=torch.bool, device=image.device)
    height, width = (max(1, int(side * share)) for side in mask.shape)
    top, left = (int(torch.randint(a - b + 1, ())) for a, b in zip(mask.shape, (height, width), strict=True))
    mask[top : top + height, left : left + width] = True
    return mask


def check_share(share: float) -> float:
    """Return the share that a box has of the sides of a slice.

    Raises:
        ValueError: a box that is empty or the whole slice.
    """
    if not 0 < share < 1:
        raise ValueError(f"box must be a share of the slice's sides in (0, 1), got {share}")
    return share
