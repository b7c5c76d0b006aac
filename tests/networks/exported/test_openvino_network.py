"""A network in 8-bit integers against the PyTorch one that it was made of, and the files that it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scripts.networks.exported.openvino_network import OpenVinoNetwork, quantise
from scripts.ops.batch_norm import batch_norm_statistics

from .test_volume_network import SIZE, network

for name in ("openvino", "nncf"):
    pytest.importorskip(name, reason=f"{name} is not installed (requirements-openvino.txt)")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages, about their own inside


def volume(seed: int, slices: int = 4) -> torch.Tensor:
    return torch.randn(slices, 1, *SIZE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=["running", "volume"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """File of a network, its weights, and its statistics."""
    folder, statistics = tmp_path_factory.mktemp("network"), str(request.param)
    given = network("batch_statistics" if statistics == "volume" else "batch")
    torch.save(given.state_dict(), folder / "model.pt")
    quantise(given, folder / "model.xml", [volume(k) for k in range(5)], folder / "model.pt", statistics)
    return folder / "model.xml", folder / "model.pt", statistics


class TestOpenVinoNetwork:
    @pytest.mark.parametrize("slices", [1, 2, 7])
    def test_twin(self, made: tuple[Path, Path, str], slices: int) -> None:
        """As near as eight bits come: a few per cent of the logits' spread."""
        quantised, reference, image = OpenVinoNetwork(*made), network("batch"), volume(9, slices)
        with torch.no_grad(), batch_norm_statistics(reference, made[2]):
            expected = reference(image)
        assert quantised(image).shape == expected.shape
        assert float((quantised(image) - expected).abs().mean()) < 0.05 * float(expected.std())

    def test_other_weights_are_refused(self, made: tuple[Path, Path, str], tmp_path: Path) -> None:
        (tmp_path / "model.pt").write_bytes(b"trained anew")
        with pytest.raises(ValueError, match=r"was made of other weights than .*make it again: python -m scri"):
            OpenVinoNetwork(made[0], tmp_path / "model.pt", made[2])

    def test_alone_it_is_taken(self, made: tuple[Path, Path, str], tmp_path: Path) -> None:
        OpenVinoNetwork(made[0], tmp_path / "model.pt", made[2])

    def test_other_statistics_are_refused(self, made: tuple[Path, Path, str]) -> None:
        wanted = "volume" if made[2] == "running" else "running"
        with pytest.raises(ValueError, match=f"statistics '{made[2]}', needed are '{wanted}'"):
            OpenVinoNetwork(made[0], made[1], wanted)

    def test_a_damaged_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "model.xml").write_text("nothing")
        with pytest.raises(ValueError, match="no network that OpenVINO can load"):
            OpenVinoNetwork(tmp_path / "model.xml", tmp_path / "model.pt", "volume")
