"""Whose statistics batch normalisation uses: the running averages of the training, or those of the slices at hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

STATISTICS = ("running", "volume")


@contextmanager
def normalised_by(network: nn.Module, statistics: str) -> Iterator[None]:
    """Within this context, batch normalisation of `network` uses these statistics; its running averages stay.

    Args:
        network: any module; one without batch normalisation is left alone.
        statistics: "running" changes nothing; "volume" uses the batch that passes through, which should then hold the
            slices of one volume. With few labelled volumes this bridges differences of contrast between scans.

    Raises:
        ValueError: unknown statistics.
    """
    if statistics not in STATISTICS:
        raise ValueError(f"statistics must be one of {', '.join(STATISTICS)}, got {statistics!r}")
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm)] if statistics == "volume" else []
    before = [(m.training, m.running_mean, m.running_var) for m in layers]
    for layer in layers:
        # In evaluation mode without averages, a layer uses its batch. In training mode a `SyncBatchNorm` would wait for
        # the other processes, which are at other volumes or have none.
        layer.training, layer.running_mean, layer.running_var = False, None, None
    try:
        yield
    finally:
        for layer, (training, mean, var) in zip(layers, before, strict=True):
            layer.training, layer.running_mean, layer.running_var = training, mean, var
