"""Batch normalisation with running averages or with batch statistics (of one volume) at inference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
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
