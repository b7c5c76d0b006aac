"""SS-Net: the same prediction under the worst small change of the image, and features close to their class's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..labels import IGNORE
from ..ops.batch_norm import normalised_by
from .base import Losses
from .supervised import Supervised


class SSNet(Supervised):
    """SS-Net (Wu et al., MICCAI 2022): smoothness under adversarial noise, and separation of the classes.

    L = `supervised` · CE(student, label)
      + `smoothness` · ramp(progress) · A + `separation` · ramp(progress) · (S_labelled + S_unlabelled) / 2

    A = 1 - soft Dice of the clean and the perturbed prediction, x + `radius` · r with r the unit gradient of that same
    distance at x + `xi` · d, d a random unit image. S = mean over classes of (1 - cos(q, z)), q the predicted features
    of the class's pixels and z its prototypes, both weighted by learned selectors. No gradient reaches the prototypes
    or the clean prediction of A.

    Departures from the original: cross-entropy for Dice on labels; `pixels` random pixels of a class and a stream
    stand for all, the prototypes are chosen among them and live for one step (no memory over steps); S is averaged
    over the classes that have both pixels and prototypes; labelled and unlabelled slices pass the network one after
    the other, as in the other methods here; pixels labelled 255 are left out of A and S. As in the original,
    background has no prototypes: what is labelled 0, and may be a class that nobody labelled, enters A alone. The
    prototypes are the features with the lowest scores, as in its released code.

    Args:
        student: has `features` and `head` as `scripts.networks.resunet.ResUNet2d`; batch normalisation's running
            averages do not see perturbed images.
        heads: see `scripts.networks.ss_net_heads.SeparationHeads`.
        supervised_loss: see `Supervised`.
        loss_weights: has the keys `supervised`, `smoothness` and `separation`.
        ramp: progress in [0, 1) -> weight in [0, 1] of the other terms; at 0 they are not computed.
        xi: length of the first, random step, as the norm of the whole image.
        radius: length of the perturbation.
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
        pseudo_label, counted = pseudo_logits.argmax(1), label != IGNORE
        losses["smoothness"] = self.smoothness(
            [labelled["image"], image],
            [z.detach().softmax(1) for z in (logits, pseudo_logits)],
            [counted[:, None], torch.ones_like(pseudo_label, dtype=torch.bool)[:, None]],
        )
        losses["separation"] = self.separation(
            [features, pseudo_features], [label, pseudo_label], (logits.argmax(1) == label) & counted
        )
        for name in ("smoothness", "separation"):
            losses["loss"] = losses["loss"] + self.loss_weights[name] * ramp * losses[name]
        return losses

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, N, H, W), float32, and the decoder's finest features (B, C, H, W)."""
        features = self.student.features(image)[-1]
        height, width = image.shape[2:]
        return self.student.head(features)[:, :, :height, :width].float(), features[:, :, :height, :width]

    def smoothness(self, images: list[Tensor], clean: list[Tensor], counted: list[Tensor]) -> Tensor:
        """Distance of the predictions of perturbed images from the clean ones.

        Args:
            images: (B, 1, H, W) a stream.
            clean: probabilities (B, N, H, W) a stream, without a gradient.
            counted: (B, 1, H, W) bool a stream.

        Returns:
            () in [0, 1].
        """

        def distance(noise: list[Tensor]) -> Tensor:
            probs = [self.student(x + n).float().softmax(1) for x, n in zip(images, noise, strict=True)]
            return dice_distance(probs, clean, counted)

        with normalised_by(self.student, "volume"):  # the statistics of the batch, the running averages untouched
            start = [unit(torch.rand_like(x) - 0.5).requires_grad_() for x in images]
            # The gradient of an image is too small for float16.
            with torch.autocast(images[0].device.type, enabled=False), torch.enable_grad():
                gradients = torch.autograd.grad(distance([self.xi * n for n in start]), start)
            return distance([self.radius * unit(g) for g in gradients])

    def separation(self, features: list[Tensor], classes: list[Tensor], correct: Tensor) -> Tensor:
        """Distance of features from the prototypes of their class.

        Args:
            features: (B, C, H, W) of the labelled and of the unlabelled stream.
            classes: (B, H, W) label and pseudo-label.
            correct: (B, H, W) bool, labelled pixels that the student gets right: the candidates for prototypes.

        Returns:
            () in [0, 2], mean of the two streams; 0 (with its graph) where there is nothing to compare.
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
            prototypes, held = self._choose(own, candidates)
            terms = [
                self._to_prototypes(d.by_class(p, num_classes), d.filled(num_classes), prototypes, held)
                for p, d in zip(predicted, drawn, strict=True)
            ]
        return torch.stack(terms).mean()

    @torch.no_grad()
    def _choose(self, features: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Of features (N, M, D) and candidates (N, M) the prototypes (N, K, D), and which of them are (N, K) bool."""
        scores = self.heads.prototype_selectors(features).masked_fill(~candidates, torch.inf)
        lowest = scores.topk(min(self.prototypes, scores.shape[1]), largest=False)
        return features.take_along_dim(lowest.indices[:, :, None], 1), lowest.values.isfinite()

    def _to_prototypes(self, features: Tensor, filled: Tensor, prototypes: Tensor, held: Tensor) -> Tensor:
        """Weighted mean of 1 - cos over the pairs of a class, then over the classes that have any."""
        distance = 1 - F.normalize(features, dim=2) @ F.normalize(prototypes, dim=2).mT  # (N, M, K)
        weight = self.heads.feature_selectors(features.detach()).sigmoid() * filled
        other = self.heads.prototype_selectors(prototypes).sigmoid() * held
        pairs = weight[:, :, None] * other[:, None]
        classwise = (pairs * distance).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1e-12)
        return classwise.sum() / (filled.any(1) & held.any(1)).sum().clamp_min(1)


