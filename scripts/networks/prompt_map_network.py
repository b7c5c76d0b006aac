"""A stage-1 model that answers as a segmentation network does, so that its prompt-guided map can be scored like one."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.otsu import otsu_thresholds
from ..ops.prompt_map import upsample

CERTAIN = 20.0
"""Logit of the class of the map: after a softmax nothing is left for the others."""


class PromptMapNetwork(nn.Module):
    """Slices (B, 1, H, W) -> logits (B, N, H, W) that are `CERTAIN` at the class of the prompt-guided map, 0 elsewhere.

    Args:
        model: stage-1 model, (B, 1, H, W) -> attention maps (B, N, h, w).
        prompt_map: (maps (B, N, H, W), thresholds (B, N)) -> class ids (B, H, W).
    """

    def __init__(self, model: nn.Module, prompt_map: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.prompt_map = model, prompt_map

    def forward(self, image: Tensor) -> Tensor:
        """Return logits."""
        maps = upsample(self.model(image), image.shape[-2:])
        label = self.prompt_map(maps, otsu_thresholds(maps))
        return CERTAIN * F.one_hot(label, maps.shape[1]).movedim(-1, 1).to(maps.dtype)

    def load_state_dict(self, state_dict: dict[str, Tensor], strict: bool = True, assign: bool = False) -> object:
        """Load the stage-1 weights, whose names know nothing of this shell."""
        return self.model.load_state_dict(state_dict, strict, assign)
