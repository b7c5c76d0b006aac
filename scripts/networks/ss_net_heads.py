"""Heads of SS-Net: projector, predictor, and class-wise attention (selectors) for features and prototypes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ClassSelectors(nn.Module):
    """A two-layer perceptron with leaky ReLU (0.2) and one output per class, for all classes in one product.

    Args:
        num_classes: N, background included.
        dim: D, of the features and of the hidden layer.
    """

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        bound = dim**-0.5  # initialisation of nn.Linear

        def draw(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(num_classes, *shape).uniform_(-bound, bound))

        self.hidden, self.hidden_bias = draw(dim, dim), draw(1, dim)
        self.score, self.score_bias = draw(dim, 1), draw(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, M, D), M features of each class -> scores (N, M)."""
        hidden = F.leaky_relu(torch.baddbmm(self.hidden_bias, x, self.hidden), 0.2)
        return torch.baddbmm(self.score_bias, hidden, self.score).squeeze(2)


class SeparationHeads(nn.Module):
    """Heads that SS-Net trains to compare decoder features with class prototypes.

    Args:
        in_channels: channels of the decoder's finest features.
        num_classes: background included.
        dim: length of a projected feature.

    References: Wu et al., SS-Net, MICCAI 2022; Alonso et al., ICCV 2021 (class-wise memory bank), for the selectors.
    """

    def __init__(self, in_channels: int = 32, num_classes: int = 20, dim: int = 32) -> None:
        super().__init__()
        self.projector = _perceptron(in_channels, dim)
        self.predictor = _perceptron(dim, dim)
        self.feature_selectors = ClassSelectors(num_classes, dim)
        self.prototype_selectors = ClassSelectors(num_classes, dim)


def _perceptron(in_channels: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_channels, dim), nn.BatchNorm1d(dim), nn.ReLU(inplace=True), nn.Linear(dim, dim))
