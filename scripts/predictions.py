"""Transforms of what an inferer gives: which names are kept, a report on them, and scores to label maps."""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from .labels import ClassTable
from .ops.level_report import level_report
from .transforms import result_name


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


class SaveLevelReportd(MapTransform):
    """Write how sure the names of a scan's structures are, `<output_dir>/<case>_levels.json`, and log its warnings.

    Takes a prediction that `SlicewiseInferer` made with `order`, before `ChooseLevelsd`; leaves the data unchanged.

    Args:
        keys: predictions (2N, H, W, S).
        output_dir: where label maps go, too.
        table: the classes.
        chain: class ids from the lowest structure upwards.
    """

    def __init__(self, keys: KeysCollection, output_dir: str | Path, table: ClassTable, chain: Sequence[int]) -> None:
        super().__init__(keys)
        self.output_dir, self.table, self.chain = Path(output_dir), table, chain

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data."""
        for key in self.key_iterator(data):
            logits, ordered = convert_to_tensor(data[key], track_meta=False).float().movedim(-1, 0).chunk(2, 1)
            structures, warnings = level_report(logits.softmax(1), ordered.argmax(1), self.table, self.chain)
            name = result_name(data, data[key])
            for warning in warnings:
                logging.getLogger(__name__).warning("%s: %s", name, warning)
            self.output_dir.mkdir(parents=True, exist_ok=True)
            path = self.output_dir / f"{name}_levels.json"
            part = path.with_name(f".part_{path.name}")
            rounded = [{**asdict(s), "confidence": round(s.confidence, 3)} for s in structures]
            part.write_text(json.dumps({"structures": rounded, "warnings": warnings}, indent=1) + "\n", "utf-8")
            part.replace(path)
        return dict(data)


class TopClassd(MapTransform):
    """Class of the largest score, (N, ...) -> (1, ...) int64.

    MONAI's `AsDiscreted(argmax=True)` is the same; on a CPU `argmax` over the first axis takes several times longer
    than `max`, and as long as resampling the volume.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with label maps in place of scores."""
        d = dict(data)
        for key in self.key_iterator(d):
            label = d[key].max(0, keepdim=True).indices
            d[key] = MetaTensor(label, meta=d[key].meta) if isinstance(d[key], MetaTensor) else label
        return d
