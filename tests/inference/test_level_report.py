"""The report on a label map as the transforms make it, in a grid other than the network's."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import SaveImaged
from torch import Tensor

from scripts.data.output_folder import OutputFolder
from scripts.inference.level_report import LevelEvidenced, LevelReportd, RemoveOffSpined, SaveLevelReportd
from scripts.ops.levels.sizes import learn_sizes
from scripts.ops.levels.structures import field_of, measure
from tests.spines import CHAIN, LUMBAR, PIR, TABLE, Spine

SIZES = learn_sizes([(measure(Spine().draw(), PIR), field_of((80, 260, 10), PIR))], TABLE)
CERTAIN = 6.0


def label_map(label: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(label)[None], affine=PIR, meta={"filename_or_obj": "scans/anna.nii.gz"})


def prediction(own: Tensor, ordered: Tensor) -> MetaTensor:
    """Two label maps (H, W, S) -> what an inferer with `order` gives, (2N, H, W, S)."""
    both = [CERTAIN * F.one_hot(label, TABLE.num_classes).movedim(-1, 0).float() for label in (own, ordered)]
    return MetaTensor(torch.cat(both), meta={"filename_or_obj": "scans/anna.nii.gz"})


def coarse(names: tuple[str, ...], rows: int = 4) -> Tensor:
    """The network's own grid: structures of a few rows each, (H, 4, 2)."""
    ids = torch.tensor([TABLE.id_of(name) for name in reversed(names)])
    return ids.repeat_interleave(rows)[:, None, None].expand(-1, 4, 2).clone()


def evidence(own: Tensor, ordered: Tensor, image: MetaTensor | None = None) -> dict[str, Any]:
    step = LevelEvidenced("pred", "image", TABLE, CHAIN)
    return step({"pred": prediction(own, ordered), "image": image})


def report(label: np.ndarray, sizes: Any = SIZES, ranges: Any = None, **data: Any) -> dict[str, Any]:
    data = RemoveOffSpined("pred")({**data, "pred": label_map(label)})
    return LevelReportd("pred", TABLE, CHAIN, sizes, ranges)(data)["result"]


class TestReport:
    def test_of_the_label_map_in_the_scan_s_own_grid(self) -> None:
        """The network's grid has 4 x 4 x 2 pixels a structure; voxels, ml and mm are those of the file."""
        kept = evidence(coarse(LUMBAR), coarse(LUMBAR))
        found = report(Spine().draw(), level_evidence=kept["level_evidence"])
        assert list(found)[:6] == ["verdict", "reasons", "source", "structures", "spine", "not_measured"]
        assert (found["verdict"], found["reasons"], found["notes"]) == ("ok", [], [])
        assert found["source"] == str(Path("scans/anna.nii.gz").absolute())
        assert [row["name"] for row in found["structures"]] == list(LUMBAR)
        probability = torch.tensor([CERTAIN, *[0.0] * (len(TABLE.group("vertebra")) - 1)]).softmax(0)[0].item()
        sizes = {
            "height_anterior_mm": pytest.approx(26.0, abs=0.1),
            "height_middle_mm": pytest.approx(26.0, abs=0.1),
            "height_posterior_mm": pytest.approx(26.0, abs=0.1),
            "width_mm": pytest.approx(34.0, abs=0.1),
            "tilt_degrees": pytest.approx(0.0, abs=0.1),
        }
        place = {"centroid_x_mm": 2.0, "centroid_y_mm": 64.0, "centroid_z_mm": -10.5}
        assert found["structures"][3] == {
            **sizes,
            **place,
            "name": "L4",
            "class_id": TABLE.id_of("L4"),
            "found": True,
            "confidence": pytest.approx(probability, abs=2e-3),
            "own_name": "L4",
            "voxels": 26 * 17 * 8,
            "volume_ml": 28.288,
            "height_mm": 26.0,
            "components": 1,
            "flag": "",
        }
        assert found["level_disagreement"] == 0.0

    def test_own_names_and_disagreement(self) -> None:
        """L4 is L3 to the network: low confidence, and a tenth of the pixels differ."""
        own = coarse(tuple("L3" if name == "L4" else name for name in LUMBAR))
        kept = evidence(own, coarse(LUMBAR))["level_evidence"]
        found = report(Spine().draw(), level_evidence=kept)
        assert found["level_disagreement"] == 0.1
        assert [row["own_name"] for row in found["structures"]][3:6] == ["L3", "L3/L4", "L3"]
        assert found["structures"][3]["confidence"] < 0.01 < 0.5 < found["structures"][5]["confidence"]
        assert (found["verdict"], found["reasons"]) == ("ok", [])  # one name of ten
        assert found["notes"] == ["The network itself sees L3 in 2 places, which are named L4, L3."]

    def test_most_names_are_others_to_the_network(self) -> None:
        """A shift of the whole spine by one level that decoding did not make is a reason."""
        shifted = tuple(TABLE.names[c] for c in CHAIN[2:12])
        kept = evidence(coarse(shifted), coarse(LUMBAR))["level_evidence"]
        found = report(Spine().draw(), level_evidence=kept)
        words = "The network itself sees another level in 10 of 10 structures: L4/L5 where L5/S is written."
        assert (found["verdict"], found["reasons"]) == ("check levels", [words])

    def test_implausible_is_never_found(self) -> None:
        found = report(Spine(slices={"L5": 1}).draw())
        rows = {row["name"]: row for row in found["structures"]}
        assert (rows["L5"]["found"], rows["L5"]["flag"], rows["L5"]["volume_ml"]) == (False, "size", 3.536)
        assert (rows["L4"]["found"], rows["L4"]["flag"]) == (True, "")

    def test_a_speck_is_no_structure(self) -> None:
        label = Spine().draw()
        label[label == TABLE.id_of("L3/L4")] = 0
        label[12, 100:103, 4] = TABLE.id_of("L3/L4")  # three voxels
        found = report(label)
        assert any("L3/L4 is missing between" in reason for reason in found["reasons"])
        assert "L3/L4" not in [row["name"] for row in found["structures"]]

    def test_missing_structures_have_no_voxel_in_the_file(self) -> None:
        label = Spine().draw()
        label[label == TABLE.id_of("L3/L4")] = 0
        label[10:14, 100:120, 4] = TABLE.id_of("L3/L4")  # 80 voxels: not missing, and not found
        found = report(label)
        assert not any("missing between" in reason for reason in found["reasons"])
        row = next(row for row in found["structures"] if row["name"] == "L3/L4")
        assert (row["voxels"], row["found"]) == (80, False)

    def test_plane_of_the_scan(self) -> None:
        """The same label map on a grid whose voxels are longest from head to foot."""
        axial = PIR @ np.diag([0.5, 5.0, 0.25, 1.0])
        found = report(Spine().draw(), sizes=None)
        assert found["verdict"] == "ok"
        data = {"pred": MetaTensor(torch.from_numpy(Spine().draw())[None], affine=axial)}
        made = LevelReportd("pred", TABLE, CHAIN)(data)["result"]
        assert made["verdict"] == "do not use"
        assert made["reasons"][0] == "The slices are axial, and the network was trained on sagittal ones alone."
        seen = LevelReportd("pred", TABLE, CHAIN, training_ranges={"planes": ["any", "axial"]})(data)["result"]
        assert "The slices are axial" not in " ".join(seen["reasons"])

    def test_unlike_training(self) -> None:
        found = report(Spine().draw(), unlike_training=["does not look like the others"])
        assert (found["verdict"], found["reasons"]) == ("check levels", ["The scan does not look like the others."])
        assert found["unlike_training"] == ["does not look like the others"]

    def test_zeros_around_the_scan_are_no_part_of_its_field(self) -> None:
        """The label map's grid goes on for 60 mm below the lowest disc; the scan shows 10 of them."""
        below = Spine(below=10)
        image = MetaTensor(torch.zeros(1, 210, 80, 10), affine=PIR[:, [1, 0, 2, 3]])
        assert below.draw().shape[1] == 210
        kept = evidence(coarse(LUMBAR), coarse(LUMBAR), image)["level_evidence"]
        found = report(Spine().draw(), level_evidence=kept)
        assert found["reasons"][0].startswith("The image ends 10 mm below L5/S")

    def test_one_slice(self) -> None:
        label = Spine().draw()[:, :, 4]
        data = RemoveOffSpined("pred")({"pred": label_map(label)})
        made = LevelReportd("pred", TABLE, CHAIN)(data)["result"]
        assert {row["name"]: row["voxels"] for row in made["structures"]}["L4"] == 26 * 17

    def test_log(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            report(np.zeros((4, 5, 6), np.uint8))
            report(Spine().draw())
        assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
            ("WARNING", "anna: do not use. No vertebra or disc was found."),
            ("INFO", "anna: ok."),
        ]

    def test_nothing_found(self) -> None:
        nothing = torch.zeros(8, 4, 2, dtype=torch.int64)
        kept = evidence(nothing, nothing)["level_evidence"]
        found = report(np.zeros((4, 5, 6), np.uint8), level_evidence=kept)
        assert (found["verdict"], found["structures"], found["level_disagreement"]) == ("do not use", [], 1.0)


