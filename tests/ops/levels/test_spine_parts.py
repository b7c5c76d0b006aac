from __future__ import annotations

import numpy as np
import pytest

from scripts.ops.levels.spine_parts import BESIDE_MM, NEAR_MM, SPECK_ML, off_spine, specks
from tests.spines import LUMBAR, PIR, TABLE, Spine

L4 = TABLE.id_of("L4")


def removed(label: np.ndarray) -> tuple[int, int]:
    away, parts = off_spine(label, PIR)
    assert not away[label == 0].any()
    return int(away.sum()), parts


def without(*names: str) -> np.ndarray:
    label = Spine().draw()
    label[np.isin(label, [TABLE.id_of(name) for name in names])] = 0
    return label


def columns_of(mm: float) -> np.ndarray:
    """The grid of the boxes with another length of a voxel from front to back."""
    affine = PIR.copy()
    affine[1, 0] = -mm
    return affine


class TestRealAnatomyStays:
    def test_whole_spine(self) -> None:
        assert removed(Spine().draw()) == (0, 0)

    @pytest.mark.parametrize("name", LUMBAR)
    def test_one_structure_missing(self, name: str) -> None:
        assert removed(without(name)) == (0, 0)

    def test_three_levels_missing(self) -> None:
        """The upper part lies on the centre line of the lower one, 98 mm above it."""
        assert removed(without("L4/L5", "L4", "L3/L4", "L3", "L2/L3")) == (0, 0)

    def test_disc_in_two_pieces(self) -> None:
        label = Spine().draw()
        label[17:20][label[17:20] == TABLE.id_of("L3/L4")] = 0
        assert removed(label) == (0, 0)

    def test_one_slice(self) -> None:
        away, parts = off_spine(without("L4")[:, :, 4], PIR)
        assert (away.shape, away.sum(), parts) == ((80, 260), 0, 0)

    def test_nothing(self) -> None:
        assert removed(np.zeros((4, 5, 6), np.uint8)) == (0, 0)


