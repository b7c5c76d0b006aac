import argparse
import itertools
import json
from pathlib import Path

import pytest

from scripts.data.datalist import DataError, load_datalist
from scripts.data.prepare import command as prepare_module
from scripts.data.prepare.command import prepare
from scripts.data.scans import find_scans


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def sections(path):
    """Section -> cases, in the order of the list."""
    return {section: [entry["case"] for entry in entries] for section, entries in load_datalist(path).sections.items()}


@pytest.fixture
def mrspineseg(tmp_path):
    """20 patients with masks and two without, in another part of the data set."""
    folder = tmp_path / "MRSpineSeg"
    touch(folder, *(f"train/MR/Case{n}.nii.gz" for n in range(1, 21)))
    touch(folder, *(f"train/Mask/mask_case{n}.nii.gz" for n in range(1, 21)))
    return touch(folder, "test1/MR/Case21.nii.gz", "test1/MR/Case22.nii.gz")


class TestLayouts:
    def test_mrspineseg(self, mrspineseg, tmp_path, capsys):
        path = prepare(mrspineseg, tmp_path / "d.json")
        assert "layout mrspineseg (detected)" in capsys.readouterr().out
        got = sections(path)
        assert {section: len(cases) for section, cases in got.items()} == {
            "training": 14,
            "unlabelled": 2,
            "validation": 2,
            "test": 4,
        }
        assert got["unlabelled"] == ["Case21", "Case22"]
        entry = load_datalist(path).sections["training"][0]
        assert Path(entry["label"]).name == f"mask_{entry['case'].lower()}.nii.gz"
        assert entry["label_map"] == "mrspineseg"
        assert entry["unlabelled_classes"] == ()

    def test_spider(self, tmp_path, capsys):
        folder = tmp_path / "spider"
        for n in range(1, 6):
            touch(folder, *(f"{kind}/{n}_{s}.mha" for kind in ("images", "masks") for s in ("t1", "t2", "t2_SPACE")))
        path = prepare(folder, tmp_path / "d.json")
        assert "layout spider (detected)" in capsys.readouterr().out
        entries = [e for rows in load_datalist(path).sections.values() for e in rows]
        assert sorted(e["case"] for e in entries) == [f"{n}_t2" for n in range(1, 6)]
        assert {e["patient"] for e in entries} == {"1", "2", "3", "4", "5"}
        assert {e["unlabelled_classes"] for e in entries} == {(1,)}
        other = prepare(folder, tmp_path / "e.json", series="t2_SPACE")
        assert all(case.endswith("_t2_SPACE") for cases in sections(other).values() for case in cases)

    def test_nnunet(self, tmp_path):
        folder = touch(tmp_path / "set", *(f"imagesTr/s{n}_0000.nii.gz" for n in range(4)), "imagesTs/s9_0000.nii.gz")
        touch(folder, *(f"labelsTr/s{n}.nii.gz" for n in range(4)))
        got = sections(prepare(folder, tmp_path / "d.json", label_map="totalspineseg"))
        assert got["unlabelled"] == ["s9"]
        assert sorted(got["training"] + got["validation"] + got["test"]) == ["s0", "s1", "s2", "s3"]

    def test_labels_beside(self, tmp_path, capsys):
        folder = touch(tmp_path / "set", "p1/t2.nii.gz", "p1/t2_seg.nii.gz", "p2/t2.nii.gz", "p2/other_label.nii.gz")
        path = prepare(folder, tmp_path / "d.json")
        got = load_datalist(path).sections
        assert [(e["case"], e["patient"], Path(e["label"]).name) for e in got["training"]] == [
            ("p1_t2", "p1", "t2_seg.nii.gz")
        ]
        assert [(e["case"], e["patient"]) for e in got["unlabelled"]] == [("p2_t2", "p2")]
        out = capsys.readouterr().out
        assert "other_label.nii.gz: left out, no scan fits this label" in out
        assert "name a --label-map" in out

    def test_images_only(self, tmp_path):
        folder = touch(tmp_path / "set", "a.nii.gz", "sub-02_T2w.mha")
        got = load_datalist(prepare(folder, tmp_path / "d.json")).sections
        assert [(e["case"], e["patient"]) for e in got["unlabelled"]] == [("a", "a"), ("sub-02_T2w", "sub-02")]

    def test_dicom(self, tmp_path, write_dicom, capsys):
        write_dicom(tmp_path / "in/T2_sag", number=2)
        write_dicom(tmp_path / "in/mixed", number=3)
        write_dicom(tmp_path / "in/mixed", number=4)
        write_dicom(tmp_path / "in/ax", number=5, plane="axial")
        path = prepare(tmp_path / "in", tmp_path / "d.json")
        raw = json.loads(path.read_text())
        assert [row["image"] for row in raw["unlabelled"]] == [
            f"d_nifti/{name}.nii.gz" for name in ("T2_sag", "mixed_3", "mixed_4")
        ]
        assert {row["patient"] for row in raw["unlabelled"]} == {"patient_001"}
        assert len(find_scans(tmp_path / "d_nifti")) == 3
        captured = capsys.readouterr()
        assert "layout dicom (detected)" in captured.out
        assert f"DICOM series 5 in {tmp_path}/in/ax: left out, of axial plane" in captured.out
        assert "no header tells of a sagittal T2 series; taken: DICOM series 2 in" in captured.out
        assert "Doe" not in path.read_text() + captured.out + captured.err

    def test_exception(self, tmp_path):
        touch(tmp_path / "set", "readme.txt")
        with pytest.raises(DataError, match="does not follow any layout"):
            prepare(tmp_path / "set", tmp_path / "d.json")
        with pytest.raises(DataError, match="does not follow the layout spider;"):
            prepare(tmp_path / "set", tmp_path / "d.json", layout="spider")
        with pytest.raises(DataError, match="layout 'x' is unknown; choose one of auto, mrspineseg"):
            prepare(tmp_path / "set", tmp_path / "d.json", layout="x")
        with pytest.raises(DataError, match="there is no such folder"):
            prepare(tmp_path / "none", tmp_path / "d.json")

    def test_exception_two_labels(self, tmp_path):
        touch(tmp_path / "set", "a.nii", "a_seg.nii", "a_label.nii")
        with pytest.raises(DataError, match="fits the same scan"):
            prepare(tmp_path / "set", tmp_path / "d.json")


