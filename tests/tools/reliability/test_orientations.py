from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from scripts.tools.reliability.bad_input import NEAR_VOXELS
from scripts.tools.reliability.orientations import affine_of, cases, check_orientations


class TestCases:
    def test_all_48_orders(self) -> None:
        for whole, count in ((True, 576), (False, 48)):
            affines = [affine_of(*case) for case in cases(whole)]
            assert len(affines) == count
            straight = {
                nib.aff2axcodes(affine_of(order, signs, (1, 1, 1), (0, 0, 0))) for order, signs, *_ in cases(whole)
            }
            assert len(straight) == 48

    def test_left_and_right_handed(self) -> None:
        hands = [np.sign(np.linalg.det(affine_of(*case)[:3, :3])) for case in cases(False)]
        assert sorted(hands) == [-1.0] * 24 + [1.0] * 24


class TestCheckOrientations:
    def test_a_marked_voxel_comes_home(self, tmp_path: Path) -> None:
        rows = check_orientations(tmp_path, whole=False)
        assert len(rows) == 48
        assert [row for row in rows if not row["same_grid"] or row["off_voxels"] > NEAR_VOXELS] == []

    def test_it_would_be_noticed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # a label map whose first axis is turned round must not pass
        write = nib.Nifti1Image.to_filename

        def turned(image: nib.Nifti1Image, path: Path) -> None:
            turns = "_seg" in Path(path).name
            write(nib.Nifti1Image(np.asarray(image.dataobj)[:: -1 if turns else 1], image.affine), path)

        monkeypatch.setattr(nib.Nifti1Image, "to_filename", turned)
        monkeypatch.setattr("scripts.tools.reliability.orientations.cases", lambda whole: list(cases(False))[:3])
        assert max(row["off_voxels"] for row in check_orientations(tmp_path, seed=1)) > NEAR_VOXELS