class TestPartsAway:
    def test_blob_in_the_abdomen(self) -> None:
        """Column 50 is 2 mm x (50 - 26) = 48 mm in front of the spine's last column."""
        label = Spine().draw()
        label[50:55, 100:110, 3:6] = L4
        away, parts = off_spine(label, PIR)
        assert (int(away.sum()), parts) == (5 * 10 * 3, 1)
        assert away[50:55, 100:110, 3:6].all()

    @pytest.mark.parametrize(("free_mm", "parts"), [(9.5, 0), (10.5, 1)])
    def test_distance_from_the_chain(self, free_mm: float, parts: int) -> None:
        """Voxels of half a millimetre from front to back; the centre of the part is 22 mm from that of the spine."""
        label = Spine().draw()
        first = 26 + int(free_mm / 0.5)  # the last column of the spine is 26: centres are `free_mm` apart
        label[first : first + 30, 100:120, 2:8] = L4
        assert off_spine(label, columns_of(0.5))[1] == parts

    @pytest.mark.parametrize(("column", "parts"), [(57, 0), (59, 1)])
    def test_distance_from_the_line(self, column: int, parts: int) -> None:
        """The spine's middle is column 18: half a millimetre less and more than 20 mm, and more than 10 mm away."""
        label = Spine().draw()
        label[column, 130, 4:6] = L4
        assert off_spine(label, columns_of(0.5))[1] == parts

    @pytest.mark.parametrize(("column", "parts"), [(18 + 29, 0), (18 + 31, 1)])
    def test_distance_from_the_line_beyond_its_end(self, column: int, parts: int) -> None:
        """40 mm above the end of the spine 10 mm more are allowed."""
        label = Spine(above=60).draw()
        label[column, 20, 4:6] = L4
        assert off_spine(label, columns_of(1.0))[1] == parts

    @pytest.mark.parametrize(("upper", "parts"), [(True, 0), (False, 1)])
    @pytest.mark.parametrize("turned", [False, True])
    def test_tilted_spine(self, upper: bool, turned: bool, parts: int) -> None:
        """A chain of 50 mm that leans by 0.8 mm a millimetre; a part 70 mm beyond, on its line or straight above it."""
        label = np.zeros((200, 260, 6), np.uint8)
        for row in range(150, 200):
            start = 20 + round((200 - row) * 0.8)
            label[start : start + 8, row] = L4
        end = 20 + 40
        on_line = end + 56
        start = on_line if upper else end
        label[start : start + 8, 78:82] = L4
        label = label[:, ::-1] if turned else label
        assert off_spine(label, columns_of(1.0))[1] == parts

    @pytest.mark.parametrize(("on_curve", "parts"), [(True, 0), (False, 1)])
    def test_curved_spine(self, on_curve: bool, parts: int) -> None:
        """A parabola of 100 mm that leaves its ends with a slope of 0.8, 56 mm in 70: beside the mean line by 60 mm."""
        label = np.zeros((200, 260, 6), np.uint8)
        for row in range(130, 230):
            start = 20 + round(0.008 * (row - 180) ** 2)
            label[start : start + 8, row] = L4
        start = 20 + 20 + 56 if on_curve else 20 + 7
        label[start : start + 8, 58:62] = L4
        assert off_spine(label, columns_of(1.0))[1] == parts

    def test_nearest_first_and_then_on_from_it(self) -> None:
        """Two parts above the spine: the second fits the line that the first bends."""
        label = np.zeros((200, 260, 6), np.uint8)
        label[20:28, 200:250] = L4
        label[45:53, 150:160] = L4  # 25 mm off, 45 mm beyond: 31 are allowed
        label[90:98, 90:100] = L4  # 70 mm off the first line, 105 beyond: 46 are allowed
        assert off_spine(label, columns_of(1.0))[1] == 0
        label[45:53, 150:160] = 0
        assert off_spine(label, columns_of(1.0))[1] == 1

    @pytest.mark.parametrize(("column", "parts"), [(10, 0), (60, 1)])
    def test_line_of_one_structure_is_straight(self, column: int, parts: int) -> None:
        """A vertebra alone has no direction of its own: what lies above it is on its line, what lies beside is not."""
        label = np.zeros((80, 260, 9), np.uint8)
        label[10:26, 100, 3:6], label[column : column + 10, 160, 3:6] = L4, L4
        assert removed(label)[1] == parts

    def test_the_largest_part_is_the_spine(self) -> None:
        label = np.zeros((80, 260, 10), np.uint8)
        label[60:63, 10:13, 1:3] = L4
        label[10:20, 100:200, 1:9] = L4
        assert removed(label) == (3 * 3 * 2, 1)

    def test_naive_twin_of_the_growth(self) -> None:
        """Parts that are near to each other in a row: all pairs of voxels."""
        rng = np.random.default_rng(0)
        label = np.zeros((40, 60, 6), np.uint8)
        label[5:10, :, 1:5] = 1
        for x, y, z in zip(rng.integers(12, 38, 25), rng.integers(0, 58, 25), rng.integers(0, 5, 25), strict=True):
            label[x : x + 2, y : y + 2, z] = 1
        places = np.argwhere(label) @ PIR[:3, :3].T
        near = np.linalg.norm(places[:, None] - places[None], axis=2) <= NEAR_MM
        kept = (np.argwhere(label)[:, 0] < 10).astype(bool)
        for _ in range(len(kept)):
            kept |= near[kept].any(0)
        away, _ = off_spine(label, PIR)
        along_line = np.abs(np.argwhere(label)[:, 0] - 7) * 2 <= BESIDE_MM  # all lie beside the chain, none beyond it
        assert not away[label > 0][kept].any()
        assert away[label > 0][~kept & ~along_line].all()


class TestSpecks:
    def test_by_the_volume_of_all_voxels_together(self) -> None:
        """Voxels of 8 mm³: six are .048 ml, seven .056."""
        label = np.zeros((9, 9, 3), dtype=np.uint8)
        label[1, :6, 1] = 3
        label[3, :7, 1] = 4
        label[5, :4, 1], label[7, 5:8, 2] = 5, 5
        mask = specks(label, np.diag([2.0, -2.0, 2.0, 1.0]))
        assert np.array_equal(mask, label == 3)
        assert SPECK_ML == 0.05

    def test_none(self) -> None:
        assert not specks(np.zeros((3, 3), dtype=np.uint8), np.eye(4)).any()
        assert not specks(Spine().draw(), PIR).any()