class DrawnPixels(NamedTuple):
    """Pixels of a stream, R in all: `position` among all pixels, `label`, and `rank` among those of the class."""

    position: Tensor
    label: Tensor
    rank: Tensor

    def by_class(self, rows: Tensor, num_classes: int) -> Tensor:
        """(R, ...) -> (N, M, ...), M the most pixels of a class; 0 or False where a class has fewer."""
        most = int(self.rank.max()) + 1 if len(self.rank) else 1
        return rows.new_zeros(num_classes, most, *rows.shape[1:]).index_put((self.label, self.rank), rows)

    def filled(self, num_classes: int) -> Tensor:
        """(N, M) bool, where `by_class` has a pixel."""
        return self.by_class(torch.ones_like(self.label, dtype=torch.bool), num_classes)


def draw_pixels(label: Tensor, num_classes: int, pixels: int) -> DrawnPixels:
    """Draw up to `pixels` pixels of each foreground class of a label map (B, H, W), by torch's own random state."""
    flat = label.flatten()
    position = ((flat > 0) & (flat < num_classes)).nonzero()[:, 0]
    position = position[torch.randperm(len(position), device=position.device)]
    label, order = flat[position].sort(stable=True)
    count = torch.bincount(label, minlength=num_classes)
    rank = torch.arange(len(label), device=label.device) - (count.cumsum(0) - count)[label]
    kept = rank < pixels
    return DrawnPixels(position[order][kept], label[kept], rank[kept])


def dice_distance(probs: list[Tensor], others: list[Tensor], counted: list[Tensor], eps: float = 1e-5) -> Tensor:
    """1 - mean over classes of (2 Σ p·q + eps) / (Σ p² + Σ q² + eps), sums over the counted pixels of all streams."""
    overlap, size = torch.zeros_like(probs[0][0, :, 0, 0]), torch.zeros_like(probs[0][0, :, 0, 0])
    for p, q, mask in zip(probs, others, counted, strict=True):
        overlap = overlap + (p * q * mask).sum((0, 2, 3))
        size = size + ((p.square() + q.square()) * mask).sum((0, 2, 3))
    return 1 - ((2 * overlap + eps) / (size + eps)).mean()


def unit(noise: Tensor) -> Tensor:
    """(B, 1, H, W), each image divided by its norm."""
    return noise / noise.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
