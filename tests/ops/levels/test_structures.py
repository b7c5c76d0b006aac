from __future__ import annotations

import numpy as np
import pytest

from scripts.ops.levels.structures import field_of, measure, upwards
from tests.spines import PIR, TABLE, Spine

L4, DISC = TABLE.id_of("L4"), TABLE.id_of("L3/L4")


class TestMeasure:
    def test_value(self) -> None:
        """By hand, in voxels of 2 x 1 x 4 mm: a vertebra of 26 x 34 x 32 mm."""
        found = measure(Spine().draw(), PIR)
        vertebra, disc = found[L4], found[DISC]
        assert (vertebra.voxels, vertebra.volume_ml) == (26 * 17 * 8, pytest.approx(26 * 34 * 32 / 1000))
        assert disc.volume_ml == pytest.approx(10.88)
        assert (vertebra.height_mm, disc.height_mm) == (pytest.approx(26), pytest.approx(10))
        assert disc.low_mm == pytest.approx(vertebra.high_mm)
        assert vertebra.components == 1
        # rows 144 to 169 of 260 (60 below, L5/S, L5, L4/L5), z = 130 - row; columns 10 to 26, y = 100 - 2 column
        assert vertebra.centre_mm == pytest.approx((20 - 4 * 4.5, 100 - 2 * 18, 130 - (260 - 60 - 46 - 13 - 0.5)))
        assert vertebra.low_mm == pytest.approx(130 - (260 - 60 - 46) + 0.5)

    def test_axes_do_not_matter(self) -> None:
        label = Spine().draw()
        turned = PIR[:, [2, 0, 1, 3]].copy()  # the head-foot axis last, and from foot to head
        turned[:3, 3] += turned[:3, 2] * (label.shape[1] - 1)
        turned[:3, 2] *= -1
        first, second = measure(label, PIR), measure(label.transpose(2, 0, 1)[:, :, ::-1], turned)
        assert {c: (s.volume_ml, s.low_mm, s.high_mm) for c, s in first.items()} == {
            c: pytest.approx((s.volume_ml, s.low_mm, s.high_mm)) for c, s in second.items()
        }

    def test_stray_voxels_do_not_make_a_structure_high(self) -> None:
        label = Spine().draw()
        label[10, 20:23, 1] = DISC  # three of 1360 voxels, far above
        found = measure(label, PIR)[DISC]
        assert found.height_mm == pytest.approx(10)
        assert found.components == 2
        label[10:20, 20:23, 1:6] = DISC  # 150 are a tenth of all
        assert measure(label, PIR)[DISC].height_mm == pytest.approx(10)
        label[10:20, 20:23, 1:7] = DISC  # 180 of 1540 are more: the name lies in two places
        assert measure(label, PIR)[DISC].height_mm > 60

    def test_connected_stray_voxels(self) -> None:
        """A thread of one voxel a row hangs on a disc of 136 voxels a row."""
        label = Spine().draw()
        rows = np.flatnonzero((label == DISC).any((0, 2)))
        label[27, rows[0] - 6 : rows[-1], 4] = DISC
        assert measure(label, PIR)[DISC].height_mm == pytest.approx(10)

    def test_many_small_parts(self) -> None:
        """Twenty parts of a voxel, and one of two, which gives the height."""
        label = np.zeros((80, 260, 10), np.uint8)
        label[10, 10:90:4, 4] = DISC
        label[10, 100:102, 4] = DISC
        found = measure(label, PIR)[DISC]
        assert (found.components, found.height_mm) == (21, pytest.approx(2))

    def test_one_slice(self) -> None:
        found = measure(Spine().draw()[:, :, 4], PIR)[L4]
        assert (found.volume_ml, found.height_mm) == (pytest.approx(26 * 34 * 4 / 1000), pytest.approx(26))

    def test_nothing(self) -> None:
        assert measure(np.zeros((3, 3, 3), np.uint8), PIR) == {}


class TestField:
    def test_value(self) -> None:
        seen = field_of((80, 260, 10), PIR)
        assert (seen.low_mm, seen.high_mm) == (pytest.approx(130 - 259.5), pytest.approx(130.5))
        assert (seen.voxel_mm, seen.stack_mm) == (1.0, 40.0)
        double = field_of((80, 260, 10), PIR @ np.diag([1, 2, 1, 1]))
        assert (double.high_mm - double.low_mm, double.voxel_mm) == (520.0, 2.0)

    def test_upwards_is_towards_the_head(self) -> None:
        up, edge = upwards(PIR)
        assert up.tolist() == [0, 0, 1]
        assert edge == 1.0
        tilted = np.eye(4)
        tilted[:3, :3] = [[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, -3.0]]
        assert upwards(tilted)[0].tolist() == [0, 0, 1]
        assert upwards(tilted)[1] == 3.0
