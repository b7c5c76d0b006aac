"""Volumes moved along head-foot: what a network says about them at each place, and how certain it is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .check_shape import check_shape


def displace(images: Tensor, rows: int) -> Tensor:
    """Move images down by some rows (up if negative); the first or last row fills what becomes free.

    Args:
        images: (..., H, W).
        rows: in (-H, H).

    Returns:
        (..., H, W), a copy.
    """
    height = images.shape[-2]
    return images[..., (torch.arange(height, device=images.device) - rows).clamp(0, height - 1), :]


def put_back(probs: Tensor, rows: int) -> Tensor:
    """Undo :func:`displace` for the probabilities that were predicted there; rows that nobody saw are background.

    Args:
        probs: (B, N, H, W), class 0 is background.
        rows: by which the images were moved down.

    Returns:
        (B, N, H, W).
    """
    check_shape("probs", probs, "B N H W")
    back = displace(probs, -rows)
    unseen = slice(0, -rows) if rows < 0 else slice(probs.shape[2] - rows, None)
    back[:, :, unseen] = 0
    back[:, 0, unseen] = 1
    return back


def doubt(probs: Tensor, labelled: Sequence[int]) -> Tensor:
    """Mean entropy of the classes over the foreground, (), nats: large where levels are taken for one another.

    Args:
        probs: (B, N, H, W), class 0 is background; a pixel counts by its probability of foreground.
        labelled: ids of the classes that the training labels contain; all others count as background.
    """
    check_shape("probs", probs, "B N H W")
    named = probs[:, [c for c in labelled if c]]
    foreground = named.sum(1)
    entropy = torch.special.entr(named).sum(1) + torch.special.entr((1 - foreground).clamp_min(0))
    return (entropy * foreground).sum() / foreground.sum().clamp_min(1e-6)


def least_doubtful(
    predict: Callable[[Tensor], Tensor],
    volume: Tensor,
    shifts: Sequence[float],
    *,
    labelled: Sequence[int],
    spread: float,
    sharpness: float,
) -> Tensor:
    """Predict a volume at several displacements, and mix what was said by how little doubt there was.

    A network that has seen few patients knows a level by its place in the picture as much as by its looks. Moved to a
    place like that of a training patient, the same spine gets names without doubt, most often the right ones. Weights:
    softmax over displacements d of  -sharpness · doubt(d) - d² / (2 · spread²).

    Args:
        predict: (S, C, H, W) -> class probabilities (S, N, H, W).
        volume: (S, C, H, W) the slices of one volume.
        shifts: displacements as fractions of H, in (-1, 1).
        labelled: see :func:`doubt`.
        spread: how far from its place a volume is believed, a fraction of H.
        sharpness: weight of the doubt, 1 / nats; 0 is a plain average.

    Returns:
        (S, N, H, W) probabilities that sum to 1.

    References: no paper; chosen on validation patients, see docs/method.md.
    """
    mixture, total = torch.zeros((), device=volume.device), torch.zeros((), device=volume.device)
    largest = torch.tensor(-torch.inf, device=volume.device)
    for shift in shifts:
        rows = round(shift * volume.shape[-2])
        probs = put_back(predict(displace(volume, rows)), rows)
        log_weight = -sharpness * doubt(probs, labelled) - shift**2 / (2 * spread**2)
        # Relative to the largest so far: by itself each weight of a network that knows nothing yet would be 0.
        before, largest = largest, torch.maximum(largest, log_weight)
        keep, weight = (before - largest).exp(), (log_weight - largest).exp()
        mixture, total = keep * mixture + weight * probs, keep * total + weight
    return mixture / total
