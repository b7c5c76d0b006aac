"""CPS4, stage 2: pseudo-labels of a Mean Teacher, made better by prompt-guided maps of the frozen stage-1 model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..labels import IGNORE
from ..ops.fusion import PromptEvidence
from .base import Losses
from .mean_teacher import MeanTeacher
from .supervised import Supervised


class CPS4(MeanTeacher):
    """Class prompt driven semi-supervised segmentation (the CPS4 paper, stage 2).

    L = `supervised` · CE(student, label)                                       eq. (5)
      + `prompt` · prompt_ramp(progress) · CE(student, S)                       eq. (6)
      + `enhanced` · ramp(progress) · CE(student, fuse(teacher, S))             eq. (7)

    with S the prompt-guided map, eq. (3). Where the batch holds a `pseudo_label`, which teacher and prompts gave the
    slice within its whole volume (`scripts.rounds`), it takes the place of fuse(teacher, S), and attention maps are
    asked for only if the prompt term counts. Where they are needed and missing, only the supervised term is left
    (`when_no_prompt_model: supervised`).

    Args:
        student: see `MeanTeacher`.
        teacher: see `MeanTeacher`.
        supervised_loss: see `Supervised`.
        loss_weights: has the keys `supervised`, `prompt` and `enhanced`.
        ramp: progress -> weight of the enhanced term.
        prompt_ramp: progress -> weight of the prompt term.
        attention_source: unlabelled stream -> (maps (B, N, H, W) at full size, thresholds (B, N)), or None.
        prompt_map: (maps, thresholds) -> prompt-guided map (B, H, W); see `scripts.ops.prompt_map`.
        fuse: (teacher's logits, PromptEvidence) -> enhanced pseudo-label (B, H, W), 255 where it abstains.
        teacher_mode: see `MeanTeacher`.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        supervised_loss: Callable[..., Tensor],
        loss_weights: dict[str, float],
        ramp: Callable[[float], float],
        prompt_ramp: Callable[[float], float],
        attention_source: Callable[[dict[str, Tensor]], tuple[Tensor, Tensor] | None],
        prompt_map: Callable[[Tensor, Tensor], Tensor],
        fuse: Callable[[Tensor, PromptEvidence], Tensor],
        teacher_mode: str = "batch",
    ) -> None:
        super().__init__(student, teacher, supervised_loss, loss_weights, ramp, teacher_mode=teacher_mode)
        self.prompt_ramp, self.attention_source = prompt_ramp, attention_source
        self.prompt_map, self.fuse = prompt_map, fuse

    def __call__(self, batch: dict[str, Any], progress: float) -> Losses:
        """Return `loss` and its parts `supervised`, `prompt` and `enhanced`."""
        losses = Supervised.__call__(self, batch, progress)
        weights = {
            "prompt": self.loss_weights["prompt"] * self.prompt_ramp(progress),
            "enhanced": self.loss_weights["enhanced"] * self.ramp(progress),
        }
        if batch["unlabelled"] is None or not any(weights.values()):
            return losses
        image, given = batch["unlabelled"]["image"], batch["unlabelled"].get("pseudo_label")
        targets = {}
        if weights["prompt"] or given is None:
            evidence = self.evidence(batch["unlabelled"])
            if evidence is None:
                return losses
            if weights["prompt"]:
                targets["prompt"] = evidence.label
        if weights["enhanced"]:
            targets["enhanced"] = self.fuse(self.teach(image), evidence) if given is None else given.squeeze(1).long()
        logits = self.student(image).float()
        for name, target in targets.items():
            losses[name] = _cross_entropy(logits, target)
            losses["loss"] = losses["loss"] + weights[name] * losses[name]
        return losses

    @torch.no_grad()
    def evidence(self, unlabelled: dict[str, Tensor]) -> PromptEvidence | None:
        """Attention maps of the unlabelled slices and, once somebody reads it, the map made of them, eq. (3)."""
        source = self.attention_source(unlabelled)
        return None if source is None else PromptEvidence(source[0], partial(self.prompt_map, *source))


def kept_maps(unlabelled: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """Maps that came with the batch, warped with the image's own augmentation; None if there are none."""
    if "attention_maps" not in unlabelled:
        return None
    return unlabelled["attention_maps"], unlabelled["thresholds"]


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that are not left out; 0 if all are."""
    counted = (target != IGNORE).sum().clamp_min(1)
    return F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum") / counted
