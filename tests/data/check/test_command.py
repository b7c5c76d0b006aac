import argparse
import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.data.check import command as check
from scripts.data.check import volumes
from scripts.data.check.command import check_datalist, check_scan, check_scans
from scripts.data.check.volumes import read_volume
from scripts.data.datalist import DataError, Problem, errors, raise_problems
from scripts.data.prepare.command import prepare
from tests.data.conftest import PIR, SHAPE

SPIDER_SPACE = Path(os.environ.get("CPS4_SPIDER_SPACE", "/nowhere"))


@pytest.fixture
def dataset(tmp_path, write_volume):
    """A datalist of four patients that holds no mistake; tests spoil one file each."""
    rows = []
    for case in "abcd":
        write_volume(tmp_path / f"images/{case}.nii.gz")
        write_volume(tmp_path / f"labels/{case}.nii.gz", values=(2, 11))
        rows.append({"image": f"images/{case}.nii.gz", "label": f"labels/{case}.nii.gz"})
    unlabelled = {"image": rows[1]["image"], "hidden_label": rows[1]["label"]}
    content = {"label_map": "mrspineseg", "training": rows[:1], "unlabelled": [unlabelled]}
    return write_list(tmp_path, {**content, "validation": rows[2:3], "test": rows[3:]})


def write_list(folder, content):
    path = folder / "data.json"
    path.write_text(json.dumps(content))
    return path


def change(path, **content):
    path.write_text(json.dumps({**json.loads(path.read_text()), **content}))


def wrong(*args, **settings):
    """The errors alone: volumes of a dozen pixels are odd in many ways."""
    return errors(check_datalist(*args, **settings))


def only(problems):
    """The message of the one error there must be."""
    found = errors(problems)
    assert len(found) == 1, problems
    return str(found[0])


