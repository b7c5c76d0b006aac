"""Inference by an exported ONNX network in ONNX Runtime, in place of the PyTorch network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...ops.batch_norm import statistics_of


class OnnxNetwork(nn.Module):
    """Module that runs an ONNX file on the CPU.

    The exported graph normalises either by running averages or by batch statistics. The constructor tests which,
    because a graph with the wrong statistics gives worse label maps without an error.

    Args:
        path: ONNX file with one input (B, 1, H, W), any B, and one output.
        image_size: (H, W) of the slices.
        statistics: "running" or "volume" as required, see `scripts.ops.batch_norm`; "running" also for a network
            without batch normalisation.

    Raises:
        ValueError: ONNX Runtime is not installed; the file cannot be read, or has another input shape, a fixed batch
            size or other statistics.
    """

    def __init__(self, path: str | Path, image_size: Sequence[int], statistics: str = "running") -> None:
        super().__init__()
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise ValueError("ONNX Runtime is not installed; pip install -r requirements-onnx.txt") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own errors share no class
            raise ValueError(f"{path} is not an ONNX file that ONNX Runtime can load: {error}") from error
        self.name, shape = self.session.get_inputs()[0].name, self.session.get_inputs()[0].shape
        if isinstance(shape[0], int) or list(shape[1:]) != [1, *image_size]:
            raise ValueError(
                f"{path} takes slices of shape {shape}, needed is any number of 1 x {image_size[0]} x {image_size[1]}; "
                f'export it with --input_shape "[2,1,{image_size[0]},{image_size[1]}]" and a dynamic first axis'
            )
        found = statistics_of(self, image_size)
        if found != statistics:
            raise ValueError(
                f"{path} normalises by statistics {found!r}, the network was trained for {statistics!r}; "
                "export it as docs/exports.md says, with the network's folder as --ckpt_dir, or set --statistics"
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, N, H, W) logits, on the device of `x`."""
        image = np.ascontiguousarray(x.detach().cpu().float().numpy())
        return torch.from_numpy(self.session.run(None, {self.name: image})[0]).to(x.device)
