"""The picture of a labelled scan: the same for every orientation of its file, upright, with the table's colours."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from PIL import Image

from scripts.labels import IGNORE
from scripts.report.spine_picture import BESIDE, GAP, HEIGHT, LARGEST, WIDTH, _curve, _panels, _upright, spine_picture
from tests.spines import LUMBAR, PIR, TABLE, Spine

AXES = ["".join(ends) for order in itertools.permutations(("RL", "AP", "SI")) for ends in itertools.product(*order)]
"""All 48."""


def scan(label: np.ndarray) -> np.ndarray:
    """Grey values of which no two slices, rows or columns are alike."""
    x, y, z = np.indices(label.shape)
    return (x + 2 * y + 5 * z + 40 * (label > 0)).astype(np.float32)


def reoriented(volume: np.ndarray, axes: str) -> np.ndarray:
    return np.ascontiguousarray(apply_orientation(volume, ornt_transform(io_orientation(PIR), axcodes2ornt(axes))))


def affine_of(shape: tuple[int, ...], axes: str) -> np.ndarray:
    return PIR @ inv_ornt_aff(ornt_transform(io_orientation(PIR), axcodes2ornt(axes)), shape)


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)


def drawn(label: np.ndarray, image: np.ndarray | None = None) -> np.ndarray:
    return pixels(spine_picture(scan(label) if image is None else image, label, PIR, TABLE))


class TestOrientation:
    @pytest.mark.parametrize("axes", AXES)
    def test_every_file_is_turned_upright(self, axes: str) -> None:
        label = Spine().draw()
        image = scan(label)
        turned = reoriented(image, axes), reoriented(label, axes), affine_of(label.shape, axes)
        for found, wanted in zip(_upright(*turned), upright(image, label), strict=True):
            np.testing.assert_allclose(found, wanted)

    def test_and_drawn_alike(self) -> None:
        label = Spine().draw()
        image = scan(label)
        turned = reoriented(image, "LSA"), reoriented(label, "LSA"), affine_of(label.shape, "LSA")
        assert spine_picture(*turned, TABLE) == spine_picture(image, label, PIR, TABLE)

    def test_head_up_and_front_on_the_left(self) -> None:
        label = Spine().draw()
        for bright, part, other in (
            (np.s_[:, :20], np.s_[:40, :250], np.s_[-80:-40, :250]),
            (np.s_[:12], np.s_[:-40, :20], np.s_[:-40, 200:250]),
        ):
            image = np.zeros(label.shape, np.float32)
            image[bright] = 100
            found = drawn(label, image)
            assert found[part].mean() > 100 > 10 + found[other].mean()

    def test_right_is_on_the_left_of_the_coronal_panel(self) -> None:
        """The grid's first slices are the right; beside the slices there is room for names."""
        label = Spine(above=0).draw()
        image = np.zeros(label.shape, np.float32)
        image[..., :3] = 100
        coronal = drawn(label, image)[:-40, -2 * BESIDE - 80 : -BESIDE]
        assert coronal[:, : BESIDE + 20].mean() > 40 > 10 + coronal[:, BESIDE + 40 :].mean()


