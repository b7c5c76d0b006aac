"""How much of what a device can do at best a training step reaches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .inference import matrix_product
from .pairs import Goal, in_turns, missing, seconds
from .steps import WARM_UP, Sizes, bare_step, drawn_batch, given_labels

KIND = {"cpu": torch.float32, "cuda": torch.bfloat16}
"""What a step computes in on each device."""
GOAL = Goal(
    "share of the matrix ceiling that a stage-2 step reaches", None, "the step; ours: its operations in matrix products"
)


def ceiling_rows(sizes: Sizes, pairs: int) -> Iterator[dict[str, Any]]:
    """Row: the time that a step's counted operations take in a matrix product, over the time that the step takes.

    The product is of square matrices in float32 on a CPU, in bfloat16 on a GPU.

    Args:
        sizes: of the step.
        pairs: measurements.
    """
    goal = GOAL.on(sizes.device)
    if reason := missing(sizes.device):
        yield goal.not_measured(reason)
        return
    parser = sizes.graph()
    batch, step, dtype = given_labels(drawn_batch(parser)), bare_step(parser), KIND[sizes.device]
    with torch.autocast(sizes.device, dtype=dtype, enabled=dtype != torch.float32):
        step(batch)
        with FlopCounterMode(display=False) as counter:
            step(batch)
        operations = counter.get_total_flops()
        a = torch.randn(2048, 2048, device=sizes.device).to(dtype)
        times = in_turns(partial(torch.mm, a, a), partial(step, batch), pairs, WARM_UP, sizes.device)
    per_product = operations / (2 * 2048**3)
    yield goal.row(
        [(per_product * product, whole) for product, whole in times],
        gflop_of_a_step=round(operations / 1e9, 2),
        matrix_product_gflop_per_s=round(matrix_product(sizes.device, dtype=dtype) / 1e9, 1),
        gb_per_s=round(bandwidth(sizes.device) / 1e9, 1),
        device=sizes.device,
    )


def bandwidth(device: str, megabytes: int = 256) -> float:
    """Bytes a second that a copy reads and writes."""
    a = torch.zeros(megabytes * 2**18, device=device)
    b = torch.empty_like(a)
    b.copy_(a)
    return 2 * 4 * a.numel() / min(seconds(lambda: b.copy_(a), device) for _ in range(3))
