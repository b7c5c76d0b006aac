import argparse
import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.data import check, volumes
from scripts.data.check import Problem, check_datalist, check_scan, raise_problems
from scripts.data.datalist import DataError
from scripts.data.prepare import prepare
from scripts.data.volumes import read_volume

from .conftest import PIR, SHAPE

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


def only(problems):
    """The message of the one problem there must be."""
    assert len(problems) == 1, problems
    return str(problems[0])


class TestCheckDatalist:
    def test_good(self, dataset):
        assert check_datalist(dataset) == []

    def test_all_at_once(self, dataset, write_volume):
        images = dataset.parent / "images"
        (images / "a.nii.gz").unlink()
        write_volume(images / "b.nii.gz", np.zeros(SHAPE, np.int16))
        (images / "c.nii.gz").write_bytes(b"not gzip")
        problems = check_datalist(dataset)
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
        assert check_datalist(dataset) == []
        assert "no such file; correct the path" in only(check_datalist(dataset, sections=("test",)))

    def test_truncated(self, dataset):
        file = dataset.parent / "images/a.nii.gz"
        file.write_bytes(file.read_bytes()[:-600])
        assert "a.nii.gz: cannot be read (" in only(check_datalist(dataset))

    def test_empty_file(self, dataset):
        (dataset.parent / "labels/a.nii.gz").write_bytes(b"")
        assert "labels/a.nii.gz: the file is empty; copy it again" in only(check_datalist(dataset))

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
        assert message in only(check_datalist(dataset))

    def test_rgb(self, dataset):
        array = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
        nibabel.save(nibabel.Nifti1Image(array, PIR), dataset.parent / "images/b.nii.gz")
        assert "b.nii.gz: holds colours" in only(check_datalist(dataset))

    def test_last_axis_of_one(self, dataset, write_volume):
        write_volume(dataset.parent / "images/b.nii.gz", np.arange(960, dtype=np.int16).reshape(*SHAPE, 1))
        assert check_datalist(dataset) == []

    def test_label_shape(self, dataset, write_volume):
        write_volume(dataset.parent / "labels/a.nii.gz", np.resize(np.arange(5, dtype=np.uint8), (12, 16, 4)))
        message = only(check_datalist(dataset))
        assert "labels/a.nii.gz: has the shape (12, 16, 4), its image (12, 16, 5); resample" in message

    @pytest.mark.parametrize(("shift", "good"), [(0.3, True), (2.0, False)])
    def test_label_affine(self, dataset, write_volume, shift, good):
        affine = PIR.copy()
        affine[1, 3] += shift
        write_volume(dataset.parent / "labels/a.nii.gz", values=(2,), affine=affine)
        if good:
            assert check_datalist(dataset) == []
        else:
            assert "lies 2.0 mm away from its image" in only(check_datalist(dataset))

    def test_label_value(self, dataset, write_volume):
        write_volume(dataset.parent / "labels/c.nii.gz", values=(2, 77, 78))
        message = only(check_datalist(dataset))
        assert (
            "labels/c.nii.gz: holds the label value 77, 78, which the label map 'mrspineseg' does not know" in message
        )

    def test_label_fractions(self, dataset, write_volume):
        write_volume(dataset.parent / "labels/c.nii.gz", np.resize(np.array([0, 1.5, 2], np.float32), SHAPE))
        assert "values that are no whole numbers (1.5)" in only(check_datalist(dataset))

    def test_label_floats(self, dataset, write_volume):
        write_volume(dataset.parent / "labels/c.nii.gz", np.resize(np.array([0, 1, 2], np.float64), SHAPE))
        assert check_datalist(dataset) == []

    def test_label_without_structures(self, dataset, write_volume):
        change(dataset, label_map="spider")
        for case in "ac":
            write_volume(dataset.parent / f"labels/{case}.nii.gz", values=(1, 100))
        write_volume(dataset.parent / "labels/c.nii.gz", values=(100, 101))
        assert "labels no structure (its values are 0, 100, 101); correct it" in only(check_datalist(dataset))

    def test_hidden_labels(self, dataset, write_volume):
        write_volume(dataset.parent / "labels/b.nii.gz", values=(77,))
        assert check_datalist(dataset) == []
        assert "b.nii.gz: holds the label value 77" in only(check_datalist(dataset, hidden_labels=True))

    def test_missing_label(self, dataset):
        change(dataset, validation=[{"image": "images/c.nii.gz"}])
        assert 'c.nii.gz: has no "label" in the section validation' in only(check_datalist(dataset))

    def test_empty_training(self, dataset):
        change(dataset, training=[])
        assert 'the section "training" is empty' in only(check_datalist(dataset))
        assert check_datalist(dataset, sections=("test",)) == []

    def test_patient_in_two_splits(self, dataset):
        rows = json.loads(dataset.read_text())
        for section in ("training", "test"):
            rows[section][0]["patient"] = "p1"
        change(dataset, **rows)
        assert "the patient p1 is in training or unlabelled and in test" in only(check_datalist(dataset))

    def test_file_in_two_splits(self, dataset):
        rows = json.loads(dataset.read_text())
        change(dataset, test=[{**rows["validation"][0], "case": "x"}])
        assert "images/c.nii.gz is in validation and in test" in only(check_datalist(dataset))

    def test_case_twice(self, dataset):
        rows = json.loads(dataset.read_text())["training"]
        change(dataset, training=[*rows, {**rows[0], "image": "images/../images/a.nii.gz"}])
        assert 'the case a is 2 times in "training"' in only(check_datalist(dataset))

    def test_unreadable_list(self, tmp_path):
        (problem,) = check_datalist(tmp_path / "none.json")
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
        assert check_datalist(dataset, cache_folder=tmp_path / "cache") == []
        assert sorted(opened) == ["images/a", "images/b", "images/c", "labels/a", "labels/c"]
        opened.clear()
        assert check_datalist(dataset, cache_folder=tmp_path / "cache") == []
        assert opened == []
        write_volume(tmp_path / "labels/a.nii.gz", values=(77,))
        assert "holds the label value 77" in only(check_datalist(dataset, cache_folder=tmp_path / "cache"))
        assert sorted(opened) == ["images/a", "labels/a"]

    def test_problems_are_not(self, dataset, tmp_path, opened):
        (tmp_path / "images/b.nii.gz").write_bytes(b"")
        for _ in range(2):
            assert "the file is empty" in only(check_datalist(dataset, cache_folder=tmp_path / "cache"))
        assert opened.count("images/b") == 2

    def test_other_label_map(self, dataset, tmp_path, opened):
        check_datalist(dataset, cache_folder=tmp_path / "cache")
        opened.clear()
        change(dataset, label_map={"0": 0, "2": "S"})
        assert len(check_datalist(dataset, cache_folder=tmp_path / "cache")) == 2
        assert sorted(opened) == ["images/a", "images/c", "labels/a", "labels/c"]

    def test_damaged(self, dataset, tmp_path):
        (tmp_path / "checked_files.json").write_text("[")
        assert check_datalist(dataset, cache_folder=tmp_path) == []
        assert len(json.loads((tmp_path / "checked_files.json").read_text())) == 3


