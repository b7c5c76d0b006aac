"""Post-processing transforms: removal of parts away from the spine, report on the levels of a label map, picture."""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, SaveImaged
from monai.utils import convert_to_tensor

from ..data.output_folder import OutputFolder
from ..data.transforms import result_name, source_of
from ..labels import ClassTable
from ..measure.page import picture_name
from ..measure.scan_report import UNLIKE, level_report, read_scan
from ..ops.levels.naming import ChainNaming
from ..ops.levels.report import level_evidence
from ..ops.levels.spine_parts import off_spine, specks
from ..ops.levels.structures import as_volume, field_of
from ..ops.levels.tissue import foreground_columns, top_class
from ..ops.levels.verdict import OK, Trained
from ..report.spine_picture import spine_picture

EVIDENCE, REMOVED, SCAN = "level_evidence", "removed_components", "scan"


class LevelEvidenced(MapTransform):
    """Keep what the network itself says about the levels, on its own grid, before its scores become a label map.

    Takes predictions by `SlicewiseInferer` with `orders`, before `ChooseLevelsd`. Adds `level_evidence`: the `evidence`
    of each class and the `findings` of `scripts.ops.levels.report.level_evidence`, the `field` that the scan shows
    without borders of zeros, and `level_disagreement`, the share in [0, 1] of foreground pixels with another class
    before decoding; 1 without foreground.

    Args:
        keys: predictions ((1 + number of orders) N, H, W, S).
        image_key: preprocessed scan (1, H, W, S) with meta data.
        table: the classes.
        chain: class ids from the lowest structure upwards.
        order: number of the order whose levels are written, from 0.
        naming: gives what speaks for and against the names, if they are those of the cohort's geometry; else None.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str,
        table: ClassTable,
        chain: Sequence[int],
        order: int = 0,
        naming: ChainNaming | None = None,
    ) -> None:
        super().__init__(keys)
        self.image_key, self.table, self.chain = image_key, table, chain
        self.order, self.naming = order, naming

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the evidence."""
        d, image = dict(data), data.get(self.image_key)
        for key in self.key_iterator(d):
            parts = convert_to_tensor(d[key], track_meta=False).float().movedim(-1, 0).split(self.table.num_classes, 1)
            spine = foreground_columns(parts[0])
            probs, label = parts[0][..., spine].softmax(1), top_class(parts[1 + self.order][..., spine])
            names = None if self.naming is None else self.naming.evidence(probs)
            evidence, findings = level_evidence(probs, label, self.table, self.chain, names)
            found = label > 0
            other = (top_class(probs) != label)[found].float().mean() if found.any() else 1.0
            field = field_of(image.shape[1:], image.affine.cpu().numpy()) if isinstance(image, MetaTensor) else None
            d[EVIDENCE] = {
                "evidence": evidence,
                "findings": findings,
                "field": field,
                "level_disagreement": round(float(other), 5),
            }
        return d


class RemoveOffSpined(MapTransform):
    """Remove the parts of a label map that lie away from the spine, and specks, see `scripts.ops.levels.spine_parts`.

    Adds `removed_components`, of the parts: their `number` and `volume_ml`.

    Args:
        keys: label maps (1, ...) in the scan's own grid.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with cleaned label maps."""
        d = dict(data)
        for key in self.key_iterator(d):
            label, affine = _array(d[key]), _affine(d[key])
            away, parts = off_spine(label, affine)
            d[REMOVED] = {"number": parts, "volume_ml": float(away.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000)}
            if (none := away | specks(label, affine)).any():
                d[key] = d[key].clone()
                d[key][0][convert_to_tensor(none, device=d[key].device)] = 0
        return d


