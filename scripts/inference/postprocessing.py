"""Post-processing transforms: choice of decoded or raw levels, domain-shift warning, arg max."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, InvertibleTransform, MapTransform
from monai.utils import convert_to_tensor

from ..data.check.grid import grid_of
from ..data.domain_shift import domain_shift
from ..data.transforms import InPlaneSpacingd, result_name
from ..labels import ClassTable
from ..measure.scan_report import UNLIKE


class ChooseLevelsd(MapTransform):
    """Select one of the read-outs (N, ...) of a prediction by `SlicewiseInferer` with `orders`.

    Args:
        keys: predictions.
        levels: the read-out to keep under the key, "raw" or one of `orders`.
        orders: names of the inferer's orders, whose read-outs lie behind the raw logits.
        kept: read-outs that get a key of their own name, too.

    Raises:
        ValueError: unknown levels.
    """

    def __init__(self, keys: KeysCollection, levels: str, orders: Sequence[str] = (), kept: Sequence[str] = ()) -> None:
        super().__init__(keys)
        self.readouts = ("raw", *orders)
        for name in (levels, *kept):
            if name not in self.readouts:
                raise ValueError(f"levels must be {' or '.join(map(repr, self.readouts))}, got {name!r}")
        self.levels, self.kept = levels, tuple(kept)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the selected prediction."""
        d = dict(data)
        for key in self.key_iterator(d):
            parts = dict(zip(self.readouts, d[key].split(len(d[key]) // len(self.readouts)), strict=True))
            d |= {name: parts[name] for name in self.kept}
            d[key] = parts[self.levels]
        return d


class DetectDomainShiftd(MapTransform):
    """Warn of a domain shift: a scan whose size, spacing or grey values lie outside the ranges of training.

    Comes before `ChooseLevelsd`; adds the list `unlike_training` with one sentence or none.

    Args:
        keys: predictions (N or more, H, W, S), raw logits first.
        image_key: preprocessed scan (1, H, W, S) with meta data.
        training_ranges: value of `scripts.data.domain_shift.TrainingRanges`; None for no check.
        table: the classes.
    """

    def __init__(
        self, keys: KeysCollection, image_key: str, training_ranges: Mapping[str, Any] | None, table: ClassTable
    ) -> None:
        super().__init__(keys)
        self.image_key, self.training_ranges, self.table = image_key, training_ranges, table

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with `unlike_training`."""
        image = data[self.image_key]
        if not self.training_ranges or not isinstance(image, MetaTensor) or "original_affine" not in image.meta:
            return {**data, UNLIKE: []}
        grid = grid_of(np.asarray(image.meta["spatial_shape"]).tolist(), np.asarray(image.meta["original_affine"]))
        slices = convert_to_tensor(image[0], track_meta=False).cpu().numpy()
        for key in self.key_iterator(data):
            own = convert_to_tensor(data[key][: self.table.num_classes], track_meta=False)
            sentence = domain_shift(self.training_ranges, grid, slices, own.max(0).indices.cpu().numpy(), self.table)
            if sentence:
                logging.getLogger(__name__).warning("%s: %s", result_name(data, image), sentence)
        return {**data, UNLIKE: [sentence] if sentence else []}


class InvertedTopClassd(Invertd):
    """MONAI's `Invertd` of scores (N, ...) followed by the arg max, (1, ...) uint8.

    One transform, because MONAI Label removes `Invertd` for uncertainty by dropout and then needs scores; and because
    `InPlaneSpacingd.inverse_top_class` gives the same classes as resampling all scores in less time and memory.
    """

    def __init__(self, keys: KeysCollection, transform: InvertibleTransform, **kwargs: Any) -> None:
        super().__init__(keys, _with_top_class(transform), **kwargs)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return the data with label maps in place of scores."""
        d = super().__call__(data)
        for key in self.key_iterator(d):
            if d[key].shape[0] > 1:  # the inverse did not resample
                label = d[key].max(0, keepdim=True).indices.to(torch.uint8)
                d[key] = MetaTensor(label, meta=d[key].meta) if isinstance(d[key], MetaTensor) else label
        return d


class _TopClassBack(InvertibleTransform):
    """`InPlaneSpacingd` whose inverse gives label maps."""

    def __init__(self, spacing: InPlaneSpacingd) -> None:
        self.spacing = spacing

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Apply `InPlaneSpacingd`."""
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
