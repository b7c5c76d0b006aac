"""Attention maps to prompt-guided maps, all at once, against a loop over slices and classes with scikit-image."""

from __future__ import annotations

from collections.abc import Iterator
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
from .stage1 import ENCODERS
from .steps import Sizes

PATCH = 8
"""Pixels of the full slice that a patch covers."""
MAPS = Goal(
    "attention maps to prompt-guided maps of {side}x{side}: up-sampling, OTSU, overlap rule; one CPU core",
    0.5,
    "a loop over slices and classes: skimage.transform.resize, threshold_otsu, the largest wins",
)
ENCODED = Goal("the same with the vision encoder ({encoders})", None, "the same encoder, then the same loop")
GPU_GOAL = 1 / 20


def prompt_guide_rows(sizes: Sizes, slices: int, side: int, pairs: int) -> Iterator[dict[str, Any]]:
    """Rows: the maps alone, and with the encoder that makes them; the reference always stays on one CPU core.

    Args:
        sizes: seed and device of ours; the encoder's weights are random, which takes as long.
        slices: at a time.
        side: height and width of the full slice in pixels.
        pairs: of measurements.

    Raises:
        RuntimeError: more than a thousandth of the pixels differ.
    """
    named = Goal(MAPS.name.format(side=side), MAPS.goal, MAPS.reference).on(sizes.device, GPU_GOAL)
    encoded = Goal(ENCODED.name.format(encoders=ENCODERS), ENCODED.goal, ENCODED.reference).on(sizes.device)
    if reason := missing(sizes.device):
        yield from (goal.not_measured(reason) for goal in (named, encoded))
        return
    parser = sizes.graph(ENCODERS, base="pretrain.yaml")
    network, size = parser.get_parsed_content("network").eval(), parser.get_parsed_content("image_size")
    generator = torch.Generator().manual_seed(sizes.seed)
    image = torch.randn(slices, 1, *size, generator=generator)
    patches = torch.randn(slices, 20, side // PATCH // 4, side // PATCH // 4, generator=generator)
    maps = (3 * upsample(patches, (side // PATCH, side // PATCH))).softmax(1)
    placed, placed_image, on_cpu = maps.to(sizes.device), image.to(sizes.device), maps.numpy()
    same = (at_once(placed, side).cpu().numpy() == class_by_class(on_cpu, side)).mean()
    if same < 0.999:
        raise RuntimeError(f"the two must give the same maps, {1 - same:.2%} of the pixels differ")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rest = {"slices": slices, "maps": [*maps.shape[1:]], "device": sizes.device}
        times = in_turns(partial(at_once, placed, side), partial(class_by_class, on_cpu, side), pairs, 1, sizes.device)
        yield named.row(times, **rest)
        with torch.inference_mode():
            times = in_turns(
                lambda: at_once(network(placed_image), side),
                lambda: class_by_class(network(placed_image).cpu().numpy(), side),
                pairs, 1, sizes.device,
            )  # fmt: skip
        yield encoded.row(times, **{**rest, "image_size": size})
    finally:
        torch.set_num_threads(threads)


def at_once(maps: Tensor, side: int) -> Tensor:
    """Prompt-guided maps (B, side, side) of attention maps (B, N, h, w), as stage 2 makes them in its literal form."""
    full = upsample(maps, (side, side))
    return prompt_guided_map(full, otsu_thresholds(full), gate=0.0, integration="otsu_per_class")


def class_by_class(maps: NDArray[np.float32], side: int) -> NDArray[np.int64]:
    """The same as a script with scikit-image would do it."""
    labels = np.zeros((len(maps), side, side), dtype=np.int64)
    for label, of_slice in zip(labels, maps, strict=True):
        best = np.zeros((side, side), dtype=np.float32)
        for number, small in enumerate(of_slice):
            full = resize(small, (side, side), order=1, mode="edge", anti_aliasing=False)
            wins = (full > threshold_otsu(full)) & (full > best)
            label[wins], best[wins] = number, full[wins]
    return labels
