"""Batch normalisation with running averages or with batch statistics (of one volume) at inference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

STATISTICS = ("running", "volume")


@contextmanager
def batch_norm_statistics(network: nn.Module, statistics: str) -> Iterator[None]:
    """Context in which batch normalisation of `network` uses these statistics; running averages are not updated.

    Args:
        network: any module; without batch normalisation it is not changed.
        statistics: "running" changes nothing; "volume" normalises by the batch, which should hold the slices of one
            volume. This is test-time adaptation to the contrast of a scan, useful with few labelled volumes.

    Raises:
        ValueError: unknown statistics.
    """
    if statistics not in STATISTICS:
        raise ValueError(f"statistics must be one of {', '.join(STATISTICS)}, got {statistics!r}")
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm)] if statistics == "volume" else []
    before = [(m.training, m.running_mean, m.running_var) for m in layers]
    for layer in layers:
        # In evaluation mode without running averages a layer uses batch statistics. In training mode a `SyncBatchNorm`
        # would wait for the other processes, which run other volumes or none.
        layer.training, layer.running_mean, layer.running_var = False, None, None
    try:
        yield
    finally:
        for layer, (training, mean, var) in zip(layers, before, strict=True):
            layer.training, layer.running_mean, layer.running_var = training, mean, var


def statistics_of(network: Callable[[Tensor], Tensor], image_size: Sequence[int]) -> str:
    """Find out by which statistics a network normalises, of which no more than its function is known (an export).

    Args:
        network: (B, 1, H, W) -> (B, N, H, W).
        image_size: (H, W).

    Returns:
        "volume" if the output of a slice depends on the other slices of the batch, else "running".
    """
    noise = torch.randn(2, 1, *image_size, generator=torch.Generator().manual_seed(0))
    noise[1] *= 3
    alone, beside = (network(batch)[0] for batch in (noise[:1], noise))
    return "running" if torch.allclose(alone, beside, rtol=1e-3, atol=1e-3) else "volume"
