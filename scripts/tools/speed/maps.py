"""OTSU thresholds and prompt-guided maps, computed for a whole batch, against scikit-image, map by map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.filters import threshold_otsu
from skimage.transform import resize
from torch import Tensor

from ...ops.otsu import otsu_thresholds
from ...ops.prompt_map import prompt_guided_map, upsample
from .pairs import Goal, in_turns, missing

CLASSES = 20
COARSE = 16
"""Side of the grid that random maps are up-sampled from, so that they are as smooth as attention maps."""
PATCH = 8
"""Side, in pixels of the full slice, of a patch of the attention maps."""
GUIDED_GPU_GOAL = 1 / 20


def otsu_rows(count: int, sides: Sequence[int], pairs: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows: OTSU thresholds on one CPU core and on a GPU, for each size of the maps.

    Args:
        count: maps at a time.
        sides: height, and width, of the maps in pixels.
        pairs: measurements of each.
        seed: of the maps.

    Raises:
        RuntimeError: on the CPU the thresholds are not those of scikit-image.
    """
    for side in sides:
        maps = smooth_maps(count, side, seed)
        map_by_map = partial(skimage_thresholds, maps.numpy())
        for device, place in (("cpu", "one CPU core"), ("cuda", "GPU")):
            reference = "skimage.filters.threshold_otsu on one CPU core, map by map"
            goal = Goal(f"OTSU of {count} maps of {side}x{side}, {place}", 1.0, reference)
            if reason := missing(device):
                yield goal.not_measured(reason)
                continue
            placed = maps.to(device)
            off = otsu_thresholds(placed).cpu().double() - torch.tensor(map_by_map())
            bins = (maps.amax((1, 2)) - maps.amin((1, 2))).double() / 256
            others = (off.abs() > 0.01 * bins).double().mean()  # near ties
            if device == "cpu" and others > 0.01:
                raise RuntimeError("the thresholds must be those of scikit-image, or their times cannot be compared")
            with one_thread():
                yield goal.row(in_turns(partial(otsu_thresholds, placed), map_by_map, pairs, 1, device))


def skimage_thresholds(maps: NDArray[np.float32]) -> list[float]:
    """OTSU thresholds by scikit-image, one map after another."""
    return [threshold_otsu(one) for one in maps]


def guided_row(device: str, slices: int, side: int, pairs: int, seed: int) -> dict[str, Any]:
    """Row: attention maps to prompt-guided maps; the reference always stays on one CPU core.

    Args:
        device: "cpu" or "cuda".
        slices: at a time.
        side: height, and width, of the full slice in pixels.
        pairs: measurements of each.
        seed: of the maps.

    Raises:
        RuntimeError: more than a thousandth of the pixels differ.
    """
    goal = Goal(
        f"attention maps to prompt-guided maps of {side}x{side}: up-sampling, OTSU, overlap rule; one CPU core",
        0.5,
        "a loop over slices and classes: skimage.transform.resize, threshold_otsu, the largest wins",
    ).on(device, GUIDED_GPU_GOAL)
    if reason := missing(device):
        return goal.not_measured(reason)
    grid = side // PATCH
    patches = torch.randn(slices, CLASSES, grid // 4, grid // 4, generator=torch.Generator().manual_seed(seed))
    maps = (3 * upsample(patches, (grid, grid))).softmax(1)
    placed, on_cpu = maps.to(device), maps.numpy()
    same = (at_once(placed, side).cpu().numpy() == class_by_class(on_cpu, side)).mean()
    if same < 0.999:
        raise RuntimeError(f"the two must give the same maps, {1 - same:.2%} of the pixels differ")
    with one_thread():
        times = in_turns(partial(at_once, placed, side), partial(class_by_class, on_cpu, side), pairs, 1, device)
    return goal.row(times, slices=slices, maps=[*maps.shape[1:]], device=device)


def at_once(maps: Tensor, side: int) -> Tensor:
    """Prompt-guided maps (B, side, side) of attention maps (B, N, h, w), as stage 2 computes them."""
    full = upsample(maps, (side, side))
    return prompt_guided_map(full, otsu_thresholds(full), gate=0.0, integration="otsu_per_class")


def class_by_class(maps: NDArray[np.float32], side: int) -> NDArray[np.int64]:
    """The same with scikit-image, in a loop over slices and classes."""
    labels = np.zeros((len(maps), side, side), dtype=np.int64)
    for label, of_slice in zip(labels, maps, strict=True):
        best = np.zeros((side, side), dtype=np.float32)
        for number, small in enumerate(of_slice):
            full = resize(small, (side, side), order=1, mode="edge", anti_aliasing=False)
            wins = (full > threshold_otsu(full)) & (full > best)
            label[wins], best[wins] = number, full[wins]
    return labels


def smooth_maps(count: int, side: int, seed: int) -> Tensor:
    """Random maps (count, side, side) in (0, 1), smooth as up-sampled attention maps are."""
    generator = torch.Generator().manual_seed(seed)
    return upsample(torch.rand(1, count, COARSE, COARSE, generator=generator), (side, side))[0]


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch on one CPU thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
