import json
import logging

import nibabel as nib
import numpy as np
import pytest

from scripts.labels import IGNORE, ClassTable
from scripts.phantom.anatomy import NAMES, draw_spine
from scripts.phantom.painter import SLICE_MM, TISSUES
from scripts.phantom.scanners import SCANNERS, T2_MS, Scanner, scanner_of
from scripts.phantom.volume import ORIENTATIONS, SLICES, make_phantom
from scripts.phantom.write import write_phantoms

SMALL = {"shape_hw": (128, 80), "pixel_mm": 2.35}
TINY = {"shape_hw": (48, 32), "pixel_mm": 5.0}
COUNTS = {"labelled": 1, "unlabelled": 2, "validation": 1, "test": 1}
TABLE = ClassTable.load()


@pytest.fixture(scope="module")
def phantoms():
    return [make_phantom(3, index, **SMALL) for index in range(12)]


def middle_rows(label):
    """Class id -> row (superior to inferior) of the structure's centre, of a PIR array."""
    return {i: np.argwhere(label == i)[:, 1].mean() for i in np.unique(label) if i not in (0, IGNORE)}


class TestDrawSpine:
    def test_value(self):
        spines = [draw_spine(np.random.default_rng(seed)) for seed in range(40)]
        first = NAMES.index("L5")
        for values in ("half_height", "half_depth", "half_width"):
            mean = np.mean([getattr(spine, values)[first : NAMES.index("T9") + 1] for spine in spines], 0)
            assert mean[0] > 1.1 * mean[-1]
            assert (np.diff(mean[1:]) < 0.3).all()
        # any one patient's neighbours may differ the other way, or a body's size would give away its level
        heights = np.array([spine.half_height[first:] for spine in spines])
        assert (np.diff(heights, axis=1) > 0).any()

    def test_level_is_not_in_the_size(self):
        spines = [draw_spine(np.random.default_rng(seed)) for seed in range(40)]
        l3, t12 = (np.array([s.half_height[NAMES.index(name)] for s in spines]) for name in ("L3", "T12"))
        assert t12.max() > l3.min()


class TestAnomalies:
    """The lumbosacral junction of the same patient, with and without transitional anatomy; all above stays."""

    @staticmethod
    def drawn(anomaly):
        return draw_spine(np.random.default_rng(5), anomaly)

    def test_sacralised_l5(self):
        regular, changed = self.drawn(None), self.drawn("sacralised_l5")
        s1, l5, l4 = (NAMES.index(name) for name in ("S1", "L5", "L4"))
        assert changed.gap[s1] < 0.4 * regular.gap[s1]
        assert changed.half_width[l5] > 1.5 * regular.half_width[l5]
        np.testing.assert_array_equal(changed.gap[l4:], regular.gap[l4:])

    def test_lumbarised_s1(self):
        regular, changed = self.drawn(None), self.drawn("lumbarised_s1")
        s2, s1, l5 = (NAMES.index(name) for name in ("S2", "S1", "L5"))
        assert changed.gap[s2] > 3 * regular.gap[s2]
        assert changed.half_width[s1] < 0.6 * regular.half_width[s1]
        np.testing.assert_array_equal(changed.gap[l5:], regular.gap[l5:])

    def test_is_seen_in_the_labels(self):
        whole, disc = (make_phantom(0, 1, **SMALL, anomaly=a)[1] for a in (None, "sacralised_l5"))
        low = TABLE.id_of("L5/S")
        assert np.isin(disc, [low]).sum() < 0.6 * np.isin(whole, [low]).sum()


class TestScanner:
    def test_value(self):
        late = Scanner(echo=1.5)
        # 50 ms later than the echo that the table's T2-weighted signals belong to
        assert late.weight("muscle", "t2") == pytest.approx(np.exp(-50 / T2_MS["muscle"]))
        assert late.weight("muscle", "t2") < late.weight("marrow", "t2") < late.weight("csf", "t2") < 1
        assert late.weight("marrow", "t1") > late.weight("marrow", "t2")
        dark = Scanner(fat=0.2)
        assert [dark.weight(name, "t2") for name in ("fat", "marrow", "csf")] == pytest.approx([0.2, 0.6, 1.0])

    def test_the_plain_one_changes_no_tissue(self):
        assert {Scanner().weight(name, contrast) for contrast in TISSUES for name in TISSUES[contrast]} == {1.0}

    def test_patients_take_turns(self):
        for seed in range(3):
            names = [scanner_of(seed, index) for index in range(20)]
            assert set(names[:5]) == set(SCANNERS)
            assert names[5:10] == names[:5]