class TestRemoveOffSpine:
    def test_removed_and_counted(self) -> None:
        label = Spine().draw()
        label[50:55, 100:110, 3:6] = TABLE.id_of("L4")  # 150 voxels of 8 mm3
        before = label_map(label)
        out = RemoveOffSpined("pred")({"pred": before})
        assert torch.equal(out["pred"].as_tensor(), label_map(Spine().draw()).as_tensor())
        assert out["pred"].meta["filename_or_obj"] == "scans/anna.nii.gz"
        assert int(before[0, 50, 100, 3]) == TABLE.id_of("L4")  # the given one is left alone
        found = report(label)
        assert (found["removed_components"], found["removed_ml"], found["verdict"]) == (1, 1.2, "ok")
        assert found["notes"] == ["1 part away from the spine, 1.2 ml, was removed from the label map."]
        assert {row["name"]: row["voxels"] for row in found["structures"]}["L4"] == 26 * 17 * 8

    def test_nothing_to_remove(self) -> None:
        data = {"pred": label_map(Spine().draw())}
        out = RemoveOffSpined("pred")(data)
        assert out["pred"] is data["pred"]
        assert out["removed_components"] == {"number": 0, "volume_ml": 0.0}


class TestSave:
    def test_file(self, tmp_path: Path) -> None:
        data = LevelReportd("pred", TABLE, CHAIN, SIZES)({"pred": label_map(Spine().draw())})
        out = SaveLevelReportd("pred", OutputFolder(tmp_path / "new"))(data)
        assert out["pred"] is data["pred"]
        text = (tmp_path / "new/anna_levels.json").read_text(encoding="utf-8")
        assert json.loads(text) == data["result"]
        assert text.startswith('{\n "verdict": "ok",\n "reasons": []')

    def test_a_report_that_is_switched_off(self, tmp_path: Path) -> None:
        SaveLevelReportd("pred", OutputFolder(tmp_path / "new"))({"pred": label_map(Spine().draw())})
        assert not (tmp_path / "new").exists()

    def test_monai_label_leaves_it_out(self) -> None:
        # its scoring by dropout filters this class, and takes the last step's scores for probabilities
        assert issubclass(SaveLevelReportd, SaveImaged)
