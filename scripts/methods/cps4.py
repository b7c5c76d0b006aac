"""CPS4, stage 2: pseudo-labels of a Mean Teacher, made better by prompt-guided maps of the frozen stage-1 model."""

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

    with S the prompt-guided map, eq. (3). Where the batch holds a `pseudo_label`, which teacher and prompts gave the
    slice within its whole volume (`scripts.training.pseudo_labels`), it takes the place of fuse(teacher, S), and
    attention maps are asked for only if the prompt term counts. Where they are needed and missing, only the
    supervised term is left (`when_no_prompt_model: supervised`).

    Ours, beside the paper: `dice` mixes a Dice loss into the cross-entropies of (6) and (7), and with `box` all three
    terms are taken of labelled and unlabelled slices that were pasted into each other (`scripts.ops.copy_paste`), each
    over the pixels of its own stream.

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
        box: sides of the box as a share of the slice's, in (0, 1); None leaves slices as they are.
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
        """What the student is to say of the unlabelled slices, (U, H, W) for each term that has a weight.

        None where that takes attention maps and there are none.
        """
        given, targets = unlabelled.get("pseudo_label"), {}
        if weights["prompt"] or given is None:
            evidence = self.evidence(unlabelled)
            if evidence is None:
                return None
            if weights["prompt"]:
                targets["prompt"] = evidence.label
            if weights["enhanced"] and given is None:
                targets["enhanced"] = self.fuse(self.teach(unlabelled["image"]), evidence)
        if weights["enhanced"] and given is not None:
            targets["enhanced"] = given.squeeze(1).long()
        return targets

    def mixed(
        self, batch: dict[str, Any], targets: dict[str, Tensor], box: float
    ) -> tuple[Losses, Tensor, dict[str, Tensor]]:
        """Supervised term, logits (P, N, H, W) and targets (P, H, W) of slices that were pasted into each other."""
        labelled, image = batch["labelled"], batch["unlabelled"]["image"]
        mixed = copy_paste(labelled["image"], image, random_box(image, box))
        logits = self.student(mixed.image)
        label = mixed.label(labelled["label"].squeeze(1))
        supervised = self.supervised_loss(logits, label, labelled["is_unlabelled"][mixed.one])
        losses = {"loss": self.loss_weights["supervised"] * supervised, "supervised": supervised}
        return losses, logits, {name: mixed.target(target) for name, target in targets.items()}

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
