"""DICOM stacks that are not one regular grid: the right affine, or one sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.data.check.command import check_scan
from scripts.data.check.volumes import UnusableError, read_volume
from scripts.data.dicom.series import convert_series, list_series
from tests.scan_files import FRAMES, PLACES, enhanced, write_dicom

itk = pytest.importorskip("itk", reason="DICOM is read with itk")


class TestMultiFrame:
    @pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [0, 2, 4, 1, 3, 5], [5, 4, 3, 2, 1, 0]])
    @pytest.mark.parametrize("whole", [True, False])
    def test_affine(self, tmp_path: Path, order: list[int], whole: bool) -> None:
        """Also of interleaved frames: every voxel where its frame says."""
        path = enhanced(tmp_path / "study/a.dcm", [PLACES[n] for n in order])
        array, affine = read_volume(path.parent if whole else path)
        assert array.shape == (10, 8, FRAMES)
        for slice_number in range(FRAMES):
            place = affine @ [0, 0, slice_number, 1]  # RAS
            assert array[..., slice_number].mean() == pytest.approx(100 - 10 * place[0] + 2, abs=1)
            np.testing.assert_allclose(place[1:3], [-5, 30], atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), [0.5, 0.75, 4])
        (series,) = list_series(path.parent)
        assert series.plane == "sagittal"
        convert_series(series, tmp_path / "made.nii.gz")
        converted, same = read_volume(tmp_path / "made.nii.gz")
        np.testing.assert_array_equal(converted, array)
        np.testing.assert_allclose(same, affine, atol=1e-4)

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"places": PLACES[:2] + PLACES[3:]}, "lacks about 1 slices"),
            ({"places": PLACES * 2, "echoes": [20.0] * FRAMES + [80.0] * FRAMES}, "several slices at the same place"),
            ({"places": [0, 4, 8, 13, 17, 21]}, "irregular distances (4.0 to 5.0 mm)"),
            ({"places": PLACES, "turned": 2}, "several orientations"),
            ({"places": PLACES, "shift": 0.2}, "shifted against each other"),
        ],
    )
    def test_refusal(self, tmp_path: Path, settings: dict[str, Any], sentence: str) -> None:
        path = enhanced(tmp_path / "a.dcm", **settings)
        (problem,) = check_scan(path)
        assert sentence in problem.message
        assert "Doe" not in problem.message

    def test_without_pydicom(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = enhanced(tmp_path / "a.dcm", PLACES)
        monkeypatch.setitem(sys.modules, "pydicom", None)
        with pytest.raises(UnusableError, match=r"read with pydicom; run `pip install -r requirements-dicom\.txt`"):
            read_volume(path)


class TestSingleFrames:
    AFFINE = np.array([[0, 0, 4.0, 0], [0.5, 0, 0, 0], [0, -0.5, 0, 0], [0, 0, 0, 1]])

    @pytest.mark.parametrize(("lost", "sentence"), [(2, "lacks about 1 slices"), (None, None)])
    def test_missing(self, tmp_path: Path, lost: int | None, sentence: str | None) -> None:
        array = np.random.default_rng(0).integers(0, 999, (9, 8, 6)).astype(np.int16)
        write_dicom(itk, array, self.AFFINE, tmp_path / "a")
        if lost is not None:
            (tmp_path / f"a/7_{lost}.dcm").unlink()
        errors = [problem.message for problem in check_scan(tmp_path / "a") if problem.level == "error"]
        assert [sentence in message for message in errors] == [True] * bool(sentence)