class TestCheckDatalist:
    def test_good(self, dataset):
        assert wrong(dataset) == []

    def test_all_at_once(self, dataset, write_volume):
        images = dataset.parent / "images"
        (images / "a.nii.gz").unlink()
        write_volume(images / "b.nii.gz", np.zeros(SHAPE, np.int16))
        (images / "c.nii.gz").write_bytes(b"not gzip")
        problems = wrong(dataset)
        assert [(Path(p.path).name[0], p.section) for p in problems] == [
            ("a", "training"),
            ("b", "unlabelled"),
            ("c", "validation"),
        ]
        with pytest.raises(DataError, match="3 problems with the data") as caught:
            raise_problems(problems)
        assert len(str(caught.value).splitlines()) == 4

    def test_sections(self, dataset):
        (dataset.parent / "images/d.nii.gz").unlink()
        assert wrong(dataset) == []
        assert "no such file; correct the path" in only(wrong(dataset, sections=("test",)))

    def test_truncated(self, dataset):
        file = dataset.parent / "images/a.nii.gz"
        file.write_bytes(file.read_bytes()[:-600])
        assert "a.nii.gz: cannot be unpacked (" in only(wrong(dataset))

    def test_empty_file(self, dataset):
        (dataset.parent / "labels/a.nii.gz").write_bytes(b"")
        assert "labels/a.nii.gz: the file is empty; copy it again" in only(wrong(dataset))

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.full(SHAPE, 7.0, np.float32), "holds 7 in every voxel"),
            (
                np.where(np.arange(960).reshape(SHAPE) < 3, np.nan, 1.0).astype(np.float32),
                "holds 3 voxels that are NaN",
            ),
            (
                np.where(np.arange(960).reshape(SHAPE) < 1, np.inf, 1.0).astype(np.float32),
                "holds 1 voxels that are NaN",
            ),
            (np.arange(960 * 5, dtype=np.int16).reshape(*SHAPE, 5), "has 5 time points or channels for every voxel"),
            (np.arange(960 * 3, dtype=np.int16).reshape(*SHAPE, 3), "has 3 colours for every voxel"),
            (np.arange(100, dtype=np.int16).reshape(10, 10), "a volume with three axes is needed"),
            (np.arange(960).reshape(SHAPE).astype(np.complex64), "holds complex numbers"),
        ],
    )
    def test_image(self, dataset, write_volume, array, message):
        write_volume(dataset.parent / "images/b.nii.gz", array)
        assert message in only(wrong(dataset))

    def test_rgb(self, dataset):
        array = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
        nibabel.save(nibabel.Nifti1Image(array, PIR), dataset.parent / "images/b.nii.gz")
        assert "b.nii.gz: holds colours" in only(wrong(dataset))

    def test_last_axis_of_one(self, dataset, write_volume):
        write_volume(dataset.parent / "images/b.nii.gz", np.arange(960, dtype=np.int16).reshape(*SHAPE, 1))
        assert wrong(dataset) == []

    def test_label_shape(self, dataset, write_volume):
        write_volume(dataset.parent / "labels/a.nii.gz", np.resize(np.arange(5, dtype=np.uint8), (12, 16, 4)))
        message = only(wrong(dataset))
        assert "labels/a.nii.gz: has the shape (12, 16, 4), its image (12, 16, 5); resample" in message

    @pytest.mark.parametrize(("shift", "good"), [(0.3, True), (2.0, False)])
    def test_label_affine(self, dataset, write_volume, shift, good):
        affine = PIR.copy()
        affine[1, 3] += shift
        write_volume(dataset.parent / "labels/a.nii.gz", values=(2,), affine=affine)
        if good:
            assert wrong(dataset) == []
        else:
            assert "lies 2.0 mm away from its image" in only(wrong(dataset))

    def test_label_value(self, dataset, write_volume):
        write_volume(dataset.parent / "labels/c.nii.gz", values=(2, 77, 78))
        message = only(wrong(dataset))
        assert (
            "labels/c.nii.gz: holds the label value 77, 78, which the label map 'mrspineseg' does not know" in message
        )

    def test_label_fractions(self, dataset, write_volume):
        write_volume(dataset.parent / "labels/c.nii.gz", np.resize(np.array([0, 1.5, 2], np.float32), SHAPE))
        assert "values that are no whole numbers (1.5)" in only(wrong(dataset))

    def test_label_floats(self, dataset, write_volume):
        write_volume(dataset.parent / "labels/c.nii.gz", np.resize(np.array([0, 1, 2], np.float64), SHAPE))
        assert wrong(dataset) == []

    def test_label_without_structures(self, dataset, write_volume):
        change(dataset, label_map="spider")
        for case in "ac":
            write_volume(dataset.parent / f"labels/{case}.nii.gz", values=(1, 100))
        write_volume(dataset.parent / "labels/c.nii.gz", values=(100, 101))
        assert "labels no structure (its values are 0, 100, 101); correct it" in only(wrong(dataset))

    def test_hidden_labels(self, dataset, write_volume):
        write_volume(dataset.parent / "labels/b.nii.gz", values=(77,))
        assert wrong(dataset) == []
        assert "b.nii.gz: holds the label value 77" in only(wrong(dataset, hidden_labels=True))

    def test_missing_label(self, dataset):
        change(dataset, validation=[{"image": "images/c.nii.gz"}])
        assert 'c.nii.gz: has no "label" in the section validation' in only(wrong(dataset))

    def test_empty_training(self, dataset):
        change(dataset, training=[])
        assert 'the section "training" is empty' in only(wrong(dataset))
        assert wrong(dataset, sections=("test",)) == []

    def test_patient_in_two_splits(self, dataset):
        rows = json.loads(dataset.read_text())
        for section in ("training", "test"):
            rows[section][0]["patient"] = "p1"
        change(dataset, **rows)
        assert "the patient p1 is in training or unlabelled and in test" in only(wrong(dataset))

    def test_file_in_two_splits(self, dataset):
        rows = json.loads(dataset.read_text())
        change(dataset, test=[{**rows["validation"][0], "case": "x"}])
        assert "images/c.nii.gz is in validation and in test" in only(wrong(dataset))

    def test_case_twice(self, dataset):
        rows = json.loads(dataset.read_text())["training"]
        change(dataset, training=[*rows, {**rows[0], "image": "images/../images/a.nii.gz"}])
        assert 'the case a is 2 times in "training"' in only(wrong(dataset))

    def test_unreadable_list(self, tmp_path):
        (problem,) = wrong(tmp_path / "none.json")
        assert problem.path == str(tmp_path / "none.json")
        assert problem.message.startswith("there is no such datalist; write one")


