"""The ONNX network against the PyTorch one that it was exported from, and the files that it refuses."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from scripts.networks.exported.onnx_network import OnnxNetwork
from scripts.networks.resunet import ResUNet2d
from scripts.ops.batch_norm import batch_norm_statistics

for name in ("onnxruntime", "onnx", "onnxscript"):
    pytest.importorskip(name, reason=f"{name} is not installed (requirements-onnx.txt)")
SIZE = (32, 16)


def network(norm: str) -> ResUNet2d:
    """Two levels with running averages that say something."""
    torch.manual_seed(0)
    made = ResUNet2d(out_channels=5, channels=(4, 8), norm=norm)
    made(3 + 2 * torch.randn(4, 1, *SIZE))
    return made.eval()


def export(norm: str, path: Path, slices: int = 2, dynamic: bool = True) -> Path:
    """Write an ONNX file of :func:`network`."""
    axes = {"image": {0: "slices"}, "pred": {0: "slices"}} if dynamic else None
    names = {"input_names": ["image"], "output_names": ["pred"], "dynamic_axes": axes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's exporter, about its own inside
        torch.onnx.export(network(norm), (torch.randn(slices, 1, *SIZE),), path, verbose=False, **names)
    return path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export("batch", tmp_path_factory.mktemp("running") / "model.onnx")


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export("batch_statistics", tmp_path_factory.mktemp("volume") / "model.onnx")


class TestOnnxNetwork:
    @pytest.mark.parametrize("statistics", ["running", "volume"])
    @pytest.mark.parametrize("slices", [1, 2, 7])
    def test_twin(self, statistics: str, slices: int, request: pytest.FixtureRequest) -> None:
        exported = OnnxNetwork(request.getfixturevalue(statistics), SIZE, statistics)
        image = torch.randn(slices, 1, *SIZE)
        reference = network("batch")
        with torch.no_grad(), batch_norm_statistics(reference, statistics):
            torch.testing.assert_close(exported(image), reference(image), rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize(("statistics", "wanted"), [("running", "volume"), ("volume", "running")])
    def test_other_statistics_are_refused(self, statistics: str, wanted: str, request: pytest.FixtureRequest) -> None:
        with pytest.raises(ValueError, match=f"statistics '{statistics}', the network was trained for '{wanted}'"):
            OnnxNetwork(request.getfixturevalue(statistics), SIZE, wanted)

    def test_other_slices_are_refused(self, running: Path) -> None:
        with pytest.raises(ValueError, match=r"needed is any number of 1 x 48 x 16; export it with --input_shape"):
            OnnxNetwork(running, (48, 16))

    def test_a_fixed_number_of_slices_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="dynamic first axis"):
            OnnxNetwork(export("batch", tmp_path / "model.onnx", dynamic=False), SIZE)

    def test_a_damaged_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "model.onnx").write_bytes(b"nothing")
        with pytest.raises(ValueError, match="not an ONNX file that ONNX Runtime can load"):
            OnnxNetwork(tmp_path / "model.onnx", SIZE)
