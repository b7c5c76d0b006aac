from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.data.cache import SliceCache, SliceDataset
from scripts.data.check.grid import grid_of
from scripts.data.domain_shift import TrainingRanges, contrast, domain_shift, grey_values
from scripts.labels import ClassTable
from tests import tiny

TABLE = ClassTable.load()
SAGITTAL = np.diag([1.0, 1.0, 4.0, 1.0])[[2, 1, 0, 3]]
RANGES = {"height_mm": [250.0, 300.0], "depth_mm": [200.0, 260.0], "pixel_mm": [0.8, 1.2], "slice_mm": [3.3, 4.4]}
RANGES |= {"width_mm": [40.0, 60.0]}
RANGES = {"scans": 4, "planes": ["sagittal"], "ranges": {**RANGES, "grey_50": [-0.4, 0.1], "grey_of_disc": [-0.5, 0.5]}}


def told(affine: np.ndarray = SAGITTAL, shape=(260, 220, 12), shift: float = 0.0, disc: float = 0.0) -> str | None:
    slices = np.random.default_rng(0).normal(shift - 0.1, 1, (2, 64, 64)).astype(np.float32)
    label = np.zeros(slices.shape, np.int64)
    label[:, :20, :20] = TABLE.group("disc")[0]
    slices[label > 0] = disc
    return domain_shift(RANGES, grid_of(shape, affine), slices, label, TABLE)


class TestUnlikeTraining:
    def test_alike(self) -> None:
        assert told() is None

    def test_nothing_is_known(self) -> None:
        grid = grid_of((5, 5, 5), np.eye(4))
        for seen in (None, {}, {"planes": [], "ranges": {}}):
            assert domain_shift(seen, grid, np.ones(3), np.zeros(3), TABLE) is None

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"affine": np.diag([1.0, 1.0, 5.0, 1.0]), "shape": (220, 220, 55)}, "axial slices (sagittal)"),
            ({"shape": (120, 220, 12)}, "120 mm from head to foot (250 to 300)"),
            ({"shape": (260, 500, 12)}, "500 mm from front to back (200 to 260)"),
            ({"shape": (260, 220, 24)}, "96 mm from left to right (40 to 60)"),
            ({"shift": 1.5}, "median of the grey values at 1."),
            ({"disc": 1.8}, "grey of disc at 1.80 (-0.50 to 0.50)"),
        ],
        ids=["plane", "height", "depth", "width", "intensity", "contrast"],
    )
    def test_other(self, changes, words) -> None:
        sentence = told(**changes)
        assert sentence is not None
        assert sentence.startswith("does not look like the scans of the training (theirs in brackets): ")
        assert words in sentence

    def test_fewer_slices_show_nothing_new(self) -> None:
        assert told(shape=(260, 220, 3)) is None

    def test_one_slice_has_no_distance(self) -> None:
        assert told(np.diag([1.0, 1.0, 99.0, 1.0])[[2, 1, 0, 3]], (260, 220, 1)) is None


class TestMeasures:
    def test_what_was_filled_up_does_not_count(self) -> None:
        values = np.concatenate([np.zeros(900), np.arange(1, 102)])
        assert grey_values(values) == pytest.approx({"grey_10": 11, "grey_50": 51, "grey_90": 91})
        assert grey_values(np.zeros(5)) == {}

    def test_contrast(self) -> None:
        label = np.repeat([0, TABLE.group("disc")[0], TABLE.group("vertebra")[1]], [10, 30, 5])
        assert contrast(np.where(label > 0, 2.5, 0), label, TABLE) == {"grey_of_disc": 2.5}  # five pixels are too few


class TestTrainingRanges:
    @pytest.fixture
    def dataset(self, tmp_path: Path) -> SliceDataset:
        entries = tiny.volumes(tmp_path / "scans")
        return SliceDataset(entries, SliceCache(tmp_path / "cache", tiny.load_transform()), tiny.CLASSES)

    def test_ranges(self, dataset: SliceDataset) -> None:
        seen = TrainingRanges([dataset], TABLE)()
        assert (seen["scans"], seen["planes"]) == (2, ["any"])
        for number, name in enumerate(("height_mm", "depth_mm", "width_mm")):
            sizes = [nibabel.load(e["image"]).shape[2 - number] for e in dataset.data]
            assert seen["ranges"][name] == [min(sizes), max(sizes)]
        assert json.loads(json.dumps(seen)) == seen

    def test_computed_once(self, dataset: SliceDataset) -> None:
        seen = TrainingRanges([dataset], TABLE)
        first = seen()
        dataset.data.clear()
        assert seen() is first

    def test_a_scan_that_was_taken_away(self, dataset: SliceDataset) -> None:
        dataset.prepare()
        Path(dataset.data[0]["image"]).unlink()
        assert "grey_50" in TrainingRanges([dataset], TABLE)()["ranges"]