class LevelReportd(MapTransform):
    """Judge the levels of a label map by the rules of `scripts.ops.levels.verdict`, log the verdict, and measure.

    Takes label maps in the scan's own grid, after `RemoveOffSpined`. Adds the dictionary of
    `scripts.measure.scan_report.level_report`, and under `scan` the scan as its file has it, None if it cannot be read.

    Args:
        keys: label maps (1, ...).
        table: the classes.
        chain: class ids from the lowest structure upwards.
        sizes: value of `scripts.data.structure_sizes.StructureSizes`; None if it is not known.
        training_ranges: value of `scripts.data.domain_shift.TrainingRanges`, for the planes of training; None if not
            known.
        result_key: key of the report; MONAI Label returns "result" with the label map.
    """

    def __init__(
        self,
        keys: KeysCollection,
        table: ClassTable,
        chain: Sequence[int],
        sizes: Mapping[str, Any] | None = None,
        training_ranges: Mapping[str, Any] | None = None,
        result_key: str = "result",
    ) -> None:
        super().__init__(keys)
        planes = tuple((training_ranges or {}).get("planes") or ("sagittal",))
        self.trained = Trained(table, tuple(int(c) for c in chain if c), sizes or {}, planes)
        self.result_key = result_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the report."""
        d = dict(data)
        for key in self.key_iterator(d):
            label, affine, source = _array(d[key]), _affine(d[key]), source_of(d[key])
            scan = read_scan(source, label.shape, affine)
            given = d.get(EVIDENCE), d.get(REMOVED), d.get(UNLIKE, ())
            d[SCAN] = scan.array
            d[self.result_key] = level_report(label, affine, self.trained, source, scan, *given)
            _log(result_name(d, d[key]), d[self.result_key])
        return d


class SaveLevelReportd(SaveImaged):
    """Write the report of `LevelReportd` as `<case>_levels.json`.

    A subclass of `SaveImaged`, because MONAI Label removes those.

    Args:
        keys: predictions.
        outputs: folder of the label maps.
        result_key: see `LevelReportd`.
    """

    def __init__(self, keys: KeysCollection, outputs: OutputFolder, result_key: str = "result") -> None:
        super().__init__(keys, output_dir=outputs.folder, print_log=False)
        self.outputs, self.result_key = outputs, result_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the file and return the data unchanged."""
        for key in self.key_iterator(data) if self.result_key in data else ():  # the report may be switched off
            text = json.dumps(data[self.result_key], indent=1) + "\n"
            self.outputs.write(f"{result_name(data, data[key])}_levels.json", text.encode(), source_of(data[key]))
        return dict(data)


class SavePictured(SaveImaged):
    """Write `pictures/<scan>.jpg`, see `scripts.report.spine_picture`, of the scan that `LevelReportd` has read.

    A subclass of `SaveImaged`, because MONAI Label removes those.

    Args:
        keys: label maps (1, X, Y[, Z]) in the scan's own grid.
        outputs: folder of the label maps.
        table: the classes.
    """

    def __init__(self, keys: KeysCollection, outputs: OutputFolder, table: ClassTable) -> None:
        super().__init__(keys, output_dir=outputs.folder, print_log=False)
        self.outputs, self.table = outputs, table

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the file, if there is a scan, and return the data unchanged."""
        scan = data.get(SCAN)
        if not isinstance(scan, np.ndarray):
            return dict(data)
        for key in self.key_iterator(data):
            drawn = spine_picture(scan, as_volume(_array(data[key])), _affine(data[key]), self.table)
            self.outputs.write(picture_name(result_name(data, data[key])), drawn, source_of(data[key]))
        return dict(data)


def _array(label_map: Any) -> np.ndarray:
    """(1, X, Y[, Z]) -> (X, Y[, Z])."""
    return convert_to_tensor(label_map, track_meta=False).cpu().numpy()[0]


def _affine(label_map: MetaTensor) -> np.ndarray:
    return np.asarray(label_map.affine.cpu(), dtype=np.float64)


def _log(name: str, report: Mapping[str, Any]) -> None:
    level = logging.INFO if report["verdict"] == OK else logging.WARNING
    logging.getLogger(__name__).log(level, "%s: %s", name, " ".join([f"{report['verdict']}.", *report["reasons"]]))
