"""A network that was exported to ONNX, in the place of the PyTorch one: tensors in, tensors out, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


class OnnxNetwork(nn.Module):
    """Runs an ONNX file on the CPU; it has no weights that PyTorch knows of.

    A graph is of one mode: it normalises by running averages or by the batch at hand, whichever it was exported with.
    Which of the two it does is tried out here, since the wrong one gives label maps, only worse ones.

    Args:
        path: the file; one input (B, 1, H, W), any B, one output.
        image_size: (H, W) of the slices that it will get.
        statistics: what normalisation has to use, see `scripts.ops.batch_norm`; "running" also for a network without
            batch normalisation.

    Raises:
        ValueError: ONNX Runtime is not installed; the file cannot be read, was exported for other slices or for a fixed
            number of them, or with other statistics.
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
        found = self._statistics(image_size)
        if found != statistics:
            raise ValueError(
                f"{path} normalises by statistics {found!r}, the network was trained for {statistics!r}; "
                "export it with configs/inference_onnx.yaml behind configs/inference.yaml, or set --statistics"
            )

    def _statistics(self, image_size: Sequence[int]) -> str:
        """The word "volume" if the result of a slice depends on its neighbours in the batch, else "running"."""
        noise = np.random.default_rng(0).standard_normal((2, 1, *image_size)).astype(np.float32)
        noise[1] *= 3
        alone, beside = (self.session.run(None, {self.name: batch})[0][0] for batch in (noise[:1], noise))
        return "running" if np.allclose(alone, beside, rtol=1e-3, atol=1e-3) else "volume"

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, N, H, W) logits, on the device of `x`."""
        image = np.ascontiguousarray(x.detach().cpu().float().numpy())
        return torch.from_numpy(self.session.run(None, {self.name: image})[0]).to(x.device)
