"""The TorchScript network against the network that it was exported from, and the files that it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scripts.networks.exported.torchscript_network import TorchScriptNetwork
from scripts.networks.resunet import ResUNet2d
from scripts.ops.batch_norm import batch_norm_statistics

SIZE = (32, 16)
NORM = {"running": "batch", "volume": "batch_statistics"}


def network(norm: str) -> ResUNet2d:
    """Two levels with running averages that say something."""
    torch.manual_seed(0)
    made = ResUNet2d(out_channels=5, channels=(4, 8), norm="batch")
    made(3 + 2 * torch.randn(4, 1, *SIZE))
    other = ResUNet2d(out_channels=5, channels=(4, 8), norm=norm)
    other.load_state_dict(made.state_dict())
    return other.eval()


@pytest.fixture(params=list(NORM))
def statistics(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def file(statistics: str, tmp_path: Path) -> Path:
    torch.jit.script(network(NORM[statistics])).save(tmp_path / "model.ts")
    return tmp_path / "model.ts"


class TestTorchScriptNetwork:
    @pytest.mark.parametrize("slices", [1, 2, 7])
    def test_twin(self, file: Path, statistics: str, slices: int) -> None:
        exported, reference = TorchScriptNetwork(file, SIZE, statistics), network("batch")
        image = torch.randn(slices, 1, *SIZE)
        with torch.no_grad(), batch_norm_statistics(reference, statistics):
            torch.testing.assert_close(exported(image), reference(image))

    def test_other_statistics_are_refused(self, file: Path, statistics: str) -> None:
        (wanted,) = set(NORM) - {statistics}
        with pytest.raises(ValueError, match=f"statistics '{statistics}', the network was trained for '{wanted}'"):
            TorchScriptNetwork(file, SIZE, wanted)

    def test_a_damaged_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "model.ts").write_bytes(b"nothing")
        with pytest.raises(ValueError, match="not a TorchScript file that PyTorch can load"):
            TorchScriptNetwork(tmp_path / "model.ts", SIZE)