class TestMakePhantom:
    def test_smoke(self, phantoms):
        for image, label, affine in phantoms:
            assert image.dtype == np.int16
            assert label.dtype == np.uint8
            assert image.shape == label.shape
            assert affine.shape == (4, 4)
            assert image.min() >= 0
            assert image.std() > 5

    def test_exception(self):
        with pytest.raises(ValueError, match="contrast must be one of t2, t1, got 'flair'"):
            make_phantom(0, 0, contrast="flair")
        with pytest.raises(ValueError, match="anomaly must be one of sacralised_l5, lumbarised_s1, got 'scoliosis'"):
            make_phantom(0, 0, anomaly="scoliosis")
        with pytest.raises(ValueError, match=r"scanner must be one of tse_1\.5t, .*, got 'ct'"):
            make_phantom(0, 0, scanner="ct")
        with pytest.raises(ValueError, match="must be positive"):
            make_phantom(0, 0, pixel_mm=0)

    def test_shape(self, phantoms):
        for image, _, affine in phantoms:
            assert image.shape[:2] == (80, 128)
            assert SLICES[0] <= image.shape[2] <= SLICES[1]
            assert nib.aff2axcodes(affine) == ("P", "I", "R")
            np.testing.assert_allclose(nib.affines.voxel_sizes(affine), [2.35, 2.35, SLICE_MM])

    def test_all_classes_occur_and_no_others(self, phantoms):
        seen = set(np.unique(np.concatenate([label.ravel() for _, label, _ in phantoms])).tolist())
        assert seen - {IGNORE} == set(range(TABLE.num_classes))

    def test_chain_runs_upwards(self, phantoms):
        for _, label, _ in phantoms:
            rows = middle_rows(label)
            chain = [c.id for c in TABLE.chain if c.id in rows]
            places = [TABLE.classes[i].chain for i in chain]
            assert places == list(range(places[0], places[-1] + 1)), "a structure is missing in between"
            assert (np.diff([rows[i] for i in chain]) < 0).all()

    def test_partial_structures_are_ignored(self, phantoms):
        whole = {i: np.mean([(lab == i).sum((0, 1)).max() for _, lab, _ in phantoms]) for i in TABLE.group("vertebra")}
        for _, label, _ in phantoms:
            for i in set(np.unique(label)) & set(whole):
                assert (label == i).sum((0, 1)).max() > 0.15 * whole[i]

    def test_field_of_view_varies(self):
        labels = [make_phantom(5, index, **SMALL)[1] for index in range(40)]
        rows = [middle_rows(label)[TABLE.id_of("L3")] for label in labels]
        assert np.std(rows) > 6
        assert len({tuple(np.unique(label)) for label in labels}) > 5
        assert 0.8 <= np.mean([(label == TABLE.id_of("S")).any() for label in labels]) < 1

    def test_bodies_shrink_off_the_midline(self, phantoms):
        shares = []
        for _, label, _ in phantoms:
            area = (label == TABLE.id_of("L1")).sum((0, 1))
            shares.append(min(area[0], area[-1]) / area.max())
        assert min(shares) < 0.3

    def test_deterministic(self, phantoms):
        again = make_phantom(3, 4, **SMALL)
        for now, then in zip(again, phantoms[4], strict=True):
            np.testing.assert_array_equal(now, then)
        assert make_phantom(4, 4, **SMALL)[1].tobytes() != phantoms[4][1].tobytes()

    def test_contrast(self, phantoms):
        image, label, affine = make_phantom(3, 1, contrast="t1", **SMALL)
        np.testing.assert_array_equal(label, phantoms[1][1])
        np.testing.assert_array_equal(affine, phantoms[1][2])
        vertebra = np.isin(label, TABLE.group("vertebra"))
        # the canal, behind the bodies: brighter than they are in T2, darker in T1
        canal = np.zeros_like(vertebra)
        midline = label.shape[2] // 2
        for row in np.flatnonzero(vertebra[..., midline].any(0)):
            canal[np.flatnonzero(vertebra[:, row, midline])[-1] + 4, row, midline] = True
        ratio = [
            np.median(x[canal]) / np.median(x[..., midline][vertebra[..., midline]]) for x in (image, phantoms[1][0])
        ]
        assert ratio[0] < 0.8
        assert ratio[1] > 1.2

    def test_scanner(self, phantoms):
        drawn = {name: make_phantom(3, 1, scanner=name, **SMALL) for name in SCANNERS}
        own = scanner_of(3, 1)
        for name, (image, label, affine) in drawn.items():
            np.testing.assert_array_equal(label, phantoms[1][1])
            np.testing.assert_array_equal(affine, phantoms[1][2])
            assert (image.tobytes() == phantoms[1][0].tobytes()) == (name == own)

    def test_scanners_differ_more_than_patients(self):
        """Marrow against discs, and against the brightest tissue: between scanners and between patients of one."""
        ratios = np.zeros((len(SCANNERS), 6, 2))
        for row, name in enumerate(SCANNERS):
            for index in range(6):
                image, label, _ = make_phantom(3, index, scanner=name, **SMALL)
                marrow, disc = (np.median(image[np.isin(label, TABLE.group(g))]) for g in ("vertebra", "disc"))
                ratios[row, index] = np.log([marrow / disc, marrow / np.percentile(image, 99)])
        assert (ratios.mean(1).std(0) > ratios.std(1).mean(0)).all()

    def test_mixed_axes(self, phantoms):
        codes = set()
        for index in range(8):
            image, label, affine = make_phantom(3, index, mixed_axes=True, **SMALL)
            axes = "".join(nib.aff2axcodes(affine))
            assert axes in ORIENTATIONS
            codes.add(axes)
            np.testing.assert_allclose(np.sort(nib.affines.voxel_sizes(affine)), [2.35, 2.35, SLICE_MM])
            assert (np.count_nonzero(np.abs(affine[:3, :3]) > 1e-6, axis=0) == 3).all(), "not oblique"
            turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt("PIR"))
            np.testing.assert_array_equal(nib.apply_orientation(image, turn), phantoms[index][0])
            np.testing.assert_array_equal(nib.apply_orientation(label, turn), phantoms[index][1])
        assert len(codes) > 3


