"""OTSU's thresholds of many maps at once against scikit-image, one map after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from skimage.filters import threshold_otsu
from torch import Tensor

from ...ops.otsu import otsu_thresholds
from ...ops.prompt_map import upsample
from .pairs import Goal, in_turns

COARSE = 16
"""Side of the grid that the smooth maps are up-sampled from, as attention maps are."""


def otsu_rows(count: int, sides: Sequence[int], pairs: int, seed: int) -> Iterator[dict[str, Any]]:
    """A row for each side of the maps, on one CPU core and on the GPU, if there is one.

    Args:
        count: maps at a time.
        sides: height, and width, of the maps in pixels.
        pairs: measurements of each.
        seed: of the maps.

    Raises:
        RuntimeError: the thresholds of the two differ.
    """
    threads = torch.get_num_threads()
    for side in sides:
        for device in ("cpu", "cuda"):
            goal = Goal(
                f"OTSU of {count} maps of {side}x{side}, {'one CPU core' if device == 'cpu' else 'GPU'}",
                1.0,
                "skimage.filters.threshold_otsu on one CPU core, map by map",
            )
            if device == "cuda" and not torch.cuda.is_available():
                yield goal.not_measured("this machine has no CUDA device")
                continue
            torch.set_num_threads(1)
            try:
                yield _row(goal, smooth_maps(count, side, seed), device, pairs)
            finally:
                torch.set_num_threads(threads)


def smooth_maps(count: int, side: int, seed: int) -> Tensor:
    """Maps (count, side, side) in (0, 1), smooth as up-sampled attention maps are."""
    generator = torch.Generator().manual_seed(seed)
    return upsample(torch.rand(1, count, COARSE, COARSE, generator=generator), (side, side))[0]


def _row(goal: Goal, maps: Tensor, device: str, pairs: int) -> dict[str, Any]:
    arrays, placed = list(maps.numpy()), maps.to(device)
    theirs = torch.tensor([threshold_otsu(array) for array in arrays])
    mine = otsu_thresholds(placed).cpu().double()
    bins = (maps.amax((1, 2)) - maps.amin((1, 2))).double() / 256
    other = ((mine - theirs).abs() > 0.01 * bins).double().mean()  # near ties
    if device == "cpu" and other > 0.01:
        raise RuntimeError("the thresholds must be those of scikit-image; a ratio of different results says nothing")
    times = in_turns(lambda: otsu_thresholds(placed), lambda: [threshold_otsu(a) for a in arrays], pairs, 1, device)
    return goal.row(times)
