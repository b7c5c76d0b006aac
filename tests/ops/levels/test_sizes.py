from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scripts.ops.levels.sizes import is_cut, learn_sizes, size_words
from scripts.ops.levels.structures import Field, Measured, field_of, measure
from tests.spines import LUMBAR, PIR, TABLE, Spine


def case(**changes: Any) -> tuple[dict[int, Measured], Field]:
    label = Spine(**changes).draw()
    return measure(label, PIR), field_of(label.shape, PIR)


def structure(volume_ml: float, height_mm: float, low_mm: float = 0.0) -> Measured:
    return Measured(100, volume_ml, low_mm, low_mm + height_mm, (0.0, 0.0, 0.0), 1)


FIELD = Field(-100.0, 200.0, 1.0, 40.0)


class TestLearnSizes:
    def test_one_patient(self) -> None:
        """Not the single value: divided and multiplied by 2 + 1, heights by 1.5 + 0.5."""
        found = learn_sizes([case()], TABLE)
        assert (found["cases"], found["stack_mm"]) == (1, [40.0, 40.0])
        assert found["structures"]["L4"] == {"cases": 1, "volume_ml": [9.43, 84.86], "height_mm": [13.0, 52.0]}
        assert found["structures"]["L3/L4"] == {"cases": 1, "volume_ml": [3.63, 32.64], "height_mm": [5.0, 20.0]}

    def test_more_patients_narrow_it(self) -> None:
        found = learn_sizes([case()] * 4, TABLE)["structures"]["L4"]
        assert found == {"cases": 4, "volume_ml": [12.57, 63.65], "height_mm": [16.0, 42.25]}  # by 2.25 and 1.625

    def test_class_that_no_label_names_takes_the_line_of_its_neighbours(self) -> None:
        """Heights grow by the factor 1.1 from level to level: T12 is the next of the line."""
        heights = {name: round(20 * 1.1**k) for k, name in enumerate(("L5", "L4", "L3", "L2", "L1"))}
        found = learn_sizes([case(height=heights)], TABLE)["structures"]
        assert found["T12"]["cases"] == 0
        low, high = found["T12"]["height_mm"]
        assert (low * high) ** 0.5 == pytest.approx(20 * 1.1**5, rel=0.02)
        assert high / low == pytest.approx(4.0, rel=0.01)
        assert "S" not in found  # no structure of its type was seen

    def test_spread_over_the_levels(self) -> None:
        """Two patients, the second larger by e^d: the deviations about the line are d / 2."""
        d = 0.4
        one = {TABLE.id_of(n): structure(10.0, 20.0) for n in ("L5", "L4", "L3", "L2")}
        other = {TABLE.id_of(n): structure(10.0 * np.exp(d), 20.0) for n in ("L5", "L4", "L3", "L2")}
        row = learn_sizes([(one, FIELD), (other, FIELD)], TABLE)["structures"]["L3"]
        factor = np.exp(4 * 1.4826 * d / 2)  # 3.3: more than the least of two cases, less than the most
        assert row["volume_ml"] == pytest.approx([10 * np.exp(d / 2) / factor, 10 * np.exp(d / 2) * factor], rel=0.01)
        other = {c: structure(10.0 * np.exp(2 * d), 20.0) for c in one}
        row = learn_sizes([(one, FIELD), (other, FIELD)], TABLE)["structures"]["L3"]
        assert row["volume_ml"] == pytest.approx([10 * np.exp(d) / 5, 10 * np.exp(d) * 5], rel=0.01)  # the most

    def test_widths_of_the_images(self) -> None:
        one = {TABLE.id_of("L4"): structure(10.0, 20.0)}
        cases = [(one, Field(-100.0, 200.0, 1.0, mm)) for mm in (25.24, 40.04)]
        assert learn_sizes(cases, TABLE)["stack_mm"] == [25.2, 40.0]

    def test_one_wrong_label_changes_little(self) -> None:
        regular = [case()] * 6
        wrong = [*regular, case(depth={"L3": 120})]
        first, second = (learn_sizes(cases, TABLE)["structures"]["L3"]["volume_ml"] for cases in (regular, wrong))
        assert second == pytest.approx(first, rel=0.1)

    def test_structures_that_the_border_cuts_are_left_out(self) -> None:
        found = learn_sizes([case(names=LUMBAR[1:], below=0, above=40)], TABLE)["structures"]
        assert (found["L5"]["cases"], found["L4"]["cases"]) == (0, 1)

    def test_sacrum_that_every_image_cuts(self) -> None:
        found = learn_sizes([case(names=("S", *LUMBAR), below=0)], TABLE)["structures"]
        assert found["S"] == {"cases": 1, "volume_ml": [21.76, 195.84], "height_mm": [30.0, 120.0]}  # 60 x 34 x 32 mm

    def test_nothing(self) -> None:
        assert learn_sizes([], TABLE) == {}
        assert learn_sizes([({}, FIELD)], TABLE) == {}


class TestSizeWords:
    SIZES = learn_sizes([case()], TABLE)

    @pytest.mark.parametrize(
        ("volume", "height", "words"),
        [
            (28.0, 26.0, ""),
            (9.44, 13.1, ""),
            (9.3, 26.0, "too small with 9.3 ml (plausible: 9.4 to 85)"),
            (344.0, 26.0, "too large with 344 ml (plausible: 9.4 to 85)"),
            (28.0, 12.9, "too low with 13 mm (plausible: 13 to 52)"),
            (28.0, 62.0, "too high with 62 mm (plausible: 13 to 52)"),
        ],
    )
    def test_value(self, volume: float, height: float, words: str) -> None:
        assert size_words("L4", structure(volume, height), FIELD, self.SIZES) == words

    def test_cut_structures_may_be_small_but_not_large(self) -> None:
        cut = structure(1.0, 3.0, low_mm=FIELD.high_mm - 3)
        assert size_words("L4", cut, FIELD, self.SIZES) == ""
        assert "too large" in size_words("L4", structure(90.0, 26.0, FIELD.high_mm - 26), FIELD, self.SIZES)

    @pytest.mark.parametrize(
        ("stack_mm", "volume", "fits"),
        [(20, 5.0, True), (20, 4.5, False), (20, 80, True), (80, 10, True), (80, 169, True), (80, 171, False)],
    )
    def test_narrower_and_wider_images(self, stack_mm: float, volume: float, fits: bool) -> None:
        seen = Field(-100.0, 200.0, 1.0, stack_mm)
        assert (size_words("L4", structure(volume, 26), seen, self.SIZES) == "") is fits

    def test_not_known(self) -> None:
        assert size_words("S", structure(1.0, 1.0), FIELD, self.SIZES) == ""
        assert size_words("L4", structure(1.0, 1.0), FIELD, {}) == ""


def test_is_cut() -> None:
    assert is_cut(structure(1, 26, FIELD.low_mm), FIELD) == "lower"
    assert is_cut(structure(1, 26, FIELD.low_mm + 1.4), FIELD) == "lower"
    assert is_cut(structure(1, 26, FIELD.low_mm + 1.6), FIELD) == ""
    assert is_cut(structure(1, 26, FIELD.high_mm - 26), FIELD) == "upper"
    coarse = Field(-100.0, 200.0, 2.0, 40.0)
    assert is_cut(structure(1, 26, coarse.low_mm + 2.9), coarse) == "lower"
    assert is_cut(structure(1, 26, coarse.low_mm + 3.1), coarse) == ""