class TestWritePhantoms:
    def test_value(self, tmp_path):
        path = write_phantoms(tmp_path, seed=7, **COUNTS, **TINY)
        datalist = json.loads(path.read_text())
        assert datalist["label_map"] is None
        assert datalist["unlabelled_classes"] == []
        assert {s: len(datalist[s]) for s in ("training", "unlabelled", "validation", "test")} == {
            "training": 1, "unlabelled": 2, "validation": 1, "test": 1
        }  # fmt: skip
        assert all("label" not in entry for entry in datalist["unlabelled"])
        entries = [entry for section in ("test", "validation", "training", "unlabelled") for entry in datalist[section]]
        assert len({entry["patient"] for entry in entries}) == 5
        for number, entry in enumerate(entries, 1):
            image = nib.load(path.parent / entry["image"])
            label = nib.load(path.parent / entry.get("label", entry.get("hidden_label", "")))
            drawn = make_phantom(7, number, **TINY)
            np.testing.assert_array_equal(image.dataobj, drawn[0])
            np.testing.assert_array_equal(label.dataobj, drawn[1])
            np.testing.assert_allclose(image.affine, drawn[2], atol=1e-4)
            np.testing.assert_array_equal(image.affine, label.affine)
            assert image.get_data_dtype() == np.int16

    def test_exception(self, tmp_path):
        with pytest.raises(ValueError, match="unknown settings pixels; phantoms know shape_hw, pixel_mm"):
            write_phantoms(tmp_path, pixels=3)
        with pytest.raises(ValueError, match="0 or more"):
            write_phantoms(tmp_path, labelled=-1)
        with pytest.raises(ValueError, match="contrast must be one of"):
            write_phantoms(tmp_path, contrast="flair")
        assert not list(tmp_path.iterdir())

    def test_reuse(self, tmp_path, caplog):
        caplog.set_level(logging.INFO, logger="scripts.phantom.write")
        write_phantoms(tmp_path, **COUNTS, **TINY)
        assert not caplog.messages
        files = sorted(tmp_path.glob("*/phantom_*.nii.gz"))
        before = [file.stat().st_mtime_ns for file in files]
        files[0].unlink()
        write_phantoms(tmp_path, **{**COUNTS, "unlabelled": 3}, **TINY)
        assert "reusing 4 phantoms" in caplog.text
        after = [file.stat().st_mtime_ns for file in files]
        drawn_anew = {file.name for file, old, new in zip(files, before, after, strict=True) if old != new}
        assert drawn_anew == {files[0].name}
        assert len(list(tmp_path.glob("images/*"))) == 6

    def test_other_settings_are_drawn_anew(self, tmp_path, caplog):
        caplog.set_level(logging.INFO, logger="scripts.phantom.write")
        write_phantoms(tmp_path, **COUNTS, **TINY)
        write_phantoms(tmp_path, **{**COUNTS, "test": 0}, **{**TINY, "contrast": "t1"})
        assert not caplog.messages
        assert len(list(tmp_path.glob("images/*"))) == 4
        image = nib.load(tmp_path / "images" / "phantom_0001.nii.gz")
        np.testing.assert_array_equal(image.dataobj, make_phantom(0, 1, **TINY, contrast="t1")[0])
