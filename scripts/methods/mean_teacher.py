"""Mean Teacher: consistency of the student with its exponential moving average (EMA) on unlabelled slices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Losses
from .supervised import Supervised

TEACHER_MODES = ("batch", "running")


class MeanTeacher(Supervised):
    """Mean Teacher (Tarvainen and Valpola, NeurIPS 2017), with a hard or a soft consistency.

    L = `supervised` · CE(student, label) + `consistency` · ramp(progress) · C, where C is the cross-entropy against
    the teacher's arg max ("hard_ce", what CPS4 builds on) or the squared distance of the probabilities ("mse").

    Args:
        student: (B, 1, H, W) -> logits (B, N, H, W).
        teacher: the same network; receives no gradient, updated by `scripts.training.handlers.EMATeacher`.
        supervised_loss: see `Supervised`.
        loss_weights: has the keys `supervised` and `consistency`.
        ramp: progress in [0, 1) -> weight in [0, 1] of the unlabelled terms; at 0 the teacher is not run.
        consistency: "hard_ce" or "mse".
        teacher_mode: batch normalisation of the teacher by "batch" statistics or by "running" averages; for the latter
            set the buffer mode of `EMATeacher`.
        noise: standard deviation of the Gaussian noise, cut off at two of them, that the teacher's slices get beside
            the student's: the perturbation of the original and of SSL4MIS (0.1); 0 for none.

    Raises:
        ValueError: an unknown consistency or teacher mode.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        supervised_loss: Callable[..., Tensor],
        loss_weights: dict[str, float],
        ramp: Callable[[float], float],
        consistency: str = "hard_ce",
        teacher_mode: str = "batch",
        noise: float = 0.0,
    ) -> None:
        super().__init__(student, supervised_loss, loss_weights)
        if consistency not in ("hard_ce", "mse"):
            raise ValueError(f"consistency must be 'hard_ce' or 'mse', got {consistency!r}")
        if teacher_mode not in TEACHER_MODES:
            raise ValueError(f"teacher_mode must be one of {TEACHER_MODES}, got {teacher_mode!r}")
        self.teacher, self.ramp = teacher.requires_grad_(False), ramp
        self.consistency, self.teacher_mode, self.noise = consistency, teacher_mode, noise

    def __call__(self, batch: dict[str, Any], progress: float) -> Losses:
        """Return `loss` and its parts `supervised` and `consistency`."""
        losses = super().__call__(batch, progress)
        ramp = self.ramp(progress)
        if batch["unlabelled"] is None or ramp == 0:
            return losses
        image = batch["unlabelled"]["image"]
        teacher_logits, logits = self.teacher_logits(self._noisy(image)), self.student(image)
        if self.consistency == "mse":
            term = F.mse_loss(logits.float().softmax(1), teacher_logits.float().softmax(1))
        else:
            term = F.cross_entropy(logits.float(), teacher_logits.argmax(1))
        total = losses["loss"] + self.loss_weights["consistency"] * ramp * term
        return {**losses, "loss": total, "consistency": term}

    def _noisy(self, image: Tensor) -> Tensor:
        """The slices with noise of the device's generator, which a checkpoint keeps."""
        if self.noise == 0:
            return image
        return image + (self.noise * torch.randn_like(image)).clamp(-2 * self.noise, 2 * self.noise)

    @torch.no_grad()
    def teacher_logits(self, image: Tensor) -> Tensor:
        """The teacher's logits (B, N, H, W), without a gradient."""
        self.teacher.train(self.teacher_mode == "batch")
        return self.teacher(image)
