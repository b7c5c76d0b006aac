"""Transforms of what an inferer gives: which names are kept, a report on them, and scores to label maps."""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, InvertibleTransform, MapTransform, SaveImaged
from monai.utils import convert_to_tensor

from ..data.check.grid import grid_of
from ..data.training_ranges import unlike_training
from ..data.transforms import InPlaneSpacingd, result_name
from ..files import write_whole
from ..labels import ClassTable
from ..ops.levels.report import level_report

UNLIKE = "unlike_training"


class ChooseLevelsd(MapTransform):
    """Of a prediction that `SlicewiseInferer` made with `order` (2N, ...), keep the levels that are wanted (N, ...).

    Args:
        keys: predictions.
        levels: "decoded", or "raw" for a prediction that holds the network's logits alone.
        raw_key: where the network's own logits go beside decoded ones; None drops them.

    Raises:
        ValueError: unknown levels.
    """

    def __init__(self, keys: KeysCollection, levels: str, raw_key: str | None = None) -> None:
        super().__init__(keys)
        if levels not in ("decoded", "raw"):
            raise ValueError(f"levels must be 'decoded' or 'raw', got {levels!r}")
        self.levels, self.raw_key = levels, raw_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with its prediction, and the raw one under `raw_key`."""
        d = dict(data)
        for key in self.key_iterator(d):
            if self.levels == "decoded":
                raw, d[key] = d[key].chunk(2)
                if self.raw_key:
                    d[self.raw_key] = raw
        return d


class CompareWithTrainingd(MapTransform):
    """Log in what a scan differs from those of the training, and leave that for the scan's report.

    Takes what an inferer gives, before `ChooseLevelsd`; adds the list `unlike_training`, a sentence or nothing.

    Args:
        keys: predictions (N or 2N, H, W, S), the network's own logits first.
        image_key: the scan as the network takes it (1, H, W, S), with its meta data.
        seen: what `scripts.data.training_ranges.SeenScans` gave; None for a network that was trained without.
        table: the classes.
    """

    def __init__(self, keys: KeysCollection, image_key: str, seen: Mapping[str, Any] | None, table: ClassTable) -> None:
        super().__init__(keys)
        self.image_key, self.seen, self.table = image_key, seen, table

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with `unlike_training`."""
        image = data[self.image_key]
        if not self.seen or not isinstance(image, MetaTensor) or "original_affine" not in image.meta:
            return {**data, UNLIKE: []}
        grid = grid_of(np.asarray(image.meta["spatial_shape"]).tolist(), np.asarray(image.meta["original_affine"]))
        slices = convert_to_tensor(image[0], track_meta=False).cpu().numpy()
        for key in self.key_iterator(data):
            own = convert_to_tensor(data[key][: self.table.num_classes], track_meta=False)
            sentence = unlike_training(self.seen, grid, slices, own.max(0).indices.cpu().numpy(), self.table)
            if sentence:
                logging.getLogger(__name__).warning("%s: %s", result_name(data, image), sentence)
        return {**data, UNLIKE: [sentence] if sentence else []}


class LevelReportd(MapTransform):
    """Say how sure the names of a scan's structures are, and log what about them a reader should look at.

    Takes a prediction that `SlicewiseInferer` made with `order`, before `ChooseLevelsd`, and adds a table:
    `structures` (names, confidence, the network's own names), `warnings`, and `level_disagreement`, the share in [0, 1]
    of the pixels of all structures to which the network itself gives another class; 1 if no structure is found. What
    `CompareWithTrainingd` found goes into it, too.

    Args:
        keys: predictions (2N, H, W, S).
        table: the classes.
        chain: class ids from the lowest structure upwards.
        result_key: where the table goes; MONAI Label sends what lies under "result" back with the label map.
    """

    def __init__(
        self, keys: KeysCollection, table: ClassTable, chain: Sequence[int], result_key: str = "result"
    ) -> None:
        super().__init__(keys)
        self.table, self.chain, self.result_key = table, chain, result_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the table."""
        d = dict(data)
        for key in self.key_iterator(d):
            logits, ordered = convert_to_tensor(d[key], track_meta=False).float().movedim(-1, 0).chunk(2, 1)
            label = ordered.argmax(1)
            structures, warnings = level_report(logits.softmax(1), label, self.table, self.chain)
            for warning in warnings:
                logging.getLogger(__name__).warning("%s: %s", result_name(d, d[key]), warning)
            found = label > 0
            other = (logits.argmax(1) != label)[found].float().mean() if found.any() else 1.0
            d[self.result_key] = {
                "structures": [{**asdict(s), "confidence": round(s.confidence, 3)} for s in structures],
                "warnings": warnings,
                "level_disagreement": round(float(other), 5),
                UNLIKE: d.get(UNLIKE, []),
            }
        return d


class SaveLevelReportd(SaveImaged):
    """Write what `LevelReportd` found as `<output_dir>/<case>_levels.json`; leaves the data unchanged.

    One of MONAI's `SaveImaged`, because MONAI Label leaves those out.

    Args:
        keys: predictions.
        output_dir: where label maps go, too.
        result_key: see `LevelReportd`.
    """

    def __init__(self, keys: KeysCollection, output_dir: str | Path, result_key: str = "result") -> None:
        super().__init__(keys, output_dir=output_dir, print_log=False)
        self.output_dir, self.result_key = Path(output_dir), result_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the file and return the data."""
        for key in self.key_iterator(data):
            path = self.output_dir / f"{result_name(data, data[key])}_levels.json"
            write_whole(path, json.dumps(data[self.result_key], indent=1) + "\n")
        return dict(data)


class InvertedTopClassd(Invertd):
    """MONAI's `Invertd` of scores (N, ...), then the class of the largest score, (1, ...) uint8.

    One step, because MONAI Label's scoring by dropout leaves out whatever is an `Invertd`, and has to get scores then.
    And because `Invertd` would resample all scores to the scan's grid, most of them for pixels whose class is plain
    without: `InPlaneSpacingd.inverse_top_class` gives the same classes in a small part of the time and of the memory.
    """

    def __init__(self, keys: KeysCollection, transform: InvertibleTransform, **kwargs: Any) -> None:
        super().__init__(keys, _with_top_class(transform), **kwargs)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return the data with label maps in place of scores."""
        d = super().__call__(data)
        for key in self.key_iterator(d):
            if d[key].shape[0] > 1:  # nothing was resampled on the way back
                label = d[key].max(0, keepdim=True).indices.to(torch.uint8)
                d[key] = MetaTensor(label, meta=d[key].meta) if isinstance(d[key], MetaTensor) else label
        return d


class _TopClassBack(InvertibleTransform):
    """`InPlaneSpacingd` on the way back, where scores become label maps."""

    def __init__(self, spacing: InPlaneSpacingd) -> None:
        self.spacing = spacing

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """As `InPlaneSpacingd`."""
        return self.spacing(data)

    def inverse(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return the data with label maps (1, ...) in place of scores (N, ...)."""
        keys = [key for key in self.spacing.keys if key in data]
        return {**data, **{key: self.spacing.inverse_top_class(data[key]) for key in keys}}


def _with_top_class(transform: InvertibleTransform) -> InvertibleTransform:
    if not isinstance(transform, Compose):
        return transform
    steps = transform.flatten().transforms
    return Compose([_TopClassBack(step) if isinstance(step, InPlaneSpacingd) else step for step in steps])