class TestMemory:
    @pytest.fixture
    def opened(self, monkeypatch):
        """Names of the files that were opened."""
        names = []

        def read(path):
            names.append(f"{Path(path).parent.name}/{Path(path).name[0]}")
            return read_volume(path)

        monkeypatch.setattr(check, "read_volume", read)
        return names

    def test_good_files_are_remembered(self, dataset, tmp_path, opened, write_volume):
        assert wrong(dataset, cache_folder=tmp_path / "cache") == []
        assert sorted(opened) == ["images/a", "images/b", "images/c", "labels/a", "labels/c"]
        opened.clear()
        assert wrong(dataset, cache_folder=tmp_path / "cache") == []
        assert opened == []
        write_volume(tmp_path / "labels/a.nii.gz", values=(77,))
        assert "holds the label value 77" in only(wrong(dataset, cache_folder=tmp_path / "cache"))
        assert sorted(opened) == ["images/a", "labels/a"]

    def test_problems_are_not(self, dataset, tmp_path, opened):
        (tmp_path / "images/b.nii.gz").write_bytes(b"")
        for _ in range(2):
            assert "the file is empty" in only(wrong(dataset, cache_folder=tmp_path / "cache"))
        assert opened.count("images/b") == 2

    def test_other_label_map(self, dataset, tmp_path, opened):
        wrong(dataset, cache_folder=tmp_path / "cache")
        opened.clear()
        change(dataset, label_map={"0": 0, "2": "S"})
        assert len(wrong(dataset, cache_folder=tmp_path / "cache")) == 2
        assert sorted(opened) == ["images/a", "images/c", "labels/a", "labels/c"]

    def test_damaged(self, dataset, tmp_path):
        (tmp_path / "checked_files.json").write_text("[")
        assert wrong(dataset, cache_folder=tmp_path) == []
        assert len(json.loads((tmp_path / "checked_files.json").read_text())) == 3


class TestRaiseProblems:
    def test_none(self):
        raise_problems([])

    def test_one(self):
        with pytest.raises(DataError, match=r"^a\.nii: is broken$"):
            raise_problems([Problem("a.nii", "is broken")])


class TestCheckScan:
    def test_value(self, tmp_path, write_volume):
        assert errors(check_scan(write_volume(tmp_path / "a.nii"))) == []
        assert "no such file" in only(check_scan(tmp_path / "b.nii"))

    def test_dicom(self, tmp_path, write_dicom):
        write_dicom(tmp_path / "scan")
        assert errors(check_scan(tmp_path / "scan")) == []
        write_dicom(tmp_path / "scan", number=8)
        assert "the folder mixes 2 DICOM series" in only(check_scan(tmp_path / "scan"))
        (tmp_path / "empty").mkdir()
        assert "is a folder without DICOM files" in only(check_scan(tmp_path / "empty"))

    def test_missing_slices(self, tmp_path, write_dicom):
        write_dicom(tmp_path / "scan")
        (tmp_path / "scan/7_7.dcm").unlink()
        message = only(check_scan(tmp_path / "scan"))
        assert "lacks about 1 slices (a gap of 8.0 mm among steps of 4.0 mm); export the series again" in message

    def test_many_in_their_order(self, tmp_path, write_volume):
        good = write_volume(tmp_path / "a.nii.gz")
        found = check_scans([good, tmp_path / "none.nii", good])
        assert [len(errors(problems)) for problems in found] == [0, 1, 0]


