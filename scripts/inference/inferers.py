"""Inferers: a 2D network on the slices of a whole volume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.inferers import Inferer, SliceInferer
from torch import Tensor, nn

from ..ops.batch_norm import normalised_by
from ..ops.otsu import otsu_thresholds
from ..ops.prompt_map import average_slices, upsample
from ..ops.shift_tta import least_doubtful


class VolumeInferer(Inferer):
    """Run a 2D network on the slices (S, 1, H, W) of a volume, `chunk` at a time, so that memory does not grow with S.

    Args:
        chunk: slices that go through the network at a time.
        statistics: whose statistics batch normalisation uses, see `scripts.ops.batch_norm`.
    """

    def __init__(self, chunk: int = 32, statistics: str = "running") -> None:
        super().__init__()
        self.chunk, self.statistics = chunk, statistics

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Return the network's output for all slices, (S, N, H, W)."""
        with normalised_by(network, self.statistics):
            return torch.cat([network(part) for part in inputs.split(self.chunk)])


class DisplacedInferer(VolumeInferer):
    """Run a 2D network on a volume moved along head-foot, and mix its predictions by how little it doubts.

    Args:
        labelled: ids of the classes that the training labels contain.
        reach: furthest displacement, a fraction of the height; 0 for none.
        places: displacements on either side.
        spread: see `scripts.ops.shift_tta.least_doubtful`.
        sharpness: see `scripts.ops.shift_tta.least_doubtful`.
        chunk: see `VolumeInferer`.
        statistics: see `VolumeInferer`.
    """

    def __init__(
        self,
        labelled: Sequence[int],
        reach: float,
        places: int,
        spread: float,
        sharpness: float,
        chunk: int = 32,
        statistics: str = "volume",
    ) -> None:
        super().__init__(chunk, statistics)
        self.labelled, self.spread, self.sharpness = labelled, spread, sharpness
        self.shifts = [reach * k / places for k in range(-places, places + 1)] if reach else [0.0]

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Return the logarithm of the mixed probabilities for all slices, (S, N, H, W)."""

        def predict(slices: Tensor) -> Tensor:
            return VolumeInferer.__call__(self, slices, network).float().softmax(1)

        mixed = least_doubtful(
            predict, inputs, self.shifts, labelled=self.labelled, spread=self.spread, sharpness=self.sharpness
        )
        return mixed.clamp_min(torch.finfo(mixed.dtype).tiny).log()


class PromptMapInferer(VolumeInferer):
    """Volumes through a stage-1 network to their prompt-guided map, as stage 2 makes it, in the form of logits.

    Args:
        prompt_map: (maps (S, N, H, W), thresholds (S, N)) -> class ids (S, H, W).
        chunk: see `VolumeInferer`.
        statistics: see `VolumeInferer`.
        neighbours: slices on either side that a slice's maps are averaged with.
    """

    CERTAIN = 20.0  # logit of the map's class; after a softmax nothing is left for the others

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
    """MONAI's `SliceInferer` with a choice of statistics, and with level names decoded along the spine.

    Args:
        statistics: see `scripts.ops.batch_norm`; for "volume", `sw_batch_size` should reach the number of slices.
        order: probabilities (S, N, H, W) of a volume's slices -> the same with the levels in order, see
            `scripts.ops.levels.ordering.order_predictions`; None leaves the names to the network.
        args: as `SliceInferer`.
        kwargs: as `SliceInferer`.
    """

    def __init__(
        self, *args: Any, statistics: str = "running", order: Callable[[Tensor], Tensor] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.statistics, self.order = statistics, order

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Return the network's logits for a volume (B, N, H, W, S).

        With `order` (B, 2N, H, W, S): the logits, then the logarithm of the ordered probabilities.
        """
        with normalised_by(network, self.statistics):
            logits = super().__call__(inputs, network, *args, **kwargs)
        return logits if self.order is None else beside_ordered(logits, self.order)


class KeptProbabilities(Inferer):
    """Probabilities that another program left of every case, in the place of a network's.

    Args:
        folder: holds `<case>.npz` with `probabilities` (N, S, H, W), as nnU-Net saves them.
        order: see `SlicewiseInferer`.
    """

    def __init__(self, folder: str | Path, order: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.folder, self.order = Path(folder), order

    def __call__(self, inputs: Tensor, network: nn.Module, case: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
        """Return the logarithms (1, N, H, W, S) for the slices (1, 1, H, W, S) of a case; with `order` (1, 2N, ...).

        Raises:
            ValueError: there is no file of the case, or it is of other slices.
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
        return logits if self.order is None else beside_ordered(logits, self.order)


def beside_ordered(logits: Tensor, order: Callable[[Tensor], Tensor]) -> Tensor:
    """Logits (B, N, H, W, S) -> (B, 2N, H, W, S): as they are, then the logarithm of the ordered probabilities."""
    ordered = [order(volume.float().softmax(0).movedim(-1, 0)).movedim(0, -1) for volume in logits]
    return torch.cat([logits, torch.stack(ordered).clamp_min(1e-6).log().to(logits.dtype)], 1)
