"""Whether a label fits its image: its values, its place, and the window of training."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.data.check.command import check_entries
from scripts.data.check.volumes import grid_mistakes, label_mistakes
from scripts.data.check.warnings import grid_warnings, window_warnings
from scripts.labels import ClassTable, LabelMap

AFFINE = np.array([[0, 0, 4.0, -10], [-2.0, 0, 0, 20], [0, -1.0, 0, 30], [0, 0, 0, 1]])  # axes PIR
SHAPE = (30, 40, 6)
IMAGE = {"shape": SHAPE, "affine": AFFINE}


def turned(axes: str) -> dict[str, object]:
    """The same grid with voxels stored along other axes."""
    image = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(AFFINE), nibabel.orientations.axcodes2ornt(tuple(axes))
    )
    made = image.as_reoriented(turn)
    return {"shape": made.shape, "affine": made.affine}


def moved(mm: float) -> dict[str, object]:
    affine = AFFINE.copy()
    affine[:3, 3] += mm
    return {"shape": SHAPE, "affine": affine}


class TestPlace:
    def test_same(self) -> None:
        assert grid_mistakes(IMAGE, moved(0.2)) == grid_warnings(IMAGE, moved(0.2)) == []

    @pytest.mark.parametrize("axes", ["AIR", "PIL", "RAS"])
    def test_other_axes_at_the_same_place(self, axes: str) -> None:
        """No advice to copy the image's header: that would mirror the label."""
        assert grid_mistakes(IMAGE, turned(axes)) == []
        assert f"(axes {axes}, its image PIR) at the same place" in grid_warnings(IMAGE, turned(axes))[0]

    def test_larger_and_smaller(self) -> None:
        affine = AFFINE.copy()
        affine[:3, 3] -= AFFINE[:3, :3] @ [3, 2, 1]
        large = {"shape": (36, 44, 8), "affine": affine}
        assert grid_mistakes(IMAGE, large) == []
        assert "shape (36, 44, 8)" in grid_warnings(IMAGE, large)[0]
        (mistake,) = grid_mistakes(large, IMAGE)
        assert "resample the label onto the image's grid" in mistake

    def test_segment_file_of_the_voxels_around_the_segments(self) -> None:
        """All outside is background there; other labels that end before their image have lost something."""
        affine = AFFINE.copy()
        affine[:3, 3] += AFFINE[:3, :3] @ [3, 2, 1]
        small = {"shape": (20, 30, 4), "affine": affine}
        assert "resample the label" in grid_mistakes(IMAGE, small)[0]
        small["cropped"] = True
        assert grid_mistakes(IMAGE, small) == []
        assert "shape (20, 30, 4)" in grid_warnings(IMAGE, small)[0]
        affine[0, 3] += 300
        assert grid_mistakes(IMAGE, small)

    @pytest.mark.parametrize("mm", [5.0, 40.0, np.nan])
    def test_elsewhere(self, mm: float) -> None:
        (mistake,) = grid_mistakes(IMAGE, moved(mm))
        assert f"lies {np.sqrt(3) * mm:.1f} mm away from its image" in mistake
        assert "header" not in mistake
        assert grid_warnings(IMAGE, moved(mm)) == []

    def test_files(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        label = np.zeros(SHAPE, np.uint8)
        label[10:14, 10:14], label[10:14, 14:18], label[10:14, 18:22] = 4, 13, 3
        nibabel.save(nibabel.Nifti1Image(rng.random(SHAPE, np.float32), AFFINE), tmp_path / "image.nii.gz")
        stored = nibabel.Nifti1Image(label, AFFINE).as_reoriented(np.array([[0, -1], [1, 1], [2, 1]]))
        nibabel.save(stored, tmp_path / "label.nii.gz")
        entry = {name: str(tmp_path / f"{name}.nii.gz") for name in ("image", "label")}
        problems = check_entries({"training": [entry]}, progress=False)
        assert [p.message for p in problems if p.level == "error"] == []
        assert [p for p in problems if p.path == entry["label"] and "at the same place" in p.message]


class TestValues:
    @pytest.mark.parametrize("values", [(2.9996, 3.0004), (3.0004, 4.0)])
    def test_nearly_whole_numbers(self, values: tuple[float, ...]) -> None:
        """They are rounded, not cut off: 2.9996 would be 2, which this map does not know."""
        label_map = LabelMap.load({"map": {"0": "background", "3": "L4", "4": "L3"}}, ClassTable.load())
        array = np.zeros((4, 4, 2), np.float32)
        array[0, 0] = values
        assert label_mistakes(array, label_map) == []
        assert "no whole numbers" in label_mistakes(array + 0.01, label_map)[0]


class TestWindow:
    def test_share_outside(self) -> None:
        label = np.zeros(SHAPE, np.uint8)  # 60 mm from front to back, 40 mm from head to foot
        label[0:10, 10:30] = 3  # 20 mm from the front
        assert window_warnings(label, AFFINE, (100, 60)) == []
        (warning,) = window_warnings(label, AFFINE, (100, 40))  # starts 10 mm from the front
        assert "has 50.0% of its labelled voxels outside of the window of 100 x 40 mm" in warning
        assert "--image_size" in warning
        assert "has 50.0%" in window_warnings(label, AFFINE, (10, 60))[0]

    def test_around_the_image_whatever_the_label_s_grid(self) -> None:
        label = np.zeros(SHAPE, np.uint8)
        label[0:10, 10:30] = 3
        affine = AFFINE.copy()
        affine[:3, 3] += AFFINE[:3, :3] @ [0, 8, 0]
        cropped = window_warnings(label[:12, 8:32], affine, (100, 40), IMAGE)
        assert cropped == window_warnings(label, AFFINE, (100, 40))

    def test_no_label(self) -> None:
        assert window_warnings(np.zeros(SHAPE), AFFINE, (1, 1)) == []