def upright(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The boxes as panels are cut from them: axes down, back and to the right; their file's slices go to the left."""
    return image.transpose(1, 0, 2)[..., ::-1], label.transpose(1, 0, 2)[..., ::-1], np.array([1.0, 2.0, 4.0])


class TestPanels:
    def test_right_middle_and_left(self) -> None:
        """Structures in slices 1 to 8 of ten, counted from the right: a sixth of them, a half, five sixths."""
        label = Spine().draw()
        number = np.broadcast_to(np.arange(10), label.shape)
        panels = _panels(*upright(number, label))
        assert [panel.title for panel in panels] == ["right", "middle", "left", "coronal"]
        assert [int(panel.image[0, 0]) for panel in panels[:3]] == [2, 4, 7]
        assert panels[0].spacing == (1.0, 2.0)
        assert panels[3].spacing == (1.0, 4.0)

    def test_few_slices(self) -> None:
        label = Spine(slices=dict.fromkeys(LUMBAR, 1)).draw()
        assert [p.title for p in _panels(*upright(scan(label), label))] == ["", "coronal"]
        image, label, spacing = upright(scan(label), label)
        assert [p.title for p in _panels(image[..., 1:2], label[..., 1:2], spacing)] == [""]

    def test_window(self) -> None:
        """14 mm above and below; at least 110 mm from front to back, of which 38 in front of 34 mm of structures."""
        label = np.zeros((300, 200, 5), np.uint8)
        label[100:200, 80:97] = 2
        panel = _panels(np.zeros(label.shape), label, np.array([1.0, 2.0, 4.0]))[0]
        assert panel.image.shape[0] == 100 + 2 * 14
        assert panel.image.shape[1] * 2 == pytest.approx(110, abs=4)
        assert np.nonzero(panel.label.any(0))[0][0] * 2 == pytest.approx(42, abs=2)

    def test_curve_follows_the_structures(self) -> None:
        found = np.zeros((60, 50, 4), bool)
        for row in range(10, 40):
            found[row, row : row + 5] = True
        curve = _curve(found, 1.0)
        assert curve[20:30].tolist() == list(range(22, 32))
        assert (curve[0], curve[-1]) == (12, 41)  # goes on straight down
        assert _curve(np.zeros((4, 6, 3), bool), 1.0).tolist() == [3] * 4

    def test_coronal_panel_shows_what_a_plane_would_miss(self) -> None:
        """Vertebrae that lie one behind the other, as in a lordosis, all in one panel."""
        label = np.zeros((160, 120, 8), np.uint8)
        for place, name in enumerate(("L1", "L2", "L3", "L4")):
            label[10 + 35 * place : 40 + 35 * place, 25 * place : 25 * place + 20, 1:7] = TABLE.id_of(name)
        coronal = _panels(np.zeros(label.shape), label, np.ones(3))[-1]
        assert set(np.unique(coronal.label)) == {0, *(TABLE.id_of(n) for n in ("L1", "L2", "L3", "L4"))}


class TestPicture:
    def test_outlines_have_the_table_s_colours(self) -> None:
        found = drawn(Spine().draw(), np.zeros((80, 260, 10), np.float32))
        for name in ("L5", "L3", "L1", "L5/S"):
            colour = np.array(TABLE.classes[TABLE.id_of(name)].colour)
            assert (np.abs(found - colour).max(2) < 40).sum() > 100, name
        other = np.array(TABLE.classes[TABLE.id_of("T11")].colour)
        assert (np.abs(found - other).max(2) < 40).sum() < 50

    def test_square_millimetres(self) -> None:
        """The outline of a vertebra of 26 x 34 mm."""
        label = np.where(Spine().draw() == TABLE.id_of("L3"), TABLE.id_of("L3"), 0).astype(np.uint8)
        found = np.abs(drawn(label, np.zeros(label.shape)) - TABLE.classes[TABLE.id_of("L3")].colour).max(2) < 60
        rows, columns = (np.nonzero(found[:, :200].any(axis))[0] for axis in (1, 0))
        assert np.ptp(rows) / np.ptp(columns) == pytest.approx(26 / 34, rel=0.05)

    @pytest.mark.parametrize(
        "label",
        [
            np.zeros((20, 30, 6), np.uint8),
            np.full((20, 30, 6), IGNORE, np.uint8),
            np.zeros((20, 30), np.uint8),
            np.pad(np.full((1, 1, 1), 2, np.uint8), 3),
            np.full((1, 1, 1), 2, np.uint8),
        ],
    )
    @pytest.mark.parametrize("value", [0, 7])
    def test_degenerate(self, label: np.ndarray, value: int) -> None:
        found = pixels(spine_picture(np.full(label.shape, value, np.int16), label, PIR, TABLE))
        assert found.shape[0] <= HEIGHT
        assert found.shape[1] <= 4 * WIDTH + 3 * GAP

    def test_small(self) -> None:
        """A scan with as much noise as signal."""
        label = np.kron(Spine().draw(), np.ones((3, 2, 1), np.uint8))
        rng = np.random.default_rng(0)
        smooth = np.kron(rng.random((80, 260, 10)), np.ones((3, 2, 1)))
        image = smooth + 0.3 * rng.standard_normal(label.shape)
        assert len(spine_picture(image, label, np.diag([0.6, 0.6, 4.4, 1]), TABLE)) <= LARGEST
