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

NEVER = -1e4
"""Logit of a class that cannot be; its probability is 0, in half precision too."""


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
    """MONAI's `SliceInferer` that finds the spine in the plane, with a choice of batch statistics and decoded levels.

    The window slides along the height. A volume that is wider than the window is cut to it front to back around the
    spine: where a coarse pass finds the most foreground, then centred on what the network finds there until that stays;
    the two windows with the centre between theirs are averaged by their distance from it.
    Grey values are normalised in the window, so that what lies in front or behind changes neither them nor the batch
    statistics; outside, all is background.

    Args:
        statistics: see `scripts.ops.batch_norm`; for "volume", `sw_batch_size` should reach the number of slices.
        orders: each probabilities (S, N, H, W) of a volume's slices -> the same with levels in anatomical order, as
            `scripts.ops.levels.ordering.order_predictions` or `scripts.ops.levels.naming.ChainNaming`.
        labelled: ids of the classes that training labels contained; None for all. A network that never saw a label of
            the others tells them from background by chance alone: their scores are added to the background's.
        args: as `SliceInferer`; `spatial_dim` is 2.
        kwargs: as `SliceInferer`.
    """

    COARSE_SLICES, STEPS = 8, 8
    OUTSIDE = 20.0  # logit of the background outside of the window, where all others are 0

    def __init__(
        self,
        *args: Any,
        statistics: str = "running",
        orders: Sequence[Callable[[Tensor], Tensor]] = (),
        labelled: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.statistics, self.orders, self.labelled = statistics, orders, labelled
        self.width = int(self.roi_size[1])

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Return logits (B, N, H, W, S), and behind them N log-probabilities of each of the `orders`."""
        slide = super().__call__

        def run(volume: Tensor) -> Any:
            return _unlabelled_as_background(slide(volume, network, *args, **kwargs), self.labelled)

        with batch_norm_statistics(network, self.statistics):
            if inputs.shape[3] <= self.width:
                return self._decoded(run(inputs))
            return torch.cat([self._around_spine(volume, run) for volume in inputs.split(1)])

    def _decoded(self, logits: Tensor) -> Tensor:
        return append_decoded(logits, self.orders)

    def _around_spine(self, volume: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        """Result (1, N and more, H, W, S) for a volume (1, 1, H, W, S) that is wider than the window."""
        columns = torch.arange(self.width, device=volume.device)
        last = volume.shape[3] - self.width

        def look(start: int) -> tuple[Tensor, float]:
            """Logits of a window, and how many columns the spine lies behind its centre."""
            part = volume[:, :, :, start : start + self.width]
            logits = run((part - part.mean()) / part.std().clamp_min(1e-6))  # grey values without what lies outside
            found = _foreground(logits)
            centre = float((found * columns).sum() / found.sum().clamp_min(1e-9))
            return logits, centre - (self.width - 1) / 2

        start, seen = self._coarse_start(volume, run), dict[int, tuple[Tensor, float]]()
        while start not in seen and len(seen) < self.STEPS:
            seen[start], at = look(start), start
            start = min(max(round(at + seen[at][1]), 0), last)
        # The two windows with the centre between theirs: which of them comes first hangs on where the search began.
        other = min(max(at + (1 if seen[at][1] > 0 else -1), 0), last)
        if other not in seen:
            seen[other] = look(other)
        front, back = sorted((at, other))
        off_front, off_back = seen[front][1], seen[back][1]
        share = min(max(off_front / (off_front - off_back), 0.0), 1.0) if off_front > off_back else float(at == back)
        logits = seen[front][0]
        both = logits.new_zeros(*logits.shape[:3], self.width + back - front, logits.shape[4])
        for begin, weight in ((front, 1 - share), (back, share)):
            one = torch.zeros_like(both)
            one[:, 0] = self.OUTSIDE
            one[:, :, :, begin - front : begin - front + self.width] = seen[begin][0]
            both += weight * one
        inside = self._decoded(both)
        whole = inside.new_zeros(*inside.shape[:3], volume.shape[3], inside.shape[4])
        whole[:, :: logits.shape[1]] = self.OUTSIDE
        whole[:, :, :, front : front + both.shape[3]] = inside
        return whole

    def _coarse_start(self, volume: Tensor, run: Callable[[Tensor], Tensor]) -> int:
        """First column of the window with the most foreground, the middle weighted more; half windows, a few slices."""
        few = volume[..., :: -(-volume.shape[-1] // self.COARSE_SLICES)]
        last = volume.shape[3] - self.width
        total, count = torch.zeros(2, volume.shape[3], device=volume.device)
        for start in sorted({*range(0, last, max(self.width // 2, 1)), last}):
            part = slice(start, start + self.width)
            total[part] += _foreground(run(few[:, :, :, part]))
            count[part] += 1
        weight = torch.hann_window(self.width + 2, periodic=False, device=total.device)[1:-1]
        return int(F.conv1d((total / count)[None, None], weight[None, None]).argmax())


def _unlabelled_as_background(logits: Tensor, labelled: Sequence[int] | None) -> Tensor:
    """Logits (B, N, ...) with the scores of the classes that are not labelled added to those of the background."""
    never = sorted(set(range(1, logits.shape[1])) - set(range(logits.shape[1]) if labelled is None else labelled))
    if not never:
        return logits
    merged = logits.clone()
    merged[:, 0] = logits[:, [0, *never]].float().logsumexp(1).to(logits.dtype)
    merged[:, never] = NEVER
    return merged


def _foreground(logits: Tensor) -> Tensor:
    """Amount of foreground in every column: (1, N, H, W, S) -> (W,)."""
    return (1 - logits[0].float().softmax(0)[0]).sum((0, 2))


class SavedProbabilities(Inferer):
    """Read the probabilities that another program (nnU-Net) saved of every case, in place of running a network.

    Args:
        folder: holds `<case>.npz` with `probabilities` (N, S, H, W), as nnU-Net saves them.
        orders: see `SlicewiseInferer`.
    """

    def __init__(self, folder: str | Path, orders: Sequence[Callable[[Tensor], Tensor]] = ()) -> None:
        super().__init__()
        self.folder, self.orders = Path(folder), orders

    def __call__(self, inputs: Tensor, network: nn.Module, case: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
        """Return log-probabilities (1, N, H, W, S) for the slices (1, 1, H, W, S) of a case; and those of the `orders`.

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
        return append_decoded(logits, self.orders)


def append_decoded(logits: Tensor, orders: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    """Logits (B, N, H, W, S) -> (B, (1 + len(orders)) N, H, W, S): logits, then log-probabilities by each order."""
    if not orders:
        return logits
    probs = logits.float().softmax(1).movedim(-1, 1)  # (B, S, N, H, W)
    ordered = [torch.stack([order(volume) for volume in probs]).movedim(1, -1) for order in orders]
    return torch.cat([logits, *(of.clamp_min(1e-6).log().to(logits.dtype) for of in ordered)], 1)
