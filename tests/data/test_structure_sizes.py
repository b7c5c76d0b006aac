from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest

from scripts.data.structure_sizes import StructureSizes, measure_label
from scripts.labels import IGNORE, LabelMap
from tests.spines import PIR, TABLE, Spine


def written(path: Path, label: np.ndarray) -> dict[str, Any]:
    nibabel.save(nibabel.Nifti1Image(label, PIR), path)
    return {"image": "not read", "label": str(path)}


def sizes(*entries: dict[str, Any]) -> Any:
    return StructureSizes(SimpleNamespace(data=list(entries)), TABLE)


class TestStructureSizes:
    def test_value(self, tmp_path: Path) -> None:
        """In millimetres and millilitres of the label's own grid: 28.288 ml and 26 mm, by 3 and by 2."""
        found = sizes(written(tmp_path / "a.nii.gz", Spine().draw()))()
        assert found["structures"]["L4"] == {"cases": 1, "volume_ml": [9.43, 84.86], "height_mm": [13.0, 52.0]}
        assert json.loads(json.dumps(found)) == found

    def test_label_map_of_an_entry(self, tmp_path: Path) -> None:
        label = Spine().draw().astype(np.uint16)
        label[label == TABLE.id_of("L4")] = 304
        label[:, :30][label[:, :30] > 0] = 9  # L1, told to be ignored
        mapping = {"map": {**{str(c.id): c.id for c in TABLE.classes}, "304": "L4", "9": "ignore"}}
        found = sizes({**written(tmp_path / "a.nii.gz", label), "label_map": mapping})()
        assert found["structures"]["L4"]["cases"] == 1
        assert found["structures"]["T10"]["cases"] == 0

    def test_computed_once(self, tmp_path: Path) -> None:
        learned = sizes(written(tmp_path / "a.nii.gz", Spine().draw()))
        first = learned()
        learned.dataset.data.clear()
        assert learned() is first

    def test_files_that_are_gone_or_not_labelled(self, tmp_path: Path) -> None:
        gone = {"image": "x", "label": str(tmp_path / "gone.nii.gz")}
        whole = written(tmp_path / "a.nii.gz", Spine().draw())
        assert sizes(gone, {"image": "y"}, whole)()["cases"] == 1
        assert sizes(gone)() == {}


def test_measure_label_leaves_ignored_voxels_out(tmp_path: Path) -> None:
    label = Spine().draw()
    label[label == TABLE.id_of("L1")] = IGNORE
    entry = written(tmp_path / "a.nii.gz", label)
    structures, field = measure_label(entry["label"], LabelMap.load(None, TABLE), TABLE)
    assert TABLE.id_of("L1") not in structures
    assert len(structures) == 9
    assert field.high_mm - field.low_mm == pytest.approx(260)
