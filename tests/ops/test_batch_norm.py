from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from scripts.ops.batch_norm import batch_norm_statistics


@pytest.fixture
def network() -> nn.Module:
    """A convolution and a batch normalisation with scale, shift and averages of its own, in evaluation mode."""
    layers = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.ReLU())
    nn.init.normal_(layers[1].weight)
    nn.init.normal_(layers[1].bias)
    layers(4 * torch.randn(2, 1, 5, 5) - 2)
    return layers.eval()


@pytest.fixture
def volume() -> Tensor:
    """Slices (S, 1, H, W) of another contrast."""
    return 3 * torch.randn(6, 1, 5, 4) + 7


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


class TestNormalisedBy:
    def test_twin(self, network: nn.Module, volume: Tensor) -> None:
        convolution, layer, _ = network
        features = convolution(volume)
        mean = features.mean((0, 2, 3), keepdim=True)
        variance = (features - mean).square().mean((0, 2, 3), keepdim=True)
        scale, shift = layer.weight[:, None, None], layer.bias[:, None, None]
        expected = ((features - mean) / (variance + layer.eps).sqrt() * scale + shift).relu()
        with batch_norm_statistics(network, "volume"):
            torch.testing.assert_close(network(volume), expected)

    def test_value_running_changes_nothing(self, network: nn.Module, volume: Tensor) -> None:
        expected = network(volume)
        with batch_norm_statistics(network, "running"):
            assert torch.equal(network(volume), expected)

    def test_value_averages_and_modes_stay(self, network: nn.Module, volume: Tensor) -> None:
        network[1].train()  # as a teacher that normalises by its batch
        before = state(network)
        with batch_norm_statistics(network, "volume"):
            network(volume)
        torch.testing.assert_close(state(network), before, atol=0, rtol=0)
        assert [m.training for m in network] == [False, True, False]
        assert network[1].track_running_stats

    def test_value_restored_after_an_exception(self, network: nn.Module, volume: Tensor) -> None:
        expected = network(volume)
        with pytest.raises(KeyError, match="inside"), batch_norm_statistics(network, "volume"):
            raise KeyError("inside")
        assert torch.equal(network(volume), expected)

    def test_value_no_process_waits_for_others(self, network: nn.Module, volume: Tensor) -> None:
        with batch_norm_statistics(network, "volume"):
            expected = network(volume)
        synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(network).train()
        with batch_norm_statistics(synchronised, "volume"):
            assert not synchronised[1].training  # in training mode it would call the other processes
            torch.testing.assert_close(synchronised(volume), expected)

    def test_value_layers_without_averages(self, volume: Tensor) -> None:
        layer = nn.BatchNorm2d(1, track_running_stats=False).eval()
        expected = layer(volume)
        with batch_norm_statistics(layer, "volume"):
            assert torch.equal(layer(volume), expected)
        assert not layer.track_running_stats

    def test_value_other_normalisation(self, volume: Tensor) -> None:
        layer = nn.GroupNorm(1, 1)
        expected = layer(volume)
        with batch_norm_statistics(layer, "volume"):
            assert torch.equal(layer(volume), expected)

    def test_exception(self, network: nn.Module) -> None:
        with (
            pytest.raises(ValueError, match="statistics must be one of running, volume, got 'batch'"),
            batch_norm_statistics(network, "batch"),
        ):
            pass
