"""CPS4, stage 2: Mean Teacher with pseudo-labels enhanced by prompt-guided maps of the frozen stage-1 model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..ops.copy_paste import check_share, copy_paste, random_box
from ..ops.fusion import PromptEvidence
from ..ops.losses import pseudo_label_loss
from .base import Losses
from .mean_teacher import MeanTeacher
from .supervised import Supervised


class CPS4(MeanTeacher):
    """Class prompt driven semi-supervised segmentation (the CPS4 paper, stage 2).

    L = `supervised` · CE(student, label)                                       eq. (5)
      + `prompt` · prompt_ramp(progress) · CE(student, S)                       eq. (6)
      + `enhanced` · ramp(progress) · CE(student, fuse(teacher, S))             eq. (7)

    with S the prompt-guided map, eq. (3). A `pseudo_label` in the batch (self-training: predicted on the whole volume
    by `scripts.training.pseudo_labels`) replaces fuse(teacher, S); attention maps are then read for the prompt term
    only. If attention maps are needed and missing, the loss is the supervised term alone.

    Beyond the paper: `dice` mixes a Dice loss into the cross-entropies of (6) and (7); with `box` labelled and
    unlabelled slices are mixed by copy-paste (`scripts.ops.copy_paste`) and each term is over its own pixels.

    Args:
        student: see `MeanTeacher`.
        teacher: see `MeanTeacher`.
        supervised_loss: see `Supervised`.
        loss_weights: has the keys `supervised`, `prompt` and `enhanced`.
        ramp: progress -> weight of the enhanced term.
        prompt_ramp: progress -> weight of the prompt term.
        attention_source: unlabelled stream -> (maps (B, N, H, W) at full size, thresholds (B, N)), or None.
        prompt_map: (maps, thresholds) -> prompt-guided map (B, H, W); see `scripts.ops.prompt_map`.
        fuse: (teacher logits, PromptEvidence) -> enhanced pseudo-label (B, H, W), 255 where it is ignored.
        teacher_mode: see `MeanTeacher`.
        box: sides of the copy-paste box as a share of the slice's, in (0, 1); None: no copy-paste.
        dice: share of the Dice loss against pseudo-labels, in [0, 1].

    Raises:
        ValueError: a box that is empty or the whole slice.
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
        box: float | None = None,
        dice: float = 0.0,
    ) -> None:
        super().__init__(student, teacher, supervised_loss, loss_weights, ramp, teacher_mode=teacher_mode)
        self.prompt_ramp, self.attention_source = prompt_ramp, attention_source
        self.prompt_map, self.fuse = prompt_map, fuse
        self.box, self.dice = None if box is None else check_share(box), dice

    def __call__(self, batch: dict[str, Any], progress: float) -> Losses:
        """Return `loss` and its parts `supervised`, `prompt` and `enhanced`."""
        weights = {
            "prompt": self.loss_weights["prompt"] * self.prompt_ramp(progress),
            "enhanced": self.loss_weights["enhanced"] * self.ramp(progress),
        }
        if batch["unlabelled"] is None or not any(weights.values()):
            return Supervised.__call__(self, batch, progress)
        targets = self.targets(batch["unlabelled"], weights)
        if targets is None:
            return Supervised.__call__(self, batch, progress)
        if self.box is None:
            losses, logits = Supervised.__call__(self, batch, progress), self.student(batch["unlabelled"]["image"])
        else:
            losses, logits, targets = self.mixed(batch, targets, self.box)
        for name, target in targets.items():
            losses[name] = pseudo_label_loss(logits, target, dice=self.dice)
            losses["loss"] = losses["loss"] + weights[name] * losses[name]
        return losses

    def targets(self, unlabelled: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor] | None:
        """Hard targets (U, H, W) of the unlabelled slices for every term with a weight; None without attention maps."""
        given, targets = unlabelled.get("pseudo_label"), {}
        if weights["prompt"] or given is None:
            evidence = self.evidence(unlabelled)
            if evidence is None:
                return None
            if weights["prompt"]:
                targets["prompt"] = evidence.label
            if weights["enhanced"] and given is None:
                targets["enhanced"] = self.fuse(self.teacher_logits(unlabelled["image"]), evidence)
        if weights["enhanced"] and given is not None:
            targets["enhanced"] = given.squeeze(1).long()
        return targets

    def mixed(
        self, batch: dict[str, Any], targets: dict[str, Tensor], box: float
    ) -> tuple[Losses, Tensor, dict[str, Tensor]]:
        """Supervised term, logits (P, N, H, W) and targets (P, H, W) of copy-pasted slices."""
        labelled, image = batch["labelled"], batch["unlabelled"]["image"]
        mixed = copy_paste(labelled["image"], image, random_box(image, box))
        logits = self.student(mixed.image)
        label = mixed.label(labelled["label"].squeeze(1))
        supervised = self.supervised_loss(logits, label, labelled["is_unlabelled"][mixed.labelled_index])
        losses = {"loss": self.loss_weights["supervised"] * supervised, "supervised": supervised}
        return losses, logits, {name: mixed.target(target) for name, target in targets.items()}

    @torch.no_grad()
    def evidence(self, unlabelled: dict[str, Tensor]) -> PromptEvidence | None:
        """Attention maps of the unlabelled slices and their prompt-guided map, eq. (3), computed at first access."""
        source = self.attention_source(unlabelled)
        return None if source is None else PromptEvidence(source[0], partial(self.prompt_map, *source))


def cached_attention_maps(unlabelled: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """Cached attention maps (B, N, H, W) and thresholds (B, N) of a batch, warped with the image; None if missing."""
    if "attention_maps" not in unlabelled:
        return None
    return unlabelled["attention_maps"], unlabelled["thresholds"]