@pytest.fixture
def spine(tmp_path):
    """`spine(name, image=, label=, affine=)` writes a patient's scan and label as an entry: a plausible sagittal stack
    with three vertebrae."""
    usual = np.diag([4.0, 4.0, 4.0, 1.0])[[2, 1, 0, 3]] * np.array([1, -1, 1, 1])  # array axes: up, backwards, right

    def write(name, change=lambda a: a, label=None, affine=usual, header=None):
        image = np.random.default_rng(list(name.encode())).integers(0, 900, (60, 40, 9)).astype(np.int16)
        labels = np.zeros(image.shape, np.uint8)
        for number in range(3):  # L5, L4, L3 upwards
            labels[10 + 12 * number : 16 + 12 * number, 12:20] = 2 + number
        labels = labels if label is None else label(labels)
        entry = {"image": str(tmp_path / f"{name}.nii.gz"), "label": str(tmp_path / f"{name}_seg.nii.gz")}
        for array, key in ((change(image), "image"), (labels, "label")):
            volume = nibabel.Nifti1Image(array, affine)
            if header is not None:
                header(volume)
            nibabel.save(volume, entry[key])
        return entry

    return write


def problems_of(tmp_path, training, **sections):
    return check_datalist(write_list(tmp_path, {"training": training, **sections}))


class TestWarnings:
    def said(self, tmp_path, entry):
        return [p.message for p in problems_of(tmp_path, [entry])]

    def test_plausible_scan(self, spine, tmp_path):
        assert self.said(tmp_path, spine("a")) == []

    @pytest.mark.parametrize(
        ("affine", "words"),
        [
            (np.diag([0.8, 3.0, 5.0, 1.0]), "was acquired in axial slices; training cuts sagittal slices out of it"),
            (np.diag([3.0, 9.0, 30.0, 1.0]), "shows 270 mm from head to foot|slices of|axial"),
            (np.diag([2.0, 2.0, 40.0, 1.0])[[2, 1, 0, 3]], "has slices of 40 mm; training believes that"),
            (np.diag([0.5, 0.5, 4.0, 1.0])[[2, 1, 0, 3]], "shows 30 mm from head to foot; training believes its spac"),
            (np.diag([7.0, 7.0, 14.0, 1.0])[[2, 1, 0, 3]], "has pixels of 7 mm; training believes that"),
        ],
        ids=["axial", "axial and far apart", "thick slices", "small field", "coarse pixels"],
    )
    def test_grid(self, spine, tmp_path, affine, words):
        said = self.said(tmp_path, spine("a", affine=affine, label=lambda a: np.where(a == 2, 2, 0).astype(np.uint8)))
        assert any(word in message for word in words.split("|") for message in said), said

    def test_tilted(self, spine, tmp_path):
        angle = np.deg2rad(40)
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        affine = turn @ np.diag([4.0, 4.0, 8.0, 1.0])[[2, 1, 0, 3]]
        assert (
            "has slices that are tilted by 40 degrees; training takes them for sagittal"
            in self.said(tmp_path, spine("a", affine=affine))[0]
        )

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda a: (a > 450).astype(np.int16), "has fewer than 32 grey values, as a label map has"),
            (lambda a: a[:20, :10], "has the shape (20, 10, 9), next to nothing; training resamples it and fills up"),
            (lambda a: a[:, :10], "10, 9), next to nothing; training resamples it and fills up"),
            (lambda a: a[:, :, :1], "has one sagittal slice; training takes it as a volume of its own"),
            (lambda a: np.tile(a, (1, 1, 50)), "has 450 sagittal slices; training takes them all"),
        ],
        ids=["label map", "tiny", "narrow", "one slice", "many slices"],
    )
    def test_array(self, spine, tmp_path, change, words):
        said = self.said(tmp_path, spine("a", change, lambda a: change(a) if words[4:8] != "fewe" else a))
        assert any(words in message for message in said), said

    def test_no_orientation(self, spine, tmp_path):
        def forget(volume):
            volume.set_sform(None, 0)
            volume.set_qform(None, 0)

        assert "does not say how it lies in the patient" in self.said(tmp_path, spine("a", header=forget))[0]

    def test_two_affines(self, spine, tmp_path):
        def differ(volume):
            volume.set_sform(volume.affine, 1)
            volume.set_qform(np.diag([1, 1, 1, 1]) @ np.diag([4.0, 4, 4, 1]), 1)

        assert "has two affines" in self.said(tmp_path, spine("a", header=differ))[0]

    def test_two_affines_that_are_shifted(self, spine, tmp_path):
        def shift(volume):
            moved = volume.affine.copy()
            moved[:3, 3] += (12.0, 0.0, 16.0)
            volume.set_sform(volume.affine, 1)
            volume.set_qform(moved, 1)

        (said,) = self.said(tmp_path, spine("a", header=shift))
        assert said == "has two affines, 20 mm apart (sform and qform); training believes the sform"

    def test_they_do_not_stop(self, spine, tmp_path, caplog):
        raise_problems(problems_of(tmp_path, [spine("a", lambda a: a[:, :, :1], lambda a: a[:, :, :1])]))
        assert "has one sagittal slice" in caplog.text

    def test_remembered(self, spine, tmp_path):
        path = write_list(tmp_path, {"training": [spine("a", lambda a: a[:, :, :1], lambda a: a[:, :, :1])]})
        first, second = (check_datalist(path, cache_folder=tmp_path / "cache") for _ in range(2))
        assert first == second
        assert [p.level for p in second] == ["warning"]


