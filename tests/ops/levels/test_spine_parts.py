from __future__ import annotations

import numpy as np
import pytest

from scripts.ops.levels.spine_parts import BESIDE_MM, NEAR_MM, off_spine
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

    @pytest.mark.parametrize(("free_mm", "parts"), [(NEAR_MM - 1, 0), (NEAR_MM + 1, 1)])
    def test_stated_distance(self, free_mm: float, parts: int) -> None:
        """Beside the spine along head-foot's right angle, in voxels of 1 mm, small against the spine."""
        affine = PIR * [[0.5, 1, 1, 1]] * 1.0
        label = Spine().draw()
        first = 27 + int(free_mm) - 1  # the last column of the spine is 26: centres are `free_mm` apart
        label[first : first + 20, 100:120, 2:8] = L4
        assert off_spine(label, affine)[1] == parts

    def test_a_part_beyond_the_end_but_beside_the_line(self) -> None:
        label = Spine(above=90).draw()
        label[40:45, 5:15, 3:6] = TABLE.id_of("T12")  # 75 mm above, its centre 48 mm before that of the spine
        assert removed(label) == (150, 1)
        label[40:45, 5:15, 3:6] = 0
        label[18:23, 5:15, 3:6] = TABLE.id_of("T12")  # 4 mm
        assert BESIDE_MM > 4
        assert removed(label) == (0, 0)

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
