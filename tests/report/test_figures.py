from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scripts.labels import IGNORE, ClassTable
from scripts.report.figure_style import (
    LARGEST,
    colours,
    grey,
    new_figure,
    outlines,
    painted,
    pieces,
    save,
    show,
    window_around,
    write_names,
)
from scripts.report.figures import (
    attention_panel,
    attention_rows,
    method_strip,
    overlay,
    overlay_volume,
    prompt_map_panel,
    representative_slices,
)

TABLE = ClassTable.load()
L5, L4, DISC = 2, 3, 12


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).random((48, 32))


@pytest.fixture
def label() -> np.ndarray:
    found = np.zeros((48, 32), dtype=np.int64)
    found[4:14, 10:22], found[15:18, 10:22], found[20:30, 10:22] = L4, DISC, L5
    found[40:44, 10:22] = IGNORE
    return found


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


class TestOverlay:
    def test_a_panel_more_with_truth(self, image, label, tmp_path):
        with_truth = png_size(overlay(image, label, label, TABLE, tmp_path / "new" / "a.png"))
        without = png_size(overlay(image, None, label, TABLE, tmp_path / "b.png"))
        assert with_truth[0] == pytest.approx(1.5 * without[0], abs=1)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["b.png", "new"]  # no scratch file stays

    def test_spacing_keeps_square_millimetres(self, image, label, tmp_path):
        square = png_size(overlay(image, label, label, TABLE, tmp_path / "a.png"))
        tall = png_size(overlay(image, label, label, TABLE, tmp_path / "b.png", spacing=(2.0, 1.0)))
        assert tall[1] > 1.8 * square[1]

    def test_empty_prediction(self, image, tmp_path):
        empty = np.zeros(image.shape, dtype=np.int64)
        assert png_size(overlay(image, None, empty, TABLE, tmp_path / "a.png"))[1] > 0

    def test_volume_has_a_row_per_slice(self, image, label, tmp_path):
        volume, labels = np.stack([image] * 5, -1), np.stack([label] * 5, -1)
        one, three = (
            png_size(overlay_volume(volume, labels, labels, TABLE, tmp_path / f"{n}.png", count=n)) for n in (1, 3)
        )
        assert three[1] > 2.7 * one[1]


class TestTellingSlices:
    def test_value(self):
        label = np.zeros((4, 4, 6), dtype=np.int64)
        label[0, :, 1] = L5
        label[0, :, 3], label[1, :, 3] = L5, L4
        label[0, :, 4], label[1, :2, 4] = L5, L4
        assert representative_slices(label, 1) == [3]
        assert representative_slices(label, 2) == [1, 3]  # 4 is a neighbour of 3

    def test_neighbours_if_need_be(self):
        assert representative_slices(np.ones((2, 2, 3), dtype=np.int64), 5) == [0, 1, 2]


class TestOtherPanels:
    @pytest.mark.parametrize("mask_size", [(12, 8), (48, 32)])
    def test_attention_panel(self, image, tmp_path, mask_size):
        generator = np.random.default_rng(0)
        maps, masks = generator.random((20, 12, 8)), generator.random((20, *mask_size)) > 0.5
        assert png_size(attention_panel(image, maps, masks, TABLE, tmp_path / "a.png"))[0] > 1000

    def test_attention_panel_of_some_classes(self, image, tmp_path):
        maps = np.random.default_rng(0).random((TABLE.num_classes, 4, 4))
        sizes = [
            png_size(attention_panel(image, maps, maps > 0.5, TABLE, tmp_path / "a.png", classes=classes))
            for classes in (None, [0, 3, 5], range(TABLE.num_classes))
        ]
        assert sizes[0] == sizes[2]
        assert sizes[1][1] < sizes[0][1] / 2  # one row in place of four

    def test_attention_panel_without_attention(self, image, tmp_path):
        maps = np.zeros((20, 12, 8))
        assert png_size(attention_panel(image, maps, maps > 0, TABLE, tmp_path / "a.png"))[0] > 1000

    def test_prompt_map_panel(self, image, label, tmp_path):
        four = png_size(prompt_map_panel(image, label, label, label, tmp_path / "a.png", TABLE))
        three = png_size(prompt_map_panel(image, label, label, None, tmp_path / "b.png"))
        assert four[0] == pytest.approx(4 / 3 * three[0], abs=2)  # edges are rounded to pixels