class TestDirection:
    def test_upside_down(self, spine, tmp_path):
        found = problems_of(tmp_path, [spine("a", label=lambda a: a[::-1].copy())])
        assert "a_seg.nii.gz: has its structures upside down" in only(found)

    def test_lying(self, spine, tmp_path):
        affine = np.diag([4.0, 4.0, 4.0, 1.0])
        assert "has its structures along left-right, not head-foot" in only(
            problems_of(tmp_path, [spine("a", affine=affine)])
        )

    def test_structures_of_one_height_cannot_tell(self, spine, tmp_path):
        found = problems_of(
            tmp_path, [spine("a", label=lambda a: np.where(a == 2, 2 + np.arange(9) % 3, 0).astype("u1"))]
        )
        assert errors(found) == []

    def test_two_structures(self, spine, tmp_path):
        found = problems_of(tmp_path, [spine("a", label=lambda a: np.where(a < 4, a, 0)[::-1].astype(np.uint8))])
        assert "has structures out of the order of a spine: L4 lies 48 mm below L5; correct the names" in only(found)
        assert only(found).endswith("or the label map (case a)")

    def test_a_level_in_another_s_place(self, spine, tmp_path):
        swapped = spine("a", label=lambda a: np.choose(a, [0, 0, 3, 2, 4]).astype(np.uint8))
        assert ": L4 lies 48 mm below L5;" in only(problems_of(tmp_path, [swapped]))

    def test_a_disc_above_its_vertebrae(self, spine, tmp_path):
        def label(a):
            a[46:50, 12:20] = 12  # L4/L5, above L3
            return a

        assert ": L4 lies 92 mm below L4/L5; correct" in only(problems_of(tmp_path, [spine("a", label=label)]))

    def test_a_disc_between_its_vertebrae(self, spine, tmp_path):
        def label(a):
            a[17:21, 12:20] = 12
            return a

        assert errors(problems_of(tmp_path, [spine("a", label=label)])) == []


