"""The 3D form of the segmentation network against the 2D network that it was made of."""

from __future__ import annotations

import pytest
import torch

from scripts.networks.exported.volume_network import VolumeNetwork
from scripts.networks.resunet import ResUNet2d
from scripts.ops.batch_norm import batch_norm_statistics

SIZE = (32, 16)


def network(norm: str) -> ResUNet2d:
    """Two levels with running averages, weights and biases of normalisation that say something."""
    torch.manual_seed(0)
    made = ResUNet2d(out_channels=5, channels=(4, 8), norm=norm, dropout=0.5)
    for name, parameter in made.named_parameters():
        if name.endswith("bias") or parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    made(3 + 2 * torch.randn(4, 1, *SIZE))
    return made.eval()


class TestVolumeNetwork:
    @pytest.mark.parametrize("slices", [1, 5])
    @pytest.mark.parametrize(("norm", "statistics"), [("batch", "running"), ("batch_statistics", "volume")])
    def test_twin(self, norm: str, statistics: str, slices: int) -> None:
        reference, image = network("batch"), 1 + 3 * torch.randn(slices, 1, *SIZE)
        with torch.no_grad(), batch_norm_statistics(reference, statistics):
            logits = VolumeNetwork(network(norm))(image.movedim(0, 1)[None])[0].movedim(0, 1)
            torch.testing.assert_close(logits, reference(image), rtol=1e-4, atol=1e-4)

    def test_the_given_network_stays_as_it_is(self) -> None:
        given, image = network("batch"), torch.randn(2, 1, *SIZE)
        before = given(image)
        VolumeNetwork(given)
        assert torch.equal(given(image), before)

    @pytest.mark.parametrize("norm", ["group", "instance"])
    def test_normalised_slice_by_slice(self, norm: str) -> None:
        with pytest.raises(ValueError, match="cannot have its slices as depth"):
            VolumeNetwork(network(norm))
