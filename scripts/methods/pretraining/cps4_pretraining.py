"""CPS4, stage 1: vision-language pretraining that aligns the attention map of each class prompt with its mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ...ops.attention import region_targets, valid_area
from ...ops.losses import pixel_attention_loss, token_attention_loss
from ..base import Losses


class PromptPretraining:
    """Class-specific consistency constrained pretraining (the CPS4 paper, stage 1).

    L = `token` · token_attention_loss, eq. (1), + `pixel` · pixel_attention_loss, eq. (2).

    Args:
        model: (B, 1, H, W) -> attention maps (B, N, h, w) in (0, 1).
        loss_weights: has the keys `token` and `pixel`.
        target: how masks are down-scaled to the patch grid; see `scripts.ops.attention.region_targets`.
        negatives: whether absent classes enter the pixel loss with target 0; the paper's literal form uses present
            classes only.
        per_image: whether both terms are means over the classes of each image first, the paper's N, or over the classes
            of all images of the batch together.

    Unlabelled classes of a case are left out of both terms.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_weights: dict[str, float],
        target: str = "area",
        negatives: bool = True,
        per_image: bool = False,
    ) -> None:
        self.model, self.loss_weights = model, loss_weights
        self.target, self.negatives, self.per_image = target, negatives, per_image

    def __call__(self, batch: dict[str, Any], progress: float) -> Losses:
        """Return `loss` and its parts `token` and `pixel`."""
        labelled = batch["labelled"]
        attention = self.model(labelled["image"])  # (B, N, h, w)
        label = labelled["label"].squeeze(1).long()
        grid = tuple(attention.shape[-2:])
        region = region_targets(label, attention.shape[1], grid, self.target)
        labelled_classes = ~labelled["is_unlabelled"]  # (B, N)
        present = labelled_classes & (region.flatten(2).amax(-1) > 0)
        token = token_attention_loss(attention, region, present, per_image=self.per_image)
        valid = labelled_classes if self.negatives else present
        pixel = pixel_attention_loss(attention, region, valid, valid_area(label, grid), per_image=self.per_image)
        total = self.loss_weights["token"] * token + self.loss_weights["pixel"] * pixel
        return {"loss": total, "token": token, "pixel": pixel}


def parameter_groups(
    model: Any, learning_rate: float, head_lr_mult: float, heads: Sequence[nn.Module] = ()
) -> list[dict[str, Any]]:
    """Optimiser groups: encoders at `learning_rate`; projections, `heads` and new prompt vectors at a multiple."""
    new = {id(p) for p in model.text.new_parameters()}
    encoders = [p for p in (*model.vision.parameters(), *model.text.parameters()) if id(p) not in new]
    known = {id(p) for p in encoders}
    head = [p for part in (model, *heads) for p in part.parameters() if id(p) not in known]
    return [{"params": encoders, "lr": learning_rate}, {"params": head, "lr": learning_rate * head_lr_mult}]