class TestTwins:
    def copy(self, entry, name):
        path = Path(entry["image"]).with_name(f"{name}.nii")  # other bytes, the same voxels
        nibabel.save(nibabel.load(entry["image"]), path)
        return {**entry, "image": str(path), "case": name}

    def test_two_splits(self, spine, tmp_path):
        one = spine("a")
        message = only(problems_of(tmp_path, [one], validation=[self.copy(one, "b")]))
        assert "b.nii: has the same voxels as" in message
        assert "which is in training; keep all copies in one split" in message

    def test_a_label_in_two_splits(self, spine, tmp_path):
        # T1 and T2 of a patient: other images, one label
        t1, t2 = (spine(name, label=lambda a: np.roll(a, 1, 1)) for name in ("a_t1", "a_t2"))
        message = only(problems_of(tmp_path, [t1], validation=[t2]))
        assert "a_t2_seg.nii.gz: has the same voxels as " in message
        assert (
            "a_t1_seg.nii.gz, which is in training; two scans of one patient? keep all copies in one split" in message
        )
        assert problems_of(tmp_path, [t1, t2]) == []

    @pytest.mark.parametrize("turn", ["type", "axes"])
    def test_a_copy_stored_otherwise(self, spine, tmp_path, turn):
        one = spine("a")
        volume = nibabel.load(one["image"])
        if turn == "axes":
            copy = nibabel.as_closest_canonical(volume)
        else:
            copy = nibabel.Nifti1Image(np.asarray(volume.dataobj).astype(np.float32), volume.affine)
        nibabel.save(copy, tmp_path / "b.nii.gz")
        other = {**spine("c", label=lambda a: a + (a > 2)), "image": str(tmp_path / "b.nii.gz")}
        said = [str(p) for p in errors(problems_of(tmp_path, [one], validation=[other]))]
        assert any("b.nii.gz: has the same voxels as" in message for message in said), said

    def test_one_split(self, spine, tmp_path):
        one = spine("a")
        (found,) = problems_of(tmp_path, [one, self.copy(one, "b")])
        assert (found.level, found.section) == ("warning", "training")
        assert "training sees it more often than others" in found.message


