"""Ramp-up schedules of loss weights."""

from __future__ import annotations

import math


def sigmoid_ramp(progress: float, start: float, length: float) -> float:
    """Sigmoid-shaped ramp-up exp(-5 (1 - t)²), with t = (progress - start) / length clamped to [0, 1].

    Args:
        progress: share of the training that is done, in [0, 1].
        start: progress at which the ramp begins; the weight is 0 before it and exp(-5) = 0.0067 at it.
        length: share of the training that the ramp takes, ≥ 0; 0 switches the weight from 0 to 1 at `start`.

    Returns:
        weight in [0, 1]; 1 from `start + length` on.

    Raises:
        ValueError: a negative length.

    References: Laine and Aila, Temporal Ensembling for Semi-Supervised Learning, ICLR 2017, section 3.
    """
    if length < 0:
        raise ValueError(f"length of a ramp must not be negative, got {length}")
    if progress < start:
        return 0.0
    t = 1.0 if progress >= start + length else (progress - start) / length
    return math.exp(-5.0 * (1.0 - t) ** 2)
