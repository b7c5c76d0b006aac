"""A training step of stage 1 through the engine against a bare loop of the same encoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from torch import Tensor

from ...ops.attention import region_targets, valid_area
from ...ops.losses import pixel_attention_loss, token_attention_loss
from ...training.step import to_device
from .pairs import Goal, missing
from .steps import Sizes, described, drawn_batch, through_engine

ENCODERS = "offline_encoders.yaml"
GOAL = Goal(
    "stage-1 step, MONAI trainer with all its handlers",
    1.0,
    "a bare loop: same encoders and augmentation, float32, 20 prompts encoded once a step, default attention",
)
GPU_GOAL = 1 / 1.5


def stage1_row(sizes: Sizes, pairs: int) -> dict[str, Any]:
    """Row: the trainer of pretrain.yaml, as configured, against the bare loop in float32.

    On a GPU the trainer has its mixed precision, and its losses differ by more.
    """
    goal = GOAL.on(sizes.device, GPU_GOAL)
    if reason := missing(sizes.device):
        return goal.not_measured(reason)
    loop = sizes.graph(ENCODERS, base="pretrain.yaml")
    batch = {"labelled": drawn_batch(loop, unlabelled=1)["labelled"], "unlabelled": None}
    reference = bare_step(loop)
    mixed = sizes.device == "cuda"
    how = {"tolerance": 0.05 if mixed else 1e-3, "amp": mixed}
    bundle, times = through_engine(sizes, "pretrain.yaml", batch, lambda: reference(batch), pairs, ENCODERS, **how)
    return goal.row(times, **described(bundle))


def bare_step(parser: ConfigParser) -> Callable[[dict[str, Any]], Tensor]:
    """One optimisation step as a script without an engine would write it; the losses are the bundle's functions."""
    get = parser.get_parsed_content
    model, optimizer, augment, device = (get(k) for k in ("network", "optimizer", "augmentation", "device"))
    weights, steps = get("loss_weights"), 0

    def step(batch: dict[str, Any]) -> Tensor:
        nonlocal steps
        steps += 1
        model.train()
        labelled = augment(to_device(batch, device), steps)["labelled"]
        tokens = {"input_ids": model.text.input_ids, "attention_mask": model.text.attention_mask}
        prompts = model.text_projection(model.text.bert(**tokens).last_hidden_state[:, 0])
        prompts = F.normalize(prompts - prompts.mean(0), dim=1)
        patches = F.normalize(model.image_projection(model.vision(labelled["image"])), dim=1)
        maps = (torch.einsum("behw,ne->bnhw", patches, prompts) * model.scale + model.bias).softmax(1)
        label, grid = labelled["label"][:, 0].long(), tuple(maps.shape[-2:])
        region, counted = region_targets(label, maps.shape[1], grid, get("target")), ~labelled["is_unlabelled"]
        token = token_attention_loss(maps, region, counted & (region.flatten(2).amax(-1) > 0))
        pixel = pixel_attention_loss(maps, region, counted, valid_area(label, grid))
        loss = weights["token"] * token + weights["pixel"] * pixel
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return step
