"""BCP: bidirectional copy-paste of labelled and unlabelled slices with a Mean Teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..labels import IGNORE
from ..ops.copy_paste import check_share, copy_paste, random_box
from ..ops.losses import pseudo_label_loss
from .base import Losses
from .mean_teacher import MeanTeacher
from .supervised import Supervised


class BCP(MeanTeacher):
    """Bidirectional copy-paste (Bai et al., CVPR 2023).

    Mixed slices are made by `scripts.ops.copy_paste`.

    L = `supervised` · supervised_loss(student, label) on the pixels of labelled slices
      + `pseudo` · ramp(progress) · (CE + Dice)/2 (student, arg max of the teacher) on those of unlabelled slices

    While the ramp is 0, and without unlabelled slices, the loss is supervised: on the slices as they are, or with
    `mix_labelled` on copy-pasted labelled slices, as in the original's pretraining.

    Differences from the original: labelled pixels have the bundle's partial-label cross-entropy in place of
    (CE + Dice)/2; both directions are one batch of the student, with one mean over their pixels; the unlabelled slices
    are one batch of the teacher; pseudo-labels are not cleaned unless `refine` is given; pretraining, if any, is part
    of the same run; the teacher's running averages are not updated (`EMATeacher`).

    Args:
        student: see `MeanTeacher`.
        teacher: see `MeanTeacher`.
        supervised_loss: see `Supervised`.
        loss_weights: has the keys `supervised` and `pseudo`.
        ramp: see `MeanTeacher`.
        box: sides of the copy-paste box as a share of the slice's, in (0, 1).
        refine: post-processing of the pseudo-label of one slice, (1, H, W) -> (1, H, W); None: no post-processing.
        mix_labelled: copy-paste among labelled slices while the loss is supervised.
        teacher_mode: see `MeanTeacher`.

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
        box: float = 2 / 3,
        refine: Callable[[Tensor], Tensor] | None = None,
        mix_labelled: bool = False,
        teacher_mode: str = "batch",
    ) -> None:
        super().__init__(student, teacher, supervised_loss, loss_weights, ramp, teacher_mode=teacher_mode)
        self.box, self.refine, self.mix_labelled = check_share(box), refine, mix_labelled

    def __call__(self, batch: dict[str, Any], progress: float) -> Losses:
        """Return `loss` and its parts `supervised` and `pseudo`."""
        labelled, unlabelled = batch["labelled"], batch["unlabelled"]
        ramp = self.ramp(progress)
        if unlabelled is None or ramp == 0:
            return Supervised.__call__(self, batch, progress)
        pseudo = self.pseudo_label(unlabelled["image"])
        mixed = copy_paste(labelled["image"], unlabelled["image"], random_box(pseudo, self.box))
        logits, terms = self.predict(mixed.image)
        label = mixed.label(labelled["label"].squeeze(1))
        supervised = self.supervised_loss(logits, label, labelled["is_unlabelled"][mixed.labelled_index])
        terms["pseudo"] = pseudo_label_loss(logits, mixed.target(pseudo), dice=0.5)
        unsupervised = sum(self.loss_weights[name] * term for name, term in terms.items())
        total = self.loss_weights["supervised"] * supervised + ramp * unsupervised
        return {"loss": total, "supervised": supervised, **terms}

    def predict(self, image: Tensor) -> tuple[Tensor, Losses]:
        """The student's logits of mixed slices, and further unsupervised terms of a subclass."""
        return self.student(image), {}

    def pseudo_label(self, image: Tensor) -> Tensor:
        """The teacher's arg max (U, H, W), post-processed slice by slice by `refine`."""
        label = self.teacher_logits(image).argmax(1)
        return label if self.refine is None else torch.cat([self.refine(one[None]).to(label) for one in label])

    def supervised_term(self, labelled: dict[str, Tensor]) -> Tensor:
        """Supervised loss, (), of copy-pasted labelled slices if `mix_labelled`."""
        if not self.mix_labelled:
            return super().supervised_term(labelled)
        image, label, is_unlabelled = labelled["image"], labelled["label"].squeeze(1).long(), labelled["is_unlabelled"]
        box = random_box(label, self.box)
        logits = self.student(torch.where(box, image.roll(1, 0), image))
        outside = self.supervised_loss(logits, label.masked_fill(box, IGNORE), is_unlabelled)
        inside = self.supervised_loss(logits, label.roll(1, 0).masked_fill(~box, IGNORE), is_unlabelled.roll(1, 0))
        return (outside + inside) / 2
