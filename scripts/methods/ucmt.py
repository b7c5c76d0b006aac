"""UCMT: co-training of two students with a mean teacher, and uncertainty-guided mixing of image patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..ops.losses import masked_dice_loss
from .base import Losses
from .mean_teacher import MeanTeacher


class UCMT(MeanTeacher):
    """UCMT (Shen et al., IJCAI 2023): collaborative mean teacher, then the same on uncertainty-guided mixed images.

    L = `supervised` · mean over students of CE(s_i, label)
      + ramp(progress) · ( `cross_pseudo` · mean over students of Dice(s_i(u_i), arg max s_j(u_j))
                         + `cross_mean` · mean over students of Dice(s_i(u_i), arg max teacher(u)) )

    with u_1, u_2 two noisy views of the unlabelled slice u. Once the ramp is above 0 every term is the mean of two: on
    the slices, and on mixed slices, in which the `swapped` cells of highest uncertainty of student i are overwritten
    by those of lowest uncertainty of student j, in image, label and pseudo-labels. A student's uncertainty is the
    entropy of the mean of its own and the teacher's probabilities.

    Differences from the original: cross-entropy in place of Dice on labels; one optimiser step and one EMA update for
    both halves, not two; the teacher averages the first student alone, not both; views differ by noise added to the
    batch's augmentation; mixed pseudo-labels are cut from those of the whole slices, not predicted again; ignored
    pixels (255) move with their cells.

    Args:
        student: the first student, (B, 1, H, W) -> logits (B, N, H, W).
        partner: the second student, same architecture with other initial weights.
        teacher: exponential moving average of the first; see `MeanTeacher`.
        supervised_loss: see `Supervised`.
        loss_weights: has the keys `supervised`, `cross_pseudo` and `cross_mean`.
        ramp: see `MeanTeacher`; at 0 the loss is supervised.
        noise: standard deviation of the views' Gaussian noise, clamped to twice that.
        cells: rows and columns that a slice is cut into.
        swapped: number of cells that are overwritten.
        teacher_mode: see `MeanTeacher`.

    Raises:
        ValueError: `cells` or `swapped` below 1.
    """

    def __init__(
        self,
        student: nn.Module,
        partner: nn.Module,
        teacher: nn.Module,
        supervised_loss: Callable[..., Tensor],
        loss_weights: dict[str, float],
        ramp: Callable[[float], float],
        noise: float = 0.1,
        cells: int = 16,
        swapped: int = 2,
        teacher_mode: str = "batch",
    ) -> None:
        super().__init__(student, teacher, supervised_loss, loss_weights, ramp, teacher_mode=teacher_mode)
        if min(cells, swapped) < 1:
            raise ValueError(f"cells and swapped must be at least 1, got {cells} and {swapped}")
        self.students = (student, partner)
        self.noise, self.cells, self.swapped = noise, cells, swapped

    def __call__(self, batch: dict[str, Any], progress: float) -> Losses:
        """Return `loss` and its parts `supervised`, `cross_pseudo` and `cross_mean`."""
        labelled, unlabelled = batch["labelled"], batch["unlabelled"]
        image, label, is_unlabelled = labelled["image"], labelled["label"].squeeze(1).long(), labelled["is_unlabelled"]
        logits = [student(image).float() for student in self.students]
        parts = {"supervised": _mean([self.supervised_loss(z, label, is_unlabelled) for z in logits])}
        ramp = self.ramp(progress)
        if unlabelled is not None and ramp > 0:
            parts |= self.collaborate(unlabelled["image"])
            mixed, (targets,) = self.mix([image, image], logits, self.teacher_logits(image), [[label, label]])
            on_mixed = [
                self.supervised_loss(s(x), y, is_unlabelled)
                for s, x, y in zip(self.students, mixed, targets, strict=True)
            ]
            parts["supervised"] = _mean([parts["supervised"], _mean(on_mixed)])
        weights = {name: self.loss_weights[name] * (1 if name == "supervised" else ramp) for name in parts}
        return {"loss": sum((weights[name] * part for name, part in parts.items()), label.new_zeros(())), **parts}

    def collaborate(self, image: Tensor) -> Losses:
        """The terms of unlabelled slices (B, 1, H, W), each the mean of whole and mixed slices."""
        views = [self.view(image), self.view(image)]
        logits = [student(view).float() for student, view in zip(self.students, views, strict=True)]
        teacher_logits = self.teacher_logits(image)
        pseudo_label = teacher_logits.argmax(1)
        from_other, from_teacher = [logits[1].argmax(1), logits[0].argmax(1)], [pseudo_label, pseudo_label]
        mixed, (mixed_other, mixed_teacher) = self.mix(views, logits, teacher_logits, [from_other, from_teacher])
        mixed_logits = [student(x) for student, x in zip(self.students, mixed, strict=True)]
        return {
            "cross_pseudo": _mean([_dice(logits, from_other), _dice(mixed_logits, mixed_other)]),
            "cross_mean": _mean([_dice(logits, from_teacher), _dice(mixed_logits, mixed_teacher)]),
        }

    def view(self, image: Tensor) -> Tensor:
        """The image with clamped Gaussian noise, from torch's global generator."""
        return image + (self.noise * torch.randn_like(image)).clamp(-2 * self.noise, 2 * self.noise)

    @torch.no_grad()
    def mix(
        self, views: list[Tensor], logits: list[Tensor], teacher_logits: Tensor, labels: list[list[Tensor]]
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Overwrite each student's cells of highest entropy by the other view's cells of lowest entropy.

        Args:
            views: (B, 1, H, W), one per student.
            logits: (B, N, H, W) of the views, one per student.
            teacher_logits: (B, N, H, W).
            labels: for each kind of target (B, H, W) int64, one per student.

        Returns:
            Mixed views and mixed targets, in the same order.
        """
        entropies = [cell_entropy(z, teacher_logits, self.cells) for z in logits]  # (B, cells²)
        swapped = min(self.swapped, entropies[0].shape[1])
        images = []
        maps: list[list[Tensor]] = [[] for _ in labels]
        for own, other in ((0, 1), (1, 0)):
            worst = entropies[own].topk(swapped).indices
            best = entropies[other].topk(swapped, largest=False).indices
            images.append(overwrite(views[own], views[other], worst, best, self.cells))
            for kind, mixed in zip(labels, maps, strict=True):
                label = kind[own][:, None]  # the cells come from the same target
                mixed.append(overwrite(label, label, worst, best, self.cells).squeeze(1))
        return images, maps


def cell_entropy(logits: Tensor, teacher_logits: Tensor, cells: int) -> Tensor:
    """Mean entropy in every cell of the average of two predictions (B, N, H, W), (B, cells²) in row-major order."""
    probs = (logits.float().softmax(1) + teacher_logits.float().softmax(1)) / 2
    return cut(torch.special.entr(probs).sum(1, keepdim=True), cells).mean((2, 3, 4))


def overwrite(image: Tensor, other: Tensor, worst: Tensor, best: Tensor, cells: int) -> Tensor:
    """The image (B, C, H, W), its cells `worst` (B, k) replaced by the cells `best` (B, k) of the other.

    Sides that `cells` does not divide keep a rest at the bottom or right as it is.
    """
    own, theirs = cut(image, cells), cut(other, cells)  # (B, n, C, h, w)
    shape = (-1, -1, *own.shape[2:])
    source = theirs.gather(1, best[:, :, None, None, None].expand(shape))
    own = own.scatter(1, worst[:, :, None, None, None].expand(shape), source)
    rows, columns = _grid(image, cells)
    whole = own.unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    out = image.clone()
    out[:, :, : whole.shape[2], : whole.shape[3]] = whole
    return out


def cut(image: Tensor, cells: int) -> Tensor:
    """Cut an image (B, C, H, W) into cells (B, n, C, h, w), n = rows · columns, in row-major order."""
    rows, columns = _grid(image, cells)
    height, width = image.shape[2] // rows, image.shape[3] // columns
    grid = image[:, :, : rows * height, : columns * width].unflatten(2, (rows, height)).unflatten(4, (columns, width))
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def _grid(image: Tensor, cells: int) -> tuple[int, int]:
    """Rows and columns of cells; a small image has fewer."""
    return min(cells, image.shape[2]), min(cells, image.shape[3])


def _dice(logits: list[Tensor], targets: list[Tensor]) -> Tensor:
    """Dice loss against pseudo-labels, mean over the students."""
    return _mean([masked_dice_loss(z, target) for z, target in zip(logits, targets, strict=True)])


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()