class TestSubsets:
    def test_nested(self, mrspineseg, tmp_path):
        lists = [
            sections(prepare(mrspineseg, tmp_path / "d.json", labelled_fraction=f)) for f in (0.05, 0.1, 0.25, 0.5)
        ]
        assert [len(got["training"]) for got in lists] == [1, 1, 4, 7]
        for small, large in itertools.pairwise(lists):
            assert set(small["training"]) <= set(large["training"])
            assert (small["validation"], small["test"]) == (large["validation"], large["test"])
        for got in lists:
            assert len({case for cases in got.values() for case in cases}) == 22

    def test_hidden_labels(self, mrspineseg, tmp_path):
        path = prepare(mrspineseg, tmp_path / "d.json", labelled_cases=2)
        hidden = [entry.get("hidden_label") for entry in load_datalist(path).sections["unlabelled"]]
        assert len([label for label in hidden if label]) == 12
        assert hidden.count(None) == 2

    def test_seed(self, mrspineseg, tmp_path):
        first, again, other = (sections(prepare(mrspineseg, tmp_path / "d.json", seed=s)) for s in (3, 3, 4))
        assert first == again
        assert first["test"] != other["test"]

    @pytest.mark.parametrize(
        ("patients", "expected"), [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (1, 1, 1)), (5, (3, 1, 1)), (172, (120, 17, 35))]
    )
    def test_sizes(self, tmp_path, patients, expected):
        folder = touch(tmp_path / "train", *(f"MR/Case{n}.nii.gz" for n in range(patients)))
        touch(folder, *(f"Mask/mask_case{n}.nii.gz" for n in range(patients)))
        got = sections(prepare(folder, tmp_path / "d.json"))
        assert tuple(len(got[section]) for section in ("training", "validation", "test")) == expected

    def test_volumes_of_a_patient_stay_together(self, tmp_path):
        names = [f"sub-{p:02d}_run-{r}" for p in range(10) for r in (1, 2)]
        folder = touch(tmp_path / "set", *(f"images/{n}.nii.gz" for n in names), *(f"labels/{n}.nii.gz" for n in names))
        for rows in load_datalist(prepare(folder, tmp_path / "d.json", labelled_cases=3)).sections.values():
            patients = [entry["patient"] for entry in rows]
            assert all(patients.count(patient) == 2 for patient in patients)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"labelled_fraction": 0.1, "labelled_cases": 2}, "exclude each other"),
            ({"labelled_fraction": 0.0}, "must lie above 0"),
            ({"labelled_fraction": 10}, "must lie above 0"),
            ({"labelled_cases": 0}, "must be 1 or more"),
            ({"labelled_cases": 15}, "15 labelled patients were asked for, but there are 14"),
            ({"seed": -1}, "seed must be 0 or more"),
            ({"test_fraction": 0.95}, "leave nobody to train on"),
            ({"label_map": "spyder"}, "no label map"),
        ],
    )
    def test_exception(self, mrspineseg, tmp_path, options, message):
        with pytest.raises(DataError, match=message):
            prepare(mrspineseg, tmp_path / "d.json", **options)
        assert not (tmp_path / "d.json").exists()


