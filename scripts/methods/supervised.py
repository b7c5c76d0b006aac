"""Supervised baseline: training on the labelled slices alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .base import Losses


class Supervised:
    """L = `supervised` · CE(student, label), with partial labels.

    Args:
        student: (B, 1, H, W) -> logits (B, N, H, W).
        supervised_loss: (logits, label (B, H, W), is_unlabelled (B, N)) -> ().
        loss_weights: has the key `supervised`.
    """

    def __init__(
        self, student: nn.Module, supervised_loss: Callable[..., Tensor], loss_weights: dict[str, float]
    ) -> None:
        self.student, self.supervised_loss = student, supervised_loss
        self.loss_weights = loss_weights

    def __call__(self, batch: dict[str, Any], progress: float) -> Losses:
        """Return `loss` and its part `supervised`."""
        supervised = self.supervised_term(batch["labelled"])
        return {"loss": self.loss_weights["supervised"] * supervised, "supervised": supervised}

    def supervised_term(self, labelled: dict[str, Tensor]) -> Tensor:
        """Cross-entropy on the labelled slices, ()."""
        logits = self.student(labelled["image"])
        return self.supervised_loss(logits, labelled["label"].squeeze(1).long(), labelled["is_unlabelled"])
