"""Inference by an exported TorchScript network, in place of the network that was exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ...ops.batch_norm import statistics_of


class TorchScriptNetwork(nn.Module):
    """Module that runs a TorchScript file.

    The exported graph normalises either by running averages or by batch statistics. The constructor tests which,
    because a graph with the wrong statistics gives worse label maps without an error.

    Args:
        path: TorchScript file of a network (B, 1, H, W) -> (B, N, H, W).
        image_size: (H, W) of the slices.
        statistics: "running" or "volume" as required, see `scripts.ops.batch_norm`; "running" also for a network
            without batch normalisation.

    Raises:
        ValueError: the file cannot be read, or has other statistics.
    """

    def __init__(self, path: str | Path, image_size: Sequence[int], statistics: str = "running") -> None:
        super().__init__()
        try:
            self.script = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is not a TorchScript file that PyTorch can load: {error}") from error
        with torch.no_grad():
            found = statistics_of(self.script, image_size)
        if found != statistics:
            raise ValueError(
                f"{path} normalises by statistics {found!r}, the network was trained for {statistics!r}; "
                "export it as docs/exports.md says, with the network's folder as --ckpt_dir, or set --statistics"
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, N, H, W) logits."""
        logits: Tensor = self.script(x)
        return logits