class TestDrawing:
    def test_grey(self):
        assert grey(np.full((3, 3), 7.0)).tolist() == np.zeros((3, 3)).tolist()
        stretched = grey(np.arange(1000.0).reshape(40, 25))
        assert (stretched.min(), stretched.max()) == (0, 1)

    def test_painted(self, image, label):
        picture = painted(image, label, TABLE)
        background = label == 0
        assert np.array_equal(picture[background], np.repeat(grey(image)[background][:, None], 3, axis=1))
        assert np.array_equal(picture[4, 10], colours(TABLE)[L4])  # outline in the full colour
        assert np.array_equal(picture[41, 12], np.full(3, grey(image)[41, 12]))  # ignored: outlined only
        assert np.array_equal(picture[40, 12], np.ones(3))

    def test_outlines(self):
        label = np.zeros((5, 5), dtype=np.int64)
        label[1:4, 1:4] = 3
        expected = label > 0
        expected[2, 2] = False
        assert np.array_equal(outlines(label), expected)

    def test_window(self, label):
        rows, columns = window_around([label], margin=0.0)
        assert (rows, columns) == (slice(4, 30), slice(10, 22))
        assert window_around([np.zeros((6, 4), dtype=int)]) == (slice(0, 6), slice(0, 4))

    def test_pieces(self):
        mask = np.zeros((9, 9), dtype=bool)
        mask[0, :] = mask[:, 8] = mask[8, 2:] = True  # one long hook
        mask[3:5, 3:5] = True
        mask[5, 5] = True  # touches the block at a corner
        found = pieces(mask)
        assert sorted(len(rows) for rows, _ in found) == [5, 23]
        assert sum(found_mask(piece, mask.shape).astype(int) for piece in found).tolist() == mask.astype(int).tolist()
        assert pieces(np.zeros((3, 3), dtype=bool)) == []

    def test_names_stand_in_large_pieces(self, label):
        label[32:39, 12:20] = L4  # a second L4, and a crumb of it
        label[46, 1] = L4
        _, axes = new_figure(1, 1, (2, 2))
        show(axes[0, 0], np.zeros(label.shape))
        write_names(axes[0, 0], label, TABLE)
        names = {(t.get_text(), t.get_position()[1]) for t in axes[0, 0].texts}
        assert names == {("L4", 8.5), ("L4", 35.0), ("L4/L5", 16.0), ("L5", 24.5)}


def found_mask(piece: tuple[np.ndarray, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[piece] = True
    return mask


class TestMethodStrip:
    def test_rows_of_equal_panels(self, image, label, tmp_path):
        few = method_strip(image, label, {"a": (label, "Dice 1.0")}, TABLE, tmp_path / "a.png")
        many = {f"method {i}": (np.roll(label, i, axis=1), "") for i in range(15)}
        large = method_strip(image, label, many, TABLE, tmp_path / "b.png")
        assert png_size(large)[1] > 1.5 * png_size(large)[0] * png_size(few)[1] / (3 * png_size(few)[0])
        assert large.stat().st_size <= LARGEST


class TestAttentionRows:
    def test_a_row_for_each_model(self, image, label, tmp_path):
        maps = np.random.default_rng(1).random((TABLE.num_classes, *image.shape))
        maps[L4] = 0  # a class that never was labelled
        one = attention_rows(image, label, {"CPS4": maps}, [L5, L4, 6], TABLE, tmp_path / "a.png")
        two = attention_rows(image, label, {"CPS4": maps, "CLIP": maps}, [L5, L4, 6], TABLE, tmp_path / "b.png")
        assert png_size(two)[1] > 1.7 * png_size(one)[1]


class TestSave:
    def test_large_pictures_become_coarser(self, tmp_path):
        figure, axes = new_figure(1, 1, (3, 3))
        axes[0, 0].imshow(np.random.default_rng(0).random((300, 300)))
        fine = png_size(save(figure, tmp_path / "a.png"))
        coarse = png_size(save(figure, tmp_path / "a.png", largest=60_000))
        assert coarse[0] < fine[0]
