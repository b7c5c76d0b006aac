"""Test-time augmentation by shifts along head-foot, weighted by prediction entropy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .check_shape import check_shape


def shift_rows(images: Tensor, rows: int) -> Tensor:
    """Images (..., H, W) shifted down by |rows| < H pixels (up if negative), as a copy; the border row is repeated."""
    height = images.shape[-2]
    return images[..., (torch.arange(height, device=images.device) - rows).clamp(0, height - 1), :]


def unshift_probabilities(probs: Tensor, rows: int) -> Tensor:
    """Shift class probabilities (B, N, H, W) of images shifted by `rows` back; rows out of view become background."""
    check_shape("probs", probs, "B N H W")
    back = shift_rows(probs, -rows)
    out_of_view = slice(0, -rows) if rows < 0 else slice(probs.shape[2] - rows, None)
    back[:, :, out_of_view] = 0
    back[:, 0, out_of_view] = 1
    return back


def foreground_entropy(probs: Tensor, labelled: Sequence[int], unseen: float = 0.0) -> Tensor:
    """Prediction entropy, averaged over pixels weighted by their foreground probability; (), in nats, ≥ 0.

    Args:
        probs: (B, N, H, W) class probabilities, class 0 is background.
        labelled: ids of the classes in the training labels; all others count as background.
        unseen: share of the pixels that enter the mean as foreground of the largest entropy, beside those predicted. It
            hardly moves the mean of a whole spine; an empty prediction, which says nothing, has the largest entropy.
    """
    check_shape("probs", probs, "B N H W")
    named = probs[:, [c for c in labelled if c]]
    foreground = named.sum(1)
    entropy = torch.special.entr(named).sum(1) + torch.special.entr((1 - foreground).clamp_min(0))
    pseudo, largest = unseen * foreground.numel(), math.log(named.shape[1] + 1)
    return ((entropy * foreground).sum() + pseudo * largest) / (foreground.sum() + pseudo).clamp_min(1e-6)


def entropy_weighted_tta(
    predict: Callable[[Tensor], Tensor],
    volume: Tensor,
    shifts: Sequence[float],
    *,
    labelled: Sequence[int],
    shift_std: float,
    entropy_weight: float,
    unseen: float = 5e-3,
) -> Tensor:
    """Average the predictions of a volume shifted along head-foot, weighted by low entropy (test-time augmentation).

    The weights are the softmax over shifts s of  -entropy_weight · entropy(s) - s² / (2 · shift_std²). A network
    trained on few patients recognises a level partly by its position in the field of view. A shift that brings the
    spine to the position of a training patient lowers the entropy, and its level names are more often right. A shift
    at which the network sees no spine has no vote: see `unseen`.

    Args:
        predict: (S, C, H, W) -> class probabilities (S, N, H, W).
        volume: (S, C, H, W) all slices of one volume.
        shifts: fractions of H, in (-1, 1).
        labelled: see :func:`foreground_entropy`.
        shift_std: standard deviation of the Gaussian prior on the shift, a fraction of H.
        entropy_weight: 1 / nats; 0 weighs by the prior alone.
        unseen: see :func:`foreground_entropy`.

    Returns:
        (S, N, H, W) probabilities that sum to 1.

    References: no paper; chosen on validation patients, see docs/method.md.
    """
    mixture, total = torch.zeros((), device=volume.device), torch.zeros((), device=volume.device)
    largest = torch.tensor(-torch.inf, device=volume.device)
    for shift in shifts:
        rows = round(shift * volume.shape[-2])
        probs = unshift_probabilities(predict(shift_rows(volume, rows)), rows)
        log_weight = -entropy_weight * foreground_entropy(probs, labelled, unseen) - shift**2 / (2 * shift_std**2)
        # A running softmax: without the subtraction all weights of an untrained network would underflow to 0.
        before, largest = largest, torch.maximum(largest, log_weight)
        keep, weight = (before - largest).exp(), (log_weight - largest).exp()
        mixture, total = keep * mixture + weight * probs, keep * total + weight
    return mixture / total
