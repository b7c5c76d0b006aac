"""The segmentation network with a volume's slices along a third axis, the form in which engines quantise it well."""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from ..resunet import BatchStatisticsNorm2d, ResUNet2d


class VolumeNetwork(nn.Module):
    """A `ResUNet2d` as a 3D network whose kernels are one slice deep: same weights, same logits.

    Batch normalisation by the volume's statistics is then instance normalisation, one operation that inference engines
    have in low precision; written out over a batch of slices it is seven, and takes longer than the convolutions.

    Args:
        network: with `norm` "batch" (running averages) or "batch_statistics" (of the volume); it is copied.

    Raises:
        ValueError: the network is normalised in another way.
    """

    def __init__(self, network: ResUNet2d) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        for name, layer in list(self.network.named_modules()):
            if name:
                parent, _, own_name = name.rpartition(".")
                setattr(self.network.get_submodule(parent), own_name, _with_slices(layer))

    def forward(self, volume: Tensor) -> Tensor:
        """(1, 1, S, H, W), H and W multiples of 2^(levels-1) -> logits (1, N, S, H, W)."""
        logits: Tensor = self.network.head(self.network.decoder(self.network.encoder(volume))[-1])
        return logits


class _InstanceNorm(nn.Module):
    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


def _with_slices(layer: nn.Module) -> nn.Module:
    """A layer for (1, C, S, H, W) that does to each slice what the given one does to it; no dropout."""
    made: nn.Module
    if isinstance(layer, BatchStatisticsNorm2d):
        return _InstanceNorm(layer)
    if isinstance(layer, nn.BatchNorm2d):
        made = nn.BatchNorm3d(layer.num_features, layer.eps)
        made.load_state_dict(layer.state_dict())
    elif isinstance(layer, nn.GroupNorm | nn.InstanceNorm2d):
        raise ValueError(f"a network normalised by {type(layer).__name__} cannot have its slices as depth")
    elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        channels, size, padding = (layer.in_channels, layer.out_channels), (1, *layer.kernel_size), (0, *layer.padding)
        if isinstance(layer, nn.ConvTranspose2d):
            more = {"stride": (1, *layer.stride), "output_padding": (0, *layer.output_padding)}
            made = nn.ConvTranspose3d(*channels, size, padding=padding, bias=False, **more)  # type: ignore[arg-type]
        else:
            made = nn.Conv3d(*channels, size, padding=padding, bias=False)  # type: ignore[arg-type]
        made.weight, made.bias = nn.Parameter(layer.weight[:, :, None].detach()), layer.bias
    elif isinstance(layer, nn.MaxPool2d):
        made = nn.MaxPool3d((1, 2, 2))
    elif isinstance(layer, nn.Dropout2d):
        made = nn.Identity()
    else:
        return layer
    return made.eval()
