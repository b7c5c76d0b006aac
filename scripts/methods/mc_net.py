"""MC-Net+: mutual consistency of decoders that differ in their up-sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn

from ..labels import IGNORE
from .base import Losses
from .supervised import Supervised


class MCNet(Supervised):
    """MC-Net+ (Wu et al., Medical Image Analysis 2022), one encoder and n decoders.

    L = `supervised` · mean over decoders d of CE(d, label)
      + `consistency` · ramp(progress) · mean over ordered pairs i ≠ j of MSE(p_i, sharpen(p_j))

    with p_i the probabilities of decoder i on labelled and unlabelled slices; both sides receive a gradient. The first
    decoder is the student's own and is used at inference.

    Differences from the original: cross-entropy in place of Dice on labels; means over decoders and pairs in place of
    sums; labelled and unlabelled slices are separate forward passes, as in the other methods here, so that each has its
    own batch statistics; ignored pixels (255) are left out of the consistency; skip features are added, as in this
    bundle's network, not concatenated.

    Args:
        student: has `encode`, `decoder` and `head` as `scripts.networks.resunet.ResUNet2d`.
        decoders: further decoders; features of the encoder -> logits of the padded image.
        supervised_loss: see `Supervised`.
        loss_weights: has the keys `supervised` and `consistency`.
        ramp: progress in [0, 1) -> weight in [0, 1] of the consistency; at 0 it is not computed.
        temperature: of the sharpening, in (0, 1]; see :func:`sharpen`.

    Raises:
        ValueError: a temperature outside (0, 1], or no further decoder.
    """

    student: Any  # an nn.Module with the parts that Args names

    def __init__(
        self,
        student: Any,
        decoders: Sequence[nn.Module] | nn.ModuleList,
        supervised_loss: Callable[..., Tensor],
        loss_weights: dict[str, float],
        ramp: Callable[[float], float],
        temperature: float = 0.1,
    ) -> None:
        super().__init__(student, supervised_loss, loss_weights)
        if not 0 < temperature <= 1:
            raise ValueError(f"temperature must be in (0, 1], got {temperature}")
        if len(decoders) == 0:
            raise ValueError("decoders must hold at least one decoder beside the student's own")
        self.decoders, self.ramp, self.temperature = decoders, ramp, temperature

    def __call__(self, batch: dict[str, Any], progress: float) -> Losses:
        """Return `loss` and its parts `supervised` and `consistency`."""
        labelled, unlabelled = batch["labelled"], batch["unlabelled"]
        label = labelled["label"].squeeze(1).long()
        logits = self.predict(labelled["image"])
        supervised = _mean([self.supervised_loss(one, label, labelled["is_unlabelled"]) for one in logits])
        losses = {"loss": self.loss_weights["supervised"] * supervised, "supervised": supervised}
        ramp = self.ramp(progress)
        if unlabelled is None or ramp == 0:
            return losses
        streams = zip(logits, self.predict(unlabelled["image"]), strict=True)
        probs = [torch.cat(both).softmax(1) for both in streams]
        valid = torch.cat([label != IGNORE, label.new_ones(unlabelled["image"][:, 0].shape, dtype=torch.bool)])
        term = self.consistency(probs, valid)
        return {
            "loss": losses["loss"] + self.loss_weights["consistency"] * ramp * term,
            "supervised": supervised,
            "consistency": term,
        }

    def predict(self, image: Tensor) -> list[Tensor]:
        """Logits (B, N, H, W) of every decoder, float32, the student's own first."""
        features = self.student.encode(image)
        logits = [self.student.head(self.student.decoder(features)[-1])]
        logits += [decoder(features) for decoder in self.decoders]
        return [one[:, :, : image.shape[2], : image.shape[3]].float() for one in logits]

    def consistency(self, probs: list[Tensor], valid: Tensor) -> Tensor:
        """MSE of each decoder's probabilities (B, N, H, W) and every other's sharpened ones, over valid (B, H, W)."""
        sharpened = [sharpen(p, self.temperature) for p in probs]
        distances = [(probs[i] - sharpened[j]).square().mean(1) for i, j in permutations(range(len(probs)), 2)]
        return (_mean(distances) * valid).sum() / valid.sum().clamp_min(1)


def sharpen(probs: Tensor, temperature: float) -> Tensor:
    """Temperature sharpening p^(1/T) / ( p^(1/T) + (1 - p)^(1/T) ) of each class; they no longer sum to 1."""
    yes, no = probs ** (1 / temperature), (1 - probs) ** (1 / temperature)
    return yes / (yes + no)


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean(0)