class TestUnlabelled:
    """A label map that is taken for a scan."""

    @pytest.mark.parametrize("kind", [np.uint8, np.float32])
    def test_label_map(self, spine, tmp_path, kind):
        taken = {"image": spine("b", lambda a: np.repeat(a[:, :, :1] // 300, 9, 2).astype(kind))["image"]}
        message = only(problems_of(tmp_path, [spine("a")], unlabelled=[taken]))
        assert "b.nii.gz: holds few different values, as a label map does, and no scan; take it out" in message

    def test_many_values_in_pieces(self, spine, tmp_path):
        blocks = np.kron(np.arange(1, 61).reshape(5, 4, 3), np.ones((12, 10, 3))).astype(np.int16)
        assert volumes.holds_labels(blocks)
        assert not volumes.holds_labels(np.random.default_rng(0).permutation(blocks.ravel()).reshape(blocks.shape))
        taken = {"image": spine("b", lambda a: blocks)["image"]}
        assert "holds few different values" in only(problems_of(tmp_path, [spine("a")], unlabelled=[taken]))

    @pytest.mark.parametrize("change", [lambda a: a, lambda a: (a // 4).astype(np.uint8), lambda a: a / 900])
    def test_scans(self, spine, tmp_path, change):
        taken = {"image": spine("b", change)["image"]}
        assert errors(problems_of(tmp_path, [spine("a")], unlabelled=[taken])) == []


class TestImageMistakes:
    @pytest.mark.parametrize("value", [0.001, 5000.0])
    def test_spacing(self, value):
        (mistake,) = volumes.image_mistakes(np.arange(960).reshape(SHAPE), np.diag([1.0, 1.0, value, 1.0]))
        assert "mm from head to foot, says its header; correct the spacing" in mistake

    def test_next_to_nothing(self):
        array = np.zeros((30, 30, 4), np.int16)
        array[3, 3, 3] = 100
        assert volumes.image_mistakes(array, PIR) == [
            "holds 0 in nearly every voxel and shows next to nothing; take it out of the datalist"
        ]

    def test_exactly_two_columns(self):
        for columns, mistakes in ((2, 0), (1, 1)):
            found = volumes.image_mistakes(np.arange(columns * 120).reshape(columns, 30, 4), PIR)
            assert len([m for m in found if m.startswith(f"has sagittal slices of 30 x {columns} pixels")]) == mistakes

    def test_beyond_float32(self):
        array = np.arange(960, dtype=np.float64).reshape(SHAPE)
        array[0, 0, 0] = 1e300
        assert "holds 1 voxels that are NaN or infinite" in volumes.image_mistakes(array, PIR)[0]

    @pytest.mark.parametrize("value", [0.0, np.nan])
    def test_affine(self, value):
        affine = PIR.copy()
        affine[:3, 2] = value
        mistakes = volumes.image_mistakes(np.arange(960).reshape(SHAPE), affine)
        assert mistakes == ["has an affine that gives voxels no size; correct the header's orientation and spacing"]


class TestReadVolume:
    @pytest.mark.parametrize("ending", ["mha", "nrrd"])
    def test_itk_agrees_with_nibabel(self, tmp_path, write_volume, ending):
        itk = pytest.importorskip("itk", reason="MHA is read with itk")
        from monai.transforms import LoadImage, Orientation

        # oblique, so that a wrong sign cannot hide; not sheared
        angle = np.deg2rad(20)
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        nifti = write_volume(tmp_path / "a.nii.gz", affine=turn @ PIR)
        other = tmp_path / f"a.{ending}"
        source = itk.imread(str(nifti))
        plain = itk.image_from_array(itk.array_from_image(source))
        plain.SetSpacing(source.GetSpacing())
        plain.SetOrigin(source.GetOrigin())
        plain.SetDirection(source.GetDirection())
        itk.imwrite(plain, str(other))
        expected, affine = read_volume(nifti)
        array, other_affine = read_volume(other)
        np.testing.assert_array_equal(array, expected)
        np.testing.assert_allclose(other_affine, affine, atol=1e-4)
        turned = [
            Orientation(axcodes="SPL", labels=None)(LoadImage(ensure_channel_first=True)(p)) for p in (nifti, other)
        ]
        np.testing.assert_array_equal(turned[0].numpy(), turned[1].numpy())
        np.testing.assert_allclose(turned[0].affine, turned[1].affine, atol=1e-4)

    def test_keeps_the_type(self, tmp_path, write_volume):
        array, _ = read_volume(write_volume(tmp_path / "a.nii.gz", values=(1,)))
        assert array.dtype == np.uint8
        assert array.shape == SHAPE


class TestValues:
    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, bool])
    def test_twin(self, dtype):
        array = np.random.default_rng(0).integers(-5 if dtype == np.int16 else 0, 40, SHAPE).astype(dtype)
        assert volumes.label_values(array) == np.unique(array).astype(int).tolist()

    def test_far_apart(self):
        assert volumes.label_values(np.array([[[0, 10**9, 5]]])) == [0, 5, 10**9]


class TestRun:
    def run(self, path):
        parser = argparse.ArgumentParser()
        check.add_arguments(parser)
        return check.run(parser.parse_args([str(path)]))

    def test_good(self, dataset, capsys):
        assert self.run(dataset) == 0
        out = capsys.readouterr().out
        assert "section       patients   volumes    errors  warnings" in out
        assert "unlabelled           1         1         0" in out
        assert "no errors" in out

    def test_problem(self, dataset, capsys):
        (dataset.parent / "labels/b.nii.gz").unlink()
        assert self.run(dataset) == 1
        out = capsys.readouterr().out
        assert "unlabelled           1         1         1" in out
        assert f"error    unlabelled  {dataset.parent / 'labels/b.nii.gz'}: there is no such file" in out
        assert out.splitlines()[-1].startswith(f"{dataset}: 1 errors, ")

    def test_json(self, dataset, tmp_path):
        (dataset.parent / "labels/b.nii.gz").unlink()
        parser = argparse.ArgumentParser()
        check.add_arguments(parser)
        assert check.run(parser.parse_args([str(dataset), "--json", str(tmp_path / "new/problems.json")])) == 1
        content = json.loads((tmp_path / "new/problems.json").read_text())
        assert content["errors"] == 1
        assert content["sections"]["unlabelled"]["errors"] == 1
        first = next(p for p in content["problems"] if p["level"] == "error")
        assert first["path"] == str(dataset.parent / "labels/b.nii.gz")
        assert content["warnings"] == sum(p["level"] == "warning" for p in content["problems"]) > 0


@pytest.mark.skipif(not SPIDER_SPACE.is_dir(), reason="CPS4_SPIDER_SPACE does not name the folder of SPIDER-SPACE")
class TestRealData:
    def test_spider_space(self, tmp_path):
        path = prepare(SPIDER_SPACE, tmp_path / "d.json", labelled_cases=2)
        assert wrong(path, sections=("training", "validation", "test"), hidden_labels=True) == []
