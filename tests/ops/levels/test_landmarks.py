from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from scripts.ops.levels.landmarks import Landmarks, find_landmarks

VERTEBRA, DISC = 1, 2
HEIGHT, WIDTH, GAP_MM, DISC_MM, DEPTH_MM = 160, 80, 34.0, 9.0, 36.0


def drawn(tilts: tuple[float, ...], pixel_mm: float = 1.2, slices: int = 3, spine_tilt: float = 0.0) -> Tensor:
    """Tissue (S, H, W) of discs with these tilts, from the lowest upwards, with vertebrae between and around them."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    middle = WIDTH / 2 + spine_tilt * (y - HEIGHT / 2)
    tissue = np.where(np.abs(x - middle) * pixel_mm <= DEPTH_MM / 2, VERTEBRA, 0)
    for row, tilt in zip(rows_of(tilts, pixel_mm), tilts, strict=True):
        centre = WIDTH / 2 + spine_tilt * (row - HEIGHT / 2)
        along = (y - row) - np.tan(np.radians(tilt)) * (x - centre)  # the front, on the left, is higher
        tissue[(np.abs(along) * pixel_mm * np.cos(np.radians(tilt)) <= DISC_MM / 2) & (tissue > 0)] = DISC
    return torch.from_numpy(tissue)[None].repeat(slices, 1, 1)


def rows_of(tilts: tuple[float, ...], pixel_mm: float = 1.2) -> list[float]:
    lowest = HEIGHT / 2 + (len(tilts) - 1) / 2 * GAP_MM / pixel_mm
    return [lowest - k * GAP_MM / pixel_mm for k in range(len(tilts))]


class TestFindLandmarks:
    @pytest.mark.parametrize("pixel_mm", [0.9, 1.2, 1.55])
    @pytest.mark.parametrize("tilts", [(-30.0, -10.0, 5.0), (20.0, 0.0), (0.0,)])
    def test_rows_tilts_and_areas(self, tilts: tuple[float, ...], pixel_mm: float) -> None:
        tissue = drawn(tilts, pixel_mm)
        found, rows = find_landmarks(tissue, DISC, pixel_mm)
        assert rows.shape == tissue.shape
        assert len(found) == len(tilts)
        np.testing.assert_allclose(found.rows, rows_of(tilts, pixel_mm), atol=1.5)
        # Ends of a disc that is steep against the spine's line lie outside its rows: it is measured less steep.
        share = found.tilt[np.array(tilts) != 0] / np.array(tilts)[np.array(tilts) != 0]
        assert ((share > 0.55) & (share < 1.15)).all()
        assert (np.diff(found.tilt) * np.diff(tilts) > 0).all()
        per_slice = (tissue[0] == DISC).sum() * pixel_mm**2 / len(tilts)
        np.testing.assert_allclose(found.area, float(per_slice), rtol=0.25)

    def test_mean_over_slices_weighs_by_pixels(self) -> None:
        """A slice with a disc of half the depth counts half as much for the tilt."""
        tissue = drawn((0.0,), slices=2)
        tissue[1] = drawn((20.0,), slices=1)[0]
        tissue[1, :, : WIDTH // 2] = 0
        one = [find_landmarks(tissue[k : k + 1], DISC, 1.2)[0] for k in range(2)]
        both, _ = find_landmarks(tissue, DISC, 1.2)
        share = one[1].area[0] / (one[0].area[0] + one[1].area[0])
        assert both.tilt[0] == pytest.approx((1 - share) * one[0].tilt[0] + share * one[1].tilt[0], abs=3)
        assert both.area[0] == pytest.approx((1 - share) * one[0].area[0] + share * one[1].area[0], rel=0.1)

    def test_place_is_in_mm_below_the_middle(self) -> None:
        marks = Landmarks(np.array([9.0, 4.0]), np.zeros(2), np.ones(2), height=11, pixel_mm=2.0)
        assert marks.place.tolist() == [8.0, -2.0]

    def test_along_an_oblique_spine(self) -> None:
        found, _ = find_landmarks(drawn((0.0, 0.0, 0.0), spine_tilt=0.2), DISC, 1.2)
        np.testing.assert_allclose(found.rows, rows_of((0.0, 0.0, 0.0)), atol=1.5)

    def test_missed_and_merged_with_none(self) -> None:
        tissue = drawn((0.0, 0.0, 0.0))
        row = round(rows_of((0.0, 0.0, 0.0))[1])
        tissue[:, row - 8 : row + 8][tissue[:, row - 8 : row + 8] == DISC] = VERTEBRA
        found, _ = find_landmarks(tissue, DISC, 1.2)
        assert len(found) == 2

    def test_a_speck_is_none(self) -> None:
        tissue = drawn((0.0,))
        tissue[:, 30:33, 38:42] = DISC
        assert len(find_landmarks(tissue, DISC, 1.2)[0]) == 1

    def test_vertebrae_alone(self) -> None:
        """A table without discs: bodies with a gap between them."""
        tissue = drawn((0.0, 0.0, 0.0))
        tissue[tissue == DISC] = 0
        found, _ = find_landmarks(tissue, VERTEBRA, 1.2)
        assert len(found) >= 2
        gaps = -np.diff(found.rows) * 1.2
        assert abs(gaps[len(gaps) // 2] - GAP_MM) < 8

    def test_nothing(self) -> None:
        found, rows = find_landmarks(torch.zeros(2, 9, 5, dtype=torch.int64), DISC, 1.0)
        assert len(found) == 0
        assert rows.shape == (2, 9, 5)

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match=r"tissue must be \(S, H, W\), got \(4, 5\)"):
            find_landmarks(torch.zeros(4, 5), DISC, 1.0)
