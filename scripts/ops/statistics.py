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
    before = [(m.training, m.track_running_stats) for m in layers]
    for layer in layers:
        # In training mode without tracking, a layer uses the batch and leaves its averages alone.
        layer.training, layer.track_running_stats = True, False
    try:
        yield
    finally:
        for layer, (training, tracking) in zip(layers, before, strict=True):
            layer.training, layer.track_running_stats = training, tracking
