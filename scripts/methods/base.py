"""Interface of an objective: a callable from batch to losses. A method is an objective plus a config overlay."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

Losses = dict[str, Tensor]
"""`loss` is the total that is minimised; the other entries are its unweighted terms, for logging."""


class Objective(Protocol):
    """Computes the losses of one step.

    A batch is `{"labelled": stream, "unlabelled": stream or None}`; a stream holds `image` (B, 1, H, W),
    `is_unlabelled` (B, N) bool, for labelled slices `label` (B, 1, H, W), and where a method asks for them
    `attention_maps` (B, N, H, W) with `thresholds` (B, N).
    """

    def __call__(self, batch: dict[str, Any], progress: float) -> Losses:
        """Return the losses of a batch; `progress` is the fraction of training that is done, in [0, 1)."""
        ...
