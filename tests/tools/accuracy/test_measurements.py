from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from scripts.__main__ import main
from scripts.tools.accuracy.measurements import Pair, agreement, words
from tests.measure.bodies import TABLE, Body, draw

BODIES = {"L4": Body(28, 26, 34, tilt=-6, centre=(0, -20)), "L3": Body(27, 27, 33, tilt=4, centre=(0, 20))}


class TestAgreement:
    def test_by_hand(self) -> None:
        """Differences 1, 3, 2: bias 2, standard deviation 1."""
        pairs = [Pair("", 10, 11), Pair("", 20, 23), Pair("", 30, 32), Pair("", 1, None), Pair("", None, None)]
        assert agreement(pairs) == pytest.approx(
            {"n": 3, "one": 1, "mean": 20, "bias": 2, "low": 0.04, "high": 3.96, "absolute": 2}
        )

    def test_too_few(self) -> None:
        one = agreement([Pair("", 10, 11)])
        assert (one["bias"], np.isnan(one["low"])) == (1, True)
        assert agreement([])["n"] == 0


def test_words() -> None:
    assert words("height_anterior_mm") == "height anterior, mm"
    assert words("disc_height_index") == "disc height index"


def test_page(tmp_path: Path) -> None:
    """A prediction with a body that is a voxel taller at both ends, and another under a wrong name."""
    true, affine = draw(BODIES, (4.0, 1.0, 1.0))
    predicted = np.where(true == TABLE.id_of("L3"), TABLE.id_of("L2"), 0).astype(np.uint8)
    predicted[ndimage.binary_dilation(true == TABLE.id_of("L4"), np.ones((1, 1, 3)))] = TABLE.id_of("L4")
    for folder, label in (("true", true), ("pred", predicted)):
        (tmp_path / folder).mkdir()
        nibabel.save(nibabel.Nifti1Image(label, affine), tmp_path / folder / "a.nii.gz")
    command = ["benchmark", "measurements", "--labels", str(tmp_path / "true"), "--predicted", str(tmp_path / "pred")]
    assert main([*command, "--out", str(tmp_path)]) == 0
    page = (tmp_path / "measurements.md").read_text(encoding="utf-8")
    cells = {row[1]: row for line in page.splitlines() if (row := [c.strip() for c in line.split("|")])[1:]}
    height = cells["vertebrae: height middle, mm"]
    assert height[2:4] == ["1", "0"]
    assert float(height[5]) == pytest.approx(2.0, abs=0.5)
    assert "1 predicted structures have none such" in page
