"""Bidirectional copy-paste (CutMix) of labelled and unlabelled slices, Bai et al., CVPR 2023."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..labels import IGNORE


class MixedSlices(NamedTuple):
    """P mixed slices, each of one labelled and one unlabelled slice.

    Attributes:
        image: (P, 1, H, W).
        from_unlabelled: (P, H, W) bool, true where the pixel comes from the unlabelled slice.
        labelled_index: (P,) index of the labelled slice.
        unlabelled_index: (P,) index of the unlabelled slice.
    """

    image: Tensor
    from_unlabelled: Tensor
    labelled_index: Tensor
    unlabelled_index: Tensor

    def label(self, label: Tensor) -> Tensor:
        """Labels (L, H, W) of the labelled slices -> (P, H, W) int64, 255 at pixels of the unlabelled slice."""
        return label.long()[self.labelled_index].masked_fill(self.from_unlabelled, IGNORE)

    def target(self, target: Tensor) -> Tensor:
        """Pseudo-labels (U, H, W) of the unlabelled slices -> (P, H, W) int64, 255 at pixels of the labelled slice."""
        return target.long()[self.unlabelled_index].masked_fill(~self.from_unlabelled, IGNORE)


def copy_paste(labelled: Tensor, unlabelled: Tensor, box: Tensor) -> MixedSlices:
    """Bidirectional copy-paste of labelled and unlabelled slices.

    In even pairs the unlabelled slice fills the box (inward), in odd pairs the labelled slice does (outward). A single
    pair goes either way by chance. The shorter of the two batches is repeated, so that every slice is used.

    Args:
        labelled: (L, 1, H, W) slices.
        unlabelled: (U, 1, H, W) slices.
        box: (H, W) bool, see :func:`random_box`.

    Returns:
        max(L, U) mixed slices.
    """
    count = max(len(labelled), len(unlabelled))
    pairs = torch.arange(count, device=unlabelled.device)
    outward = pairs % 2 == 1
    if count == 1:  # drawn as the box is
        outward = outward ^ bool(torch.randint(2, ()))
    labelled_index, unlabelled_index = pairs % len(labelled), pairs % len(unlabelled)
    from_unlabelled = box ^ outward[:, None, None]
    image = torch.where(from_unlabelled[:, None], unlabelled[unlabelled_index], labelled[labelled_index])
    return MixedSlices(image, from_unlabelled, labelled_index, unlabelled_index)


def random_box(image: Tensor, share: float) -> Tensor:
    """Mask (H, W) bool of a randomly placed box whose sides are `share` of those of the slices (..., H, W)."""
    # Drawn from torch's global CPU generator, whose state a checkpoint keeps.
    mask = torch.zeros(image.shape[-2:], dtype=torch.bool, device=image.device)
    height, width = (max(1, int(side * share)) for side in mask.shape)
    top, left = (int(torch.randint(a - b + 1, ())) for a, b in zip(mask.shape, (height, width), strict=True))
    mask[top : top + height, left : left + width] = True
    return mask


def check_share(share: float) -> float:
    """Return `share`; a ValueError unless it is in (0, 1)."""
    if not 0 < share < 1:
        raise ValueError(f"box must be a share of the slice's sides in (0, 1), got {share}")
    return share
