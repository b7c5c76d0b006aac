"""Inferers that run a 2D network on all slices of a volume, with test-time augmentation or level decoding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.inferers import Inferer, SliceInferer
from torch import Tensor, nn

from ..ops.batch_norm import batch_norm_statistics
from ..ops.levels.tissue import foreground_columns
from ..ops.otsu import otsu_thresholds
from ..ops.prompt_map import average_slices, upsample
from ..ops.shift_tta import entropy_weighted_tta

NEVER = -1e4
"""Logit of a class that cannot be; its probability is 0, in half precision too."""
LEAST = 1e-6
"""Probability of a class in the log-probabilities of an order."""


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

    A scan that is hardly higher than the window (`TALLER`) is seen in one, and a higher one in several that slide along
    the height. A volume that is wider than the window is cut to it front to back around the spine: in a few slices the
    window moves until what the network finds in it lies in its middle; all slices are seen there once. It begins in the
    middle of the volume, or, where that shows no spine, where a coarse pass finds the most foreground.
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

    TALLER = 1.02
    """Height of a scan in windows up to which one is enough: training, too, cuts off what exceeds it. A higher window
    than training's costs names, which networks find by the distance from its borders."""
    SEARCH_SHARE, SEARCH_SLICES, STEPS = 5, (2, 8), 12
    """One slice of so many is searched for the spine, at least and at most so many, in at most so many windows."""
    SHOWN = 0.05
    """Share of a window's pixels that a spine takes at least: a lumbar one takes a fifth of it."""
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
        self.height, self.width = int(self.roi_size[0]), int(self.roi_size[1])

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Return logits (B, N, H, W, S), and behind them N log-probabilities of each of the `orders`."""
        slide = super().__call__

        def run(volume: Tensor) -> Any:
            whole = volume.shape[2] <= self.TALLER * self.height
            logits = self._at_once(volume, network) if whole else slide(volume, network, *args, **kwargs)
            return _unlabelled_as_background(logits, self.labelled)

        with batch_norm_statistics(network, self.statistics):
            if inputs.shape[3] <= self.width:
                return self._decoded(run(inputs))
            return torch.cat([self._around_spine(volume, run) for volume in inputs.split(1)])

    def _at_once(self, volume: Tensor, network: nn.Module) -> Tensor:
        """Logits of slices in one window, cut or padded with zeros to it around the middle, as in training.

        Rows above and below the window get the logits of its border.
        """
        rows, columns = volume.shape[2:4]
        (top, down), (left, right) = (
            (missing // 2, missing - missing // 2) for missing in (self.height - rows, self.width - columns)
        )  # negative: to be cut off
        slices = F.pad(volume.movedim(-1, 1).flatten(0, 1), [left, right, top, down])
        logits = torch.cat([network(part) for part in slices.split(self.sw_batch_size)])
        logits = logits[:, :, max(top, 0) : self.height - max(down, 0), left : self.width - right]
        if rows > self.height:
            logits = F.pad(logits, [0, 0, -top, -down], mode="replicate")
        return logits.unflatten(0, (len(volume), -1)).movedim(1, -1)

    def _decoded(self, logits: Tensor) -> Tensor:
        return append_decoded(logits, self.orders)

    def _around_spine(self, volume: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        """Result (1, N and more, H, W, S) for a volume (1, 1, H, W, S) that is wider than the window."""
        slices, (least, most) = volume.shape[-1], self.SEARCH_SLICES
        count = min(slices, max(least, min(most, slices // self.SEARCH_SHARE)))
        few = volume[..., [int((k + 0.5) * slices / count) for k in range(count)]]
        start = self._centred(few, run, self._coarse_start(few, run))
        logits = run(self._window(volume, start))
        inside = self._decoded(logits)
        whole = inside.new_zeros(*inside.shape[:3], volume.shape[3], inside.shape[4])
        whole[:, :: logits.shape[1]] = self.OUTSIDE
        whole[:, :, :, start : start + self.width] = inside
        return whole

    def _window(self, volume: Tensor, start: int) -> Tensor:
        """Columns of a volume from `start` on, with grey values normalised without what lies outside."""
        part = volume[:, :, :, start : start + self.width]
        return (part - part.mean()) / part.std().clamp_min(1e-6)

    def _shows_spine(self, found: Tensor, rows: int) -> bool:
        """Whether the foreground (W,) of a window, of so many rows, is that of a spine in its middle half.

        Tissue that batch normalisation by the window alone makes look like one is strewn over all columns.
        """
        behind, spread = _off_centre(found)
        enough = bool(found.sum() >= self.SHOWN * rows * self.width)
        return enough and abs(behind) <= self.width / 4 and spread <= self.width / 6

    def _centred(self, few: Tensor, run: Callable[[Tensor], Tensor], start: int) -> int:
        """First column of the window in whose middle the foreground lies, wherever the search starts."""
        last, off = few.shape[3] - self.width, dict[int, float]()
        while start not in off and len(off) < self.STEPS:
            behind, _ = _off_centre(_foreground(run(self._window(few, start))))
            off[start] = abs(behind)
            # By a pixel at least, until the centre lies between two windows: both are then known, from either side.
            start = min(max(start + (round(behind) or (1 if behind > 0 else -1)), 0), last)
        return min(off, key=lambda at: off[at])

    def _coarse_start(self, few: Tensor, run: Callable[[Tensor], Tensor]) -> int:
        """First column of the window around the spine of the middle window, or of that with the most foreground.

        Where the middle shows no spine, windows that overlap by a third are searched; their middle is weighted more.
        """

        def foreground(start: int) -> Tensor:
            return _foreground(run(few[:, :, :, start : start + self.width]))

        last = few.shape[3] - self.width
        found = foreground(last // 2)
        if self._shows_spine(found, few.shape[2] * few.shape[4]):
            return min(max(last // 2 + round(_off_centre(found)[0]), 0), last)
        total, count = torch.zeros(2, few.shape[3], device=few.device)
        steps = -(-last // max(2 * self.width // 3, 1))
        for start in [last * step // steps for step in range(steps + 1)]:
            part = slice(start, start + self.width)
            total[part] += foreground(start)
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


def _off_centre(found: Tensor) -> tuple[float, float]:
    """Columns by which the centre of the foreground (W,) lies behind the window's middle; its standard deviation."""
    columns = torch.arange(len(found), device=found.device) - (len(found) - 1) / 2
    share = found / found.sum().clamp_min(1e-9)
    centre = (share * columns).sum()
    return float(centre), float((share * (columns - centre) ** 2).sum().sqrt())


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
    volumes = logits.float().movedim(-1, 1)  # (B, S, N, H, W)
    ordered = [torch.stack([_ordered(volume, order) for volume in volumes]).movedim(1, -1) for order in orders]
    return torch.cat([logits, *(of.to(logits.dtype) for of in ordered)], 1)


def _ordered(logits: Tensor, order: Callable[[Tensor], Tensor]) -> Tensor:
    """Log-probabilities (S, N, H, W) by an order, which sees the columns with foreground alone."""
    spine = foreground_columns(logits)
    log_probs = torch.full_like(logits, math.log(LEAST))
    log_probs[:, 0] = 0.0
    log_probs[..., spine] = order(logits[..., spine].softmax(1)).clamp_min(LEAST).log()
    return log_probs
