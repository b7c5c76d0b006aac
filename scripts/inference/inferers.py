"""Inferers that run a 2D network on all slices of a volume, with test-time augmentation or level decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.inferers import Inferer, SliceInferer
from torch import Tensor, nn

from ..ops.batch_norm import batch_norm_statistics
from ..ops.otsu import otsu_thresholds
from ..ops.prompt_map import average_slices, upsample
from ..ops.shift_tta import entropy_weighted_tta


class VolumeInferer(Inferer):
    """Run a 2D network on the slices (S, 1, H, W) of a volume in batches, so that memory does not grow with S.

    Args:
        chunk: slices in a batch.
        statistics: "running" averages or those of the "volume", for batch normalisation; see `scripts.ops.batch_norm`.
    """

    def __init__(self, chunk: int = 32, statistics: str = "running") -> None:
        super().__init__()
        self.chunk, self.statistics = chunk, statistics

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Return the logits of all slices, (S, N, H, W)."""
        with batch_norm_statistics(network, self.statistics):
            return torch.cat([network(part) for part in inputs.split(self.chunk)])


class ShiftTTAInferer(VolumeInferer):
    """Test-time augmentation: run a 2D network on a volume shifted along head-foot, average weighted by entropy.

    Args:
        labelled: ids of the classes in the training labels.
        max_shift: largest shift, a fraction of the height in [0, 1); 0 for no augmentation.
        shifts_per_side: number of shifts up, and as many down, evenly spaced.
        shift_std: see `scripts.ops.shift_tta.entropy_weighted_tta`.
        entropy_weight: see `scripts.ops.shift_tta.entropy_weighted_tta`.
        chunk: see `VolumeInferer`.
        statistics: see `VolumeInferer`.
    """

    def __init__(
        self,
        labelled: Sequence[int],
        max_shift: float,
        shifts_per_side: int,
        shift_std: float,
        entropy_weight: float,
        chunk: int = 32,
        statistics: str = "volume",
    ) -> None:
        super().__init__(chunk, statistics)
        self.labelled, self.shift_std, self.entropy_weight = labelled, shift_std, entropy_weight
        steps = range(-shifts_per_side, shifts_per_side + 1)
        self.shifts = [max_shift * k / shifts_per_side for k in steps] if max_shift else [0.0]

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Return the log-probabilities of all slices, (S, N, H, W)."""

        def predict(slices: Tensor) -> Tensor:
            return VolumeInferer.__call__(self, slices, network).float().softmax(1)

        mixed = entropy_weighted_tta(
            predict,
            inputs,
            self.shifts,
            labelled=self.labelled,
            shift_std=self.shift_std,
            entropy_weight=self.entropy_weight,
        )
        return mixed.clamp_min(torch.finfo(mixed.dtype).tiny).log()


class PromptMapInferer(VolumeInferer):
    """Prompt-guided map of a volume by a stage-1 network, as stage 2 makes it, in the form of logits.

    Args:
        prompt_map: (maps (S, N, H, W), thresholds (S, N)) -> class ids (S, H, W).
        chunk: see `VolumeInferer`.
        statistics: see `VolumeInferer`.
        neighbours: slices on either side over which attention maps are averaged.
    """

    CERTAIN = 20.0  # logit of the map's class; its softmax probability is 1 up to rounding

    def __init__(
        self,
        prompt_map: Callable[[Tensor, Tensor], Tensor],
        chunk: int = 32,
        statistics: str = "running",
        neighbours: int = 0,
    ) -> None:
        super().__init__(chunk, statistics)
        self.prompt_map, self.neighbours = prompt_map, neighbours

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """(S, 1, H, W) -> (S, N, H, W), or (1, 1, H, W, S) -> (1, N, H, W, S): `CERTAIN` at the map's class, else 0."""
        if inputs.ndim == 5:
            return self(inputs[0].movedim(-1, 0), network).movedim(0, -1)[None]
        maps = average_slices(super().__call__(inputs, network), self.neighbours)
        maps = upsample(maps, inputs.shape[-2:])
        label = self.prompt_map(maps, otsu_thresholds(maps))
        return self.CERTAIN * F.one_hot(label, maps.shape[1]).movedim(-1, 1).to(maps.dtype)


class SlicewiseInferer(SliceInferer):
    """MONAI's `SliceInferer` with a choice of batch statistics, and with levels decoded in anatomical order.

    Args:
        statistics: see `scripts.ops.batch_norm`; for "volume", `sw_batch_size` should reach the number of slices.
        order: probabilities (S, N, H, W) of a volume's slices -> the same with levels in anatomical order, see
            `scripts.ops.levels.ordering.order_predictions`; None for no decoding.
        args: as `SliceInferer`.
        kwargs: as `SliceInferer`.
    """

    def __init__(
        self, *args: Any, statistics: str = "running", order: Callable[[Tensor], Tensor] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.statistics, self.order = statistics, order

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Return logits (B, N, H, W, S); with `order` (B, 2N, H, W, S), logits and decoded log-probabilities."""
        with batch_norm_statistics(network, self.statistics):
            logits = super().__call__(inputs, network, *args, **kwargs)
        return logits if self.order is None else append_decoded(logits, self.order)


class SavedProbabilities(Inferer):
    """Read the probabilities that another program (nnU-Net) saved of every case, in place of running a network.

    Args:
        folder: holds `<case>.npz` with `probabilities` (N, S, H, W), as nnU-Net saves them.
        order: see `SlicewiseInferer`.
    """

    def __init__(self, folder: str | Path, order: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.folder, self.order = Path(folder), order

    def __call__(self, inputs: Tensor, network: nn.Module, case: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
        """Return log-probabilities (1, N, H, W, S) for the slices (1, 1, H, W, S) of a case; with `order` (1, 2N, ...).

        Raises:
            ValueError: the file is missing, or of another shape.
        """
        path = self.folder / f"{case[0].replace('/', '_')}.npz"
        if not path.is_file():
            raise ValueError(f"there are no probabilities {path}; predict this case first")
        with np.load(path) as file:
            kept = torch.from_numpy(file["probabilities"]).float().movedim(1, -1)[None]  # (1, N, H, W, S)
        if kept.shape[2:] != inputs.shape[2:]:
            raise ValueError(
                f"{path}: the probabilities must be of {tuple(inputs.shape[2:])} pixels (H, W, S), got "
                f"{tuple(kept.shape[2:])}; predict the case anew"
            )
        logits = kept.to(inputs.device).clamp_min(1e-6).log()
        return logits if self.order is None else append_decoded(logits, self.order)


def append_decoded(logits: Tensor, order: Callable[[Tensor], Tensor]) -> Tensor:
    """Logits (B, N, H, W, S) -> (B, 2N, H, W, S): logits, then the decoded log-probabilities."""
    ordered = [order(volume.float().softmax(0).movedim(-1, 0)).movedim(0, -1) for volume in logits]
    return torch.cat([logits, torch.stack(ordered).clamp_min(1e-6).log().to(logits.dtype)], 1)