class TestSpiderSpace:
    @pytest.fixture
    def folder(self, tmp_path):
        names = [f"spider_{n:03d}" for n in range(12)]
        folder = touch(tmp_path / "set", *(f"{kind}/{n}.nii.gz" for n in names for kind in ("images", "labels")))
        split = {"training_order": names[7::-1], "validation": names[8:9], "test": names[9:]}
        (folder / "split.json").write_text(json.dumps(split))
        return folder

    @pytest.mark.parametrize(
        ("seed", "cases", "expected"), [(0, 2, {7, 6}), (1, 2, {5, 4}), (3, 2, {1, 0}), (0, 3, {7, 6, 5})]
    )
    def test_blocks(self, folder, tmp_path, seed, cases, expected):
        path = prepare(folder, tmp_path / "d.json", labelled_cases=cases, seed=seed)
        got = load_datalist(path).sections
        assert {int(entry["case"][-3:]) for entry in got["training"]} == expected
        assert len(got["unlabelled"]) == 8 - cases
        assert all("hidden_label" in entry for entry in got["unlabelled"])
        assert [entry["case"] for entry in got["validation"]] == ["spider_008"]
        assert {entry["unlabelled_classes"] for entry in got["test"]} == {(1,)}
        assert {entry["label_map"] for entry in got["test"]} == {"mrspineseg"}

    def test_exception(self, folder, tmp_path):
        with pytest.raises(DataError, match=r"from number 9 on \(seed 4\).*take a smaller seed"):
            prepare(folder, tmp_path / "d.json", labelled_cases=2, seed=4)
        (folder / "images/spider_003.nii.gz").unlink()
        with pytest.raises(DataError, match="names spider_003"):
            prepare(folder, tmp_path / "d.json")
        (folder / "split.json").write_text("{}")
        with pytest.raises(DataError, match="must have training_order"):
            prepare(folder, tmp_path / "d.json")


class TestRun:
    def parse(self, *arguments):
        parser = argparse.ArgumentParser()
        prepare_module.add_arguments(parser)
        return parser.parse_args([str(a) for a in arguments])

    def test_value(self, mrspineseg, tmp_path, capsys):
        args = self.parse(mrspineseg, "--out", tmp_path / "new/d.json", "--labelled-fraction", 0.5, "--seed", 2)
        assert prepare_module.run(args) == 0
        assert "training             7         7" in capsys.readouterr().out
        assert sections(tmp_path / "new/d.json") == sections(
            prepare(mrspineseg, tmp_path / "e.json", labelled_cases=7, seed=2)
        )

    def test_exception(self, tmp_path, capsys):
        assert prepare_module.run(self.parse(tmp_path / "none", "--out", tmp_path / "d.json")) == 1
        assert "error: " in capsys.readouterr().err
