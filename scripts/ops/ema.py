"""Exponential moving average (EMA) of network weights, for the teacher of Mean Teacher."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BUFFER_MODES = ("batch", "average", "copy")


def warmup_decay(step: int, decay: float) -> float:
    """EMA decay with warm-up: min(1 - 1 / (step + 1), decay).

    Args:
        step: updates so far, ≥ 0; at 0 the decay is 0 and the teacher becomes a copy of the student.
        decay: final share of the teacher that is kept, in [0, 1].

    References: Tarvainen and Valpola, Mean teachers are better role models, NeurIPS 2017 (their released code).
    """
    return min(1.0 - 1.0 / (step + 1), decay)


@torch.no_grad()
def update_ema_(teacher: nn.Module, student: nn.Module, decay: float, buffers: str = "batch") -> None:
    """EMA update in place: teacher = decay · teacher + (1 - decay) · student, by value (no shared tensors).

    Args:
        teacher: network to update.
        student: network of the same architecture on the same device.
        decay: share of the teacher that is kept, in [0, 1]; 1 freezes it, 0 copies the student.
        buffers: update of buffers (running averages of batch normalisation). "batch" leaves the teacher's, for a
            teacher that normalises by batch statistics; "average" averages those of floating point and copies the
            others; "copy" copies all.

    Raises:
        ValueError: an unknown buffer mode, a decay outside [0, 1], or networks that differ in names or shapes.
    """
    if buffers not in BUFFER_MODES:
        raise ValueError(f"buffers must be one of {', '.join(BUFFER_MODES)}, got {buffers!r}")
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"decay must be in [0, 1], got {decay}")
    averaged = _pairs(dict(teacher.named_parameters()), dict(student.named_parameters()), "parameters")
    copied: list[tuple[Tensor, Tensor]] = []
    if buffers != "batch":
        pairs = _pairs(dict(teacher.named_buffers()), dict(student.named_buffers()), "buffers")
        for pair in pairs:
            (averaged if buffers == "average" and pair[0].is_floating_point() else copied).append(pair)
    if averaged:
        mine, theirs = map(list, zip(*averaged, strict=True))
        torch._foreach_lerp_(mine, theirs, 1.0 - decay)
    for own, other in copied:
        own.copy_(other)


def _pairs(teacher: dict[str, Tensor], student: dict[str, Tensor], what: str) -> list[tuple[Tensor, Tensor]]:
    """Pair the tensors of two networks by name, refusing pairs that would not fit."""
    if teacher.keys() != student.keys():
        raise ValueError(f"teacher and student differ in their {what}: {sorted(teacher.keys() ^ student.keys())}")
    for name, mine in teacher.items():
        if mine.shape != student[name].shape:
            raise ValueError(
                f"{name} must be {tuple(mine.shape)} as in the teacher, got {tuple(student[name].shape)} in the student"
            )
    return [(mine, student[name]) for name, mine in teacher.items()]