class TestRaiseProblems:
    def test_none(self):
        raise_problems([])

    def test_one(self):
        with pytest.raises(DataError, match=r"^a\.nii: is broken$"):
            raise_problems([Problem("a.nii", "is broken")])


class TestCheckScan:
    def test_value(self, tmp_path, write_volume):
        assert check_scan(write_volume(tmp_path / "a.nii")) == []
        assert "no such file" in only(check_scan(tmp_path / "b.nii"))

    def test_dicom(self, tmp_path, write_dicom):
        write_dicom(tmp_path / "scan")
        assert check_scan(tmp_path / "scan") == []
        write_dicom(tmp_path / "scan", number=8)
        assert "the folder mixes 2 DICOM series" in only(check_scan(tmp_path / "scan"))
        (tmp_path / "empty").mkdir()
        assert "is a folder without DICOM files" in only(check_scan(tmp_path / "empty"))


class TestImageMistakes:
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
        assert volumes._values(array) == np.unique(array).astype(int).tolist()

    def test_far_apart(self):
        assert volumes._values(np.array([[[0, 10**9, 5]]])) == [0, 5, 10**9]


class TestRun:
    def run(self, path):
        parser = argparse.ArgumentParser()
        check.add_arguments(parser)
        return check.run(parser.parse_args([str(path)]))

    def test_good(self, dataset, capsys):
        assert self.run(dataset) == 0
        out = capsys.readouterr().out
        assert "unlabelled           1         1         0" in out
        assert "no problems" in out

    def test_problem(self, dataset, capsys):
        (dataset.parent / "labels/b.nii.gz").unlink()
        assert self.run(dataset) == 1
        captured = capsys.readouterr()
        assert "unlabelled           1         1         1" in captured.out
        assert "error: " in captured.err
        assert "labels/b.nii.gz: there is no such file" in captured.err


@pytest.mark.skipif(not SPIDER_SPACE.is_dir(), reason="CPS4_SPIDER_SPACE does not name the folder of SPIDER-SPACE")
class TestRealData:
    def test_spider_space(self, tmp_path):
        path = prepare(SPIDER_SPACE, tmp_path / "d.json", labelled_cases=2)
        assert check_datalist(path, sections=("training", "validation", "test"), hidden_labels=True) == []
