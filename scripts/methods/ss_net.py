"""SS-Net: smoothness under virtual adversarial perturbation, and prototype-based separation of the classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..labels import IGNORE
from ..ops.batch_norm import batch_norm_statistics
from .base import Losses
from .supervised import Supervised


class SSNet(Supervised):
    """SS-Net (Wu et al., MICCAI 2022): virtual adversarial training (VAT) and inter-class separation.

    L = `supervised` · CE(student, label)
      + `smoothness` · ramp(progress) · A + `separation` · ramp(progress) · (S_labelled + S_unlabelled) / 2

    A = 1 - soft Dice of the predictions of x and x + `radius` · r, with r the unit gradient of that same distance at
    x + `xi` · d and d a random unit image. S = mean over classes of (1 - cos(q, z)), with q the predicted features of
    the class's pixels and z its prototypes, both weighted by learned selectors. Prototypes and the clean prediction of
    A receive no gradient.

    Differences from the original: cross-entropy in place of Dice on labels; S uses at most `pixels` random pixels of a
    class and stream, prototypes are selected among them in every step (no memory bank), and the mean is over classes
    that have both; labelled and unlabelled slices are separate forward passes, as in the other methods here; ignored
    pixels (255) are left out of A and S. As in the original, background has no prototypes, so pixels labelled 0 enter
    A only, and the prototypes are the features with the lowest scores.

    Args:
        student: has `features` and `head` as `scripts.networks.resunet.ResUNet2d`; perturbed images do not update
            the running averages of batch normalisation.
        heads: see `scripts.networks.ss_net_heads.SeparationHeads`.
        supervised_loss: see `Supervised`.
        loss_weights: has the keys `supervised`, `smoothness` and `separation`.
        ramp: progress in [0, 1) -> weight in [0, 1] of the other terms; at 0 they are not computed.
        xi: norm of the random perturbation at which the gradient is taken, over the whole image.
        radius: norm of the adversarial perturbation.
        pixels: largest number of pixels of a class in a stream.
        prototypes: largest number of prototypes of a class.

    Raises:
        ValueError: `pixels` or `prototypes` below 1.
    """

    student: Any  # an nn.Module with the parts that Args names

    def __init__(
        self,
        student: Any,
        heads: Any,
        supervised_loss: Callable[..., Tensor],
        loss_weights: dict[str, float],
        ramp: Callable[[float], float],
        xi: float = 10.0,
        radius: float = 6.0,
        pixels: int = 512,
        prototypes: int = 32,
    ) -> None:
        super().__init__(student, supervised_loss, loss_weights)
        if min(pixels, prototypes) < 1:
            raise ValueError(f"pixels and prototypes must be at least 1, got {pixels} and {prototypes}")
        self.heads, self.ramp, self.xi, self.radius = heads, ramp, xi, radius
        self.pixels, self.prototypes = pixels, prototypes

    def __call__(self, batch: dict[str, Any], progress: float) -> Losses:
        """Return `loss` and its parts `supervised`, `smoothness` and `separation`."""
        labelled, unlabelled = batch["labelled"], batch["unlabelled"]
        label = labelled["label"].squeeze(1).long()
        logits, features = self.predict(labelled["image"])
        supervised = self.supervised_loss(logits, label, labelled["is_unlabelled"])
        losses = {"loss": self.loss_weights["supervised"] * supervised, "supervised": supervised}
        ramp = self.ramp(progress)
        if unlabelled is None or ramp == 0:
            return losses
        image = unlabelled["image"]
        pseudo_logits, pseudo_features = self.predict(image)
        pseudo_label, valid = pseudo_logits.argmax(1), label != IGNORE
        losses["smoothness"] = self.smoothness(
            [labelled["image"], image],
            [z.detach().softmax(1) for z in (logits, pseudo_logits)],
            [valid[:, None], torch.ones_like(pseudo_label, dtype=torch.bool)[:, None]],
        )
        losses["separation"] = self.separation(
            [features, pseudo_features], [label, pseudo_label], (logits.argmax(1) == label) & valid
        )
        for name in ("smoothness", "separation"):
            losses["loss"] = losses["loss"] + self.loss_weights[name] * ramp * losses[name]
        return losses

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, N, H, W), float32, and the decoder's finest features (B, C, H, W)."""
        features = self.student.features(image)[-1]
        height, width = image.shape[2:]
        return self.student.head(features)[:, :, :height, :width].float(), features[:, :, :height, :width]

    def smoothness(self, images: list[Tensor], clean: list[Tensor], valid: list[Tensor]) -> Tensor:
        """Distance of the predictions of clean and adversarially perturbed images.

        Args:
            images: (B, 1, H, W), one a stream.
            clean: probabilities (B, N, H, W), one a stream, without a gradient.
            valid: (B, 1, H, W) bool, one a stream.

        Returns:
            () in [0, 1].
        """

        def distance(noise: list[Tensor]) -> Tensor:
            probs = [self.student(x + n).float().softmax(1) for x, n in zip(images, noise, strict=True)]
            return dice_distance(probs, clean, valid)

        with batch_norm_statistics(self.student, "volume"):
            start = [unit(torch.rand_like(x) - 0.5).requires_grad_() for x in images]
            # Gradients of an image underflow in float16.
            with torch.autocast(images[0].device.type, enabled=False), torch.enable_grad():
                gradients = torch.autograd.grad(distance([self.xi * n for n in start]), start)
            return distance([self.radius * unit(g) for g in gradients])

    def separation(self, features: list[Tensor], classes: list[Tensor], correct: Tensor) -> Tensor:
        """Cosine distance of features to the prototypes of their class.

        Args:
            features: (B, C, H, W) of the labelled and of the unlabelled stream.
            classes: (B, H, W) label and pseudo-label.
            correct: (B, H, W) bool, correctly predicted labelled pixels: the candidates for prototypes.

        Returns:
            () in [0, 2], mean of the two streams; 0 (the graph is kept) without pixels or prototypes.
        """
        num_classes = self.heads.feature_selectors.score.shape[0]
        drawn = [draw_pixels(c, num_classes, self.pixels) for c in classes]
        rows = torch.cat([f.movedim(1, -1).flatten(0, 2)[d.position] for f, d in zip(features, drawn, strict=True)])
        if len(rows) < 2:  # too few for batch normalisation
            return rows.float().sum() * 0
        with torch.autocast(rows.device.type, enabled=False):
            projected = self.heads.projector(rows.float())
            predicted = self.heads.predictor(projected).split([len(d.position) for d in drawn])
            labelled = drawn[0]
            own = labelled.by_class(projected[: len(labelled.position)].detach(), num_classes)
            candidates = labelled.by_class(correct.flatten()[labelled.position], num_classes)
            prototypes, is_prototype = self._select_prototypes(own, candidates)
            terms = [
                self._distance(d.by_class(p, num_classes), d.is_pixel(num_classes), prototypes, is_prototype)
                for p, d in zip(predicted, drawn, strict=True)
            ]
        return torch.stack(terms).mean()

    @torch.no_grad()
    def _select_prototypes(self, features: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Prototypes (N, K, D) among the candidates (N, M) of features (N, M, D), and their validity mask (N, K)."""
        scores = self.heads.prototype_selectors(features).masked_fill(~candidates, torch.inf)
        lowest = scores.topk(min(self.prototypes, scores.shape[1]), largest=False)
        return features.take_along_dim(lowest.indices[:, :, None], 1), lowest.values.isfinite()

    def _distance(self, features: Tensor, is_pixel: Tensor, prototypes: Tensor, is_prototype: Tensor) -> Tensor:
        """Weighted mean of 1 - cos over the pairs of a class, then over the classes that have pairs."""
        distance = 1 - F.normalize(features, dim=2) @ F.normalize(prototypes, dim=2).mT  # (N, M, K)
        weight = self.heads.feature_selectors(features.detach()).sigmoid() * is_pixel
        other = self.heads.prototype_selectors(prototypes).sigmoid() * is_prototype
        pairs = weight[:, :, None] * other[:, None]
        classwise = (pairs * distance).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1e-12)
        return classwise.sum() / (is_pixel.any(1) & is_prototype.any(1)).sum().clamp_min(1)


class DrawnPixels(NamedTuple):
    """R sampled pixels of a stream: flat index `position`, class `label`, and `rank` within the class."""

    position: Tensor
    label: Tensor
    rank: Tensor

    def by_class(self, rows: Tensor, num_classes: int) -> Tensor:
        """Group rows by class, (R, ...) -> (N, M, ...), zero-padded to M, the most pixels of a class."""
        largest = int(self.rank.max()) + 1 if len(self.rank) else 1
        return rows.new_zeros(num_classes, largest, *rows.shape[1:]).index_put((self.label, self.rank), rows)

    def is_pixel(self, num_classes: int) -> Tensor:
        """(N, M) bool, false where `by_class` is padded."""
        return self.by_class(torch.ones_like(self.label, dtype=torch.bool), num_classes)


def draw_pixels(label: Tensor, num_classes: int, pixels: int) -> DrawnPixels:
    """Sample up to `pixels` pixels of each foreground class of a label map (B, H, W), with torch's global generator."""
    flat = label.flatten()
    position = ((flat > 0) & (flat < num_classes)).nonzero()[:, 0]
    position = position[torch.randperm(len(position), device=position.device)]
    label, order = flat[position].sort(stable=True)
    count = torch.bincount(label, minlength=num_classes)
    rank = torch.arange(len(label), device=label.device) - (count.cumsum(0) - count)[label]
    selected = rank < pixels
    return DrawnPixels(position[order][selected], label[selected], rank[selected])


def dice_distance(probs: list[Tensor], others: list[Tensor], valid: list[Tensor], eps: float = 1e-5) -> Tensor:
    """1 - mean over classes of (2 Σ p·q + eps) / (Σ p² + Σ q² + eps), sums over valid pixels of all streams."""
    overlap, size = torch.zeros_like(probs[0][0, :, 0, 0]), torch.zeros_like(probs[0][0, :, 0, 0])
    for p, q, mask in zip(probs, others, valid, strict=True):
        overlap = overlap + (p * q * mask).sum((0, 2, 3))
        size = size + ((p.square() + q.square()) * mask).sum((0, 2, 3))
    return 1 - ((2 * overlap + eps) / (size + eps)).mean()


def unit(noise: Tensor) -> Tensor:
    """L2-normalise each image of a batch (B, 1, H, W)."""
    return noise / noise.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
