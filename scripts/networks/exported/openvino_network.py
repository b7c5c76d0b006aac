"""Inference by a quantised network in OpenVINO, in place of the PyTorch network."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ...files import PROGRAM, sha256
from ..resunet import ResUNet2d
from .volume_network import VolumeNetwork

NOTES = "spine"
"""Under which an OpenVINO file says of which weights and with which statistics it was made."""


class OpenVinoNetwork(nn.Module):
    """Module that runs a file of :func:`quantise` on the CPU.

    Args:
        path: `.xml` file, with its `.bin` beside it.
        weights: `model.pt` that it has to be made of; not compared where there is none.
        statistics: "running" or "volume" as required, see `scripts.ops.batch_norm`.

    Raises:
        ValueError: OpenVINO is not installed; the file cannot be read, or is of other weights or statistics.
    """

    def __init__(self, path: str | Path, weights: str | Path, statistics: str) -> None:
        super().__init__()
        with _needed_packages():
            import openvino
        again = f"make it again: {PROGRAM} quantise SCANS --ckpt_dir {Path(path).parent}"
        core = openvino.Core()
        try:
            model = core.read_model(path)
            notes = {name: model.get_rt_info([NOTES, name]).astype(str) for name in ("weights", "statistics")}
        except RuntimeError as error:
            raise ValueError(f"{path} is no network that OpenVINO can load, or not of this bundle; {again}") from error
        if Path(weights).is_file() and sha256(Path(weights)) != notes["weights"]:
            raise ValueError(f"{path} was made of other weights than {weights}; {again}")
        if statistics != notes["statistics"]:
            raise ValueError(
                f"{path} normalises by statistics {notes['statistics']!r}, needed are {statistics!r}; {again}"
            )
        threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
        self.compiled = core.compile_model(model, "CPU", threads)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, N, H, W) logits, on the device of `x`."""
        volume = x.detach().cpu().float().movedim(0, 1)[None].contiguous().numpy()
        return torch.from_numpy(self.compiled(volume)[0])[0].movedim(0, 1).to(x.device)


def quantise(network: ResUNet2d, path: Path, volumes: Iterable[Tensor], weights: Path, statistics: str) -> None:
    """Write a network with 8-bit integer weights and activations, calibrated on some volumes.

    Args:
        network: with the statistics written out, see `VolumeNetwork`.
        path: `.xml` file to write, with a `.bin` beside it.
        volumes: (S, 1, H, W) z-scored slices each, all of one H and W.
        weights: file that the network was read from.
        statistics: of the network, "running" or "volume".

    Raises:
        ValueError: OpenVINO or NNCF is not installed; the network is normalised otherwise.

    References: B. Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only
    inference, CVPR 2018; as NNCF's post-training quantisation does it.
    """
    with _needed_packages():
        import nncf
        import openvino
    samples = [volume.movedim(0, 1)[None].contiguous().numpy() for volume in volumes]
    size = samples[0].shape[-2:]
    model = openvino.convert_model(
        VolumeNetwork(network), example_input=torch.zeros(1, 1, 2, *size), input=[1, 1, -1, *size]
    )
    model = nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples))
    for name, value in {"weights": sha256(weights), "statistics": statistics}.items():
        model.set_rt_info(value, [NOTES, name])
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".quantise-") as made:
        openvino.save_model(model, Path(made, path.name))
        path.unlink(missing_ok=True)  # killed here, there is no network to load, and never one with another's weights
        for file in (path.with_suffix(".bin"), path):
            Path(made, file.name).replace(file)


@contextmanager
def _needed_packages() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is not installed; pip install -r requirements-openvino.txt") from error
