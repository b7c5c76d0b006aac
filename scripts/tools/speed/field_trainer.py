"""Training with loading: slice cache and batch augmentation against trainers in the style of the field's code."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, RandAdjustContrastd, RandAffined, RandGaussianNoised
from scipy import ndimage
from torch.utils.data import Dataset

from ...data.cache import Slices
from ...data.loaders import TwoStreamLoader
from ...phantom.write import write_phantoms
from .pairs import Goal, in_turns, missing, now
from .training import WARM_UP, Sizes, bare_step, described

METHOD = "methods/mean_teacher.yaml"
FIELD = Goal(
    "stage-2 training, time of a slice with loading",
    1 / 3,
    "a Mean Teacher trainer of the field's style: the item's volume file read and transformed for every slice, random "
    "transforms slice by slice, float32, contiguous layout, no cache; same network, losses and batch",
)
CUT = Goal(
    "the same beside slices that were cut once",
    1 / 2,
    "a Mean Teacher trainer of the kind of SSL4MIS: every slice a file of the network's size, four loader workers or "
    "as many as there are cores, rotation and zoom slice by slice in scipy, float32, contiguous layout; same network, "
    "losses and batch",
)
CUT_WORKERS = min(4, os.cpu_count() or 1)
"""Loader processes of that trainer, for each of the two streams."""
TURNED, DEGREES = 0.5, 20.0
"""Share of the slices that this trainer turns, and the largest angle."""
WAIT = Goal("waiting for data after the first epoch", 0.02, "the whole step")


class FileSlices(Dataset[dict[str, Any]]):
    """Dataset of 2D slices without a cache: the volume's file is read and transformed for every slice.

    Args:
        data: datalist entries with `image`, and `label` where there is one.
        transform: of a volume, to `image` and `label` (1, H, W, S).
        augment: of a slice.
        num_classes: N.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Any], Any],
        augment: Callable[[Any], Any],
        num_classes: int,
    ) -> None:
        self.data, self.transform, self.augment = list(data), transform, augment
        self.items = [
            (entry, number) for entry in self.data for number in range(min(nib.load(entry["image"]).shape))
        ]  # slices are the axis with the fewest
        self.is_unlabelled = torch.zeros(num_classes, dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        entry, number = self.items[index]
        volume = self.transform({k: entry[k] for k in ("image", "label") if k in entry})
        one = {k: volume[k][..., number].as_tensor() for k in ("image", "label") if k in entry}
        return {**self.augment(one), "is_unlabelled": self.is_unlabelled}


class CutSlices(Dataset[dict[str, Any]]):
    """Dataset of 2D slices that were cut once, each in a file: read, turned, and zoomed to the network's size.

    Args:
        slices: a `SliceDataset`, whose slices are cut.
        folder: of the files; new.
        seed: of the angles.
    """

    def __init__(self, slices: Slices, folder: Path, seed: int = 0) -> None:
        folder.mkdir(parents=True)
        self.data, self.rng = list[Path](), np.random.default_rng(seed)
        for number in range(len(slices)):
            one = slices[number]
            self.is_unlabelled, self.size = one["is_unlabelled"], one["image"].shape[-2:]
            self.data.append(folder / f"{number}.npz")
            found = {key: one[key][0].numpy() for key in ("image", "label") if key in one}
            np.savez(self.data[-1], **found)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        with np.load(self.data[index]) as file:
            arrays = {key: file[key] for key in file.files}
        if self.rng.random() < TURNED:
            angle = self.rng.uniform(-DEGREES, DEGREES)
            arrays = {k: ndimage.rotate(a, angle, order=0, reshape=False) for k, a in arrays.items()}
        arrays = {k: ndimage.zoom(a, np.array(self.size) / a.shape, order=0) for k, a in arrays.items()}
        return {**{k: torch.from_numpy(a)[None] for k, a in arrays.items()}, "is_unlabelled": self.is_unlabelled}


def field_rows(
    sizes: Sizes, work: Path, pairs: int, shape: tuple[int, int], pixel_mm: float
) -> Iterator[dict[str, Any]]:
    """Rows: a Mean Teacher step with its loading against two reference trainers'; the wait for the data loader.

    Ours and the first load data in the training process.

    Args:
        sizes: config of the steps.
        work: folder of phantoms and cache.
        pairs: timed steps of each.
        shape: (H, W) of the scans.
        pixel_mm: of the scans.
    """
    goals = [goal.on(sizes.device) for goal in (FIELD, CUT, WAIT)]
    if reason := missing(sizes.device):
        yield from (goal.not_measured(reason) for goal in goals)
        return
    drawing = {"shape_hw": shape, "pixel_mm": pixel_mm}
    datalist = write_phantoms(
        work / "scans", labelled=2, unlabelled=4, validation=0, test=0, seed=sizes.seed, **drawing
    )
    place = {"datalist": str(datalist), "cache_dir": str(work / "cache")}
    ours = sizes.graph(METHOD, **place)
    contiguous = {"network": "$@network_def.to(@device)", "teacher": "$copy.deepcopy(@network_def).to(@device)"}
    theirs = sizes.graph(METHOD, **place, **contiguous)
    loader, step = ours.get_parsed_content("train#dataloader"), bare_step(ours)
    epoch = max(len(sampler.dataset) // sampler.batch_size + 1 for sampler in loader.samplers)
    feed, their_feed, their_step = iter(loader), iter(field_loader(theirs)), bare_step(theirs, augmented=True)
    for _ in range(epoch):
        next(feed)
    waits = []

    def our_step() -> None:
        begin = now(sizes.device)
        batch = next(feed)
        waits.append(now(sizes.device) - begin)
        step(batch)

    times = in_turns(our_step, lambda: their_step(next(their_feed)), pairs, WARM_UP, sizes.device)
    slices = sum(ours.get_parsed_content(k) for k in ("batch_size", "unlabelled_batch_size"))
    ours_s, theirs_s = (float(np.median(side)) for side in zip(*times, strict=True))
    per_second = {"ours_slices_per_s": slices / ours_s, "reference_slices_per_s": slices / theirs_s}
    scan = {"scan_shape": [*shape], "scan_pixel_mm": pixel_mm}
    yield goals[0].row(times, **described(ours), **scan, **{k: round(v, 2) for k, v in per_second.items()})
    shares = [(wait, step) for wait, (step, _) in zip(waits[WARM_UP:], times, strict=True)]
    their_feed = iter(cut_loader(theirs, work / "slices"))
    cut = in_turns(our_step, lambda: their_step(next(their_feed)), pairs, WARM_UP, sizes.device)
    yield goals[1].row(cut, **described(ours), **scan)
    yield goals[2].row(shares, **described(ours))


def cut_loader(parser: ConfigParser, folder: Path) -> TwoStreamLoader:
    """Labelled and unlabelled batches of a config, of :class:`CutSlices` by `CUT_WORKERS` loader processes each."""
    get = parser.get_parsed_content
    labelled, unlabelled = (
        CutSlices(get(f"train#{name}"), folder / name, get("seed")) for name in ("dataset", "unlabelled_dataset")
    )
    sizes = get("batch_size"), get("unlabelled_batch_size")
    return TwoStreamLoader(labelled, unlabelled, *sizes, get("seed"), num_workers=CUT_WORKERS)


def field_loader(parser: ConfigParser) -> TwoStreamLoader:
    """Labelled and unlabelled batches of a config, read from the volume files by :class:`FileSlices`."""
    get = parser.get_parsed_content
    keys = {"keys": ["image", "label"], "allow_missing_keys": True}
    augment = Compose([
        RandAffined(
            **keys, prob=1.0, rotate_range=np.deg2rad(10), scale_range=0.1, translate_range=[2, 2],
            mode=["bilinear", "nearest"], padding_mode="border",
        ),
        RandAdjustContrastd("image", prob=1.0, gamma=(0.75, 1.35)),
        RandGaussianNoised("image", prob=1.0, std=0.1),
    ])  # fmt: skip
    transform, classes = get("slice_cache").transform, get("num_classes")
    labelled, unlabelled = (
        FileSlices(get(f"train#{name}#data"), transform, augment, classes) for name in ("dataset", "unlabelled_dataset")
    )
    return TwoStreamLoader(labelled, unlabelled, get("batch_size"), get("unlabelled_batch_size"), get("seed"))
