"""Scores of a folder of label maps against a folder of labels."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.__main__ import main
from scripts.commands.evaluate import case_of, evaluate, pair_by_name
from scripts.data.datalist import DataError

AFFINE = np.diag([4.0, 1.0, 2.0, 1.0])


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.astype(np.uint8), affine), path)
    return path


def spine(shift: int = 0) -> np.ndarray:
    """L5 (2), L4 (3) above it and the disc between them (12), blocks of 4 voxels in height."""
    array = np.zeros((3, 12, 24))
    for bottom, class_id in ((4, 2), (8, 12), (12, 3)):
        array[:, 4:8, bottom + shift : bottom + shift + 4] = class_id
    return array


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name, shift in (("a", 0), ("b", 1)):
        write(tmp_path / "truth" / f"{name}.nii.gz", spine())
        write(tmp_path / "pred" / f"{name}_seg.nii.gz", spine(shift))
    return tmp_path / "pred", tmp_path / "truth"


class TestEvaluate:
    def test_value(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        """A block of 4 that lies 1 too high covers 3: Dice 0.75, IoU 3/5, HD95 one voxel of 2 mm."""
        summary = evaluate(*folders, tmp_path / "out")
        assert summary["n_cases"] == 2
        assert summary["mdice"] == pytest.approx((1 + 0.75) / 2)
        assert summary["miou"] == pytest.approx((1 + 0.6) / 2)
        assert summary["groups"]["disc"]["dice"] == pytest.approx((1 + 0.75) / 2)
        assert summary["levels_right"] == 1.0
        assert summary == json.loads((tmp_path / "out/summary.json").read_text(encoding="utf-8"))
        rows = list(csv.DictReader((tmp_path / "out/per_case.csv").read_text(encoding="utf-8").splitlines()))
        (row,) = [row for row in rows if (row["case"], row["class"]) == ("b", "L5")]
        assert (float(row["dice"]), float(row["hd95_mm"])) == (0.75, 2.0)

    def test_label_map(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        """Labels in the numbers of another data set score as those that they stand for."""
        other = {2: 50, 3: 40, 12: 7}
        for path in folders[1].iterdir():
            array = np.asarray(nibabel.load(path).dataobj)
            write(path, sum(np.where(array == c, value, 0) for c, value in other.items()))
        mapping = {"0": "background", "50": "L5", "40": "L4", "7": "L4/L5"}
        file = tmp_path / "map.json"
        file.write_text(json.dumps({"map": mapping, "unlabelled_classes": ["S"]}), encoding="utf-8")
        assert evaluate(*folders, tmp_path / "out", label_map=str(file))["mdice"] == pytest.approx((1 + 0.75) / 2)
        with pytest.raises(DataError, match="as class ids they do not fit"):
            evaluate(*folders, tmp_path / "other")

    def test_unlabelled_class_enters_no_score(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        array = spine()
        array[:, 4:8, 0:4] = 1
        write(folders[0] / "a_seg.nii.gz", array)
        assert evaluate(*folders, tmp_path / "one")["spurious"] == 1
        assert evaluate(*folders, tmp_path / "two", unlabelled=["S"])["spurious"] == 0

    @pytest.mark.parametrize("kind", ["shape", "place", "axes"])
    def test_other_grid(self, folders: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
        moved, flipped = AFFINE.copy(), AFFINE @ np.diag([1.0, -1.0, 1.0, 1.0])
        moved[0, 3], flipped[1, 3] = 40.0, 11.0
        array, affine = {"shape": (spine()[:, :, :20], AFFINE), "place": (spine(), moved), "axes": (spine(), flipped)}[
            kind
        ]
        path = write(folders[0] / "a_seg.nii.gz", array, affine)
        with pytest.raises(DataError, match=rf"{path}: .*; resample it onto the grid of .*a\.nii\.gz") as raised:
            evaluate(*folders, tmp_path / "out")
        assert "\n" not in str(raised.value)
        assert not (tmp_path / "out").exists()

    def test_unknown_value(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        path = write(folders[0] / "a_seg.nii.gz", spine() * 20)
        with pytest.raises(DataError, match=f"{path}: "):
            evaluate(*folders, tmp_path / "out", label_map="mrspineseg", pred_label_map="mrspineseg")

    def test_a_foreign_summary_is_kept(self, folders: tuple[Path, Path]) -> None:
        (folders[0] / "summary.json").write_text("mine", encoding="utf-8")
        with pytest.raises(DataError, match=r"summary\.json was not written by this program"):
            evaluate(*folders, folders[0])
        assert (folders[0] / "summary.json").read_text(encoding="utf-8") == "mine"
        evaluate(*folders, folders[0], overwrite=True)
        evaluate(*folders, folders[0])


class TestPairs:
    @pytest.mark.parametrize("name", ["a.nii.gz", "a_seg.nii.gz", "mask_a.mha", "labels/a.nii.gz", "A-label.nrrd"])
    def test_names(self, tmp_path: Path, name: str) -> None:
        assert case_of(tmp_path / name, tmp_path) == "a"

    def test_folders_are_part_of_a_name(self, tmp_path: Path) -> None:
        assert case_of(tmp_path / "p1/t2.nii.gz", tmp_path) == case_of(tmp_path / "p1_t2_seg.nii.gz", tmp_path)

    def test_label_without_label_map(self, folders: tuple[Path, Path]) -> None:
        missing = write(folders[1] / "c.nii.gz", spine())
        with pytest.raises(DataError, match=f"{missing}: .* holds no label map of that name"):
            pair_by_name(*folders)

    def test_label_map_without_label_is_left_out(self, folders: tuple[Path, Path]) -> None:
        write(folders[0] / "c_seg.nii.gz", spine())
        assert sorted(pair_by_name(*folders)) == ["a", "b"]

    def test_two_of_one_name(self, folders: tuple[Path, Path]) -> None:
        write(folders[0] / "a.nii.gz", spine())
        with pytest.raises(DataError, match="is of the same case, a"):
            pair_by_name(*folders)

    @pytest.mark.parametrize("name", ["nothing", "empty"])
    def test_no_files(self, folders: tuple[Path, Path], tmp_path: Path, name: str) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match="there is no"):
            pair_by_name(folders[0], tmp_path / name)


class TestCommand:
    def test_table(self, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["evaluate", *map(str, folders), "--no-distances"]) == 0
        said = capsys.readouterr().out
        assert "all structures" in said
        assert "87.50" in said
        assert "levels L5 to L1 right in 100.00 %" in said
        assert (folders[0] / "summary.json").is_file()

    def test_error(self, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["evaluate", str(folders[0]), "nowhere"]) == 1
        assert capsys.readouterr().err.startswith("Error: nowhere: there is no such folder")
