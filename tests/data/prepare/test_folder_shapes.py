"""Folders as people have them, on real files: what pairs, whose it is, what is said; `check` takes the list."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.data.check.command import check_datalist
from scripts.data.datalist import DataError, errors, load_datalist
from scripts.data.dicom.reader import LoadScand
from scripts.data.prepare import command
from scripts.data.prepare.command import prepare
from scripts.data.transforms import MatchGridd
from tests.data.prepare.conftest import AFFINE, IDS, Draw, label_array, name_segments
from tests.scan_files import itk_image

VALUES = {"L5": 1, "L5/S": 2, "L4/L5": 3, "L4": 4}
"""As 3D Slicer numbers segments."""

TOTALSPINESEG = {"S": 50, "L5/S": 100, "L5": 45, "L4/L5": 95, "L4": 44, "L3/L4": 94, "L3": 43}
SPINEPS = {"S": 26, "L5/S": 124, "L5": 24, "L4/L5": 123, "L4": 23, "L3/L4": 122, "L3": 22}


def pairs_of(path: Path) -> dict[str, str]:
    """Image -> label, relative to the data set, of all entries with a label."""
    rows = [row for rows in load_datalist(path).sections.values() for row in rows]
    root = path.parent / "set"
    return {
        str(Path(row["image"]).relative_to(root)): str(Path(row["label"]).relative_to(root))
        for row in rows
        if "label" in row
    }


def patients_of(path: Path) -> set[str]:
    return {row["patient"] for rows in load_datalist(path).sections.values() for row in rows}


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(a) for a in arguments]))


SHAPES = {
    "constant names": ("patient{n}/image.nii.gz", "patient{n}/seg.nii.gz", IDS),
    "any two constant names": ("patient{n}/mri.nii.gz", "patient{n}/bones.nii.gz", IDS),
    "constant names with a word": ("{n}/anatomy.nii.gz", "{n}/bones_mask.nii.gz", IDS),
    "BIDS dseg": ("sub-{n}/anat/sub-{n}_T2w.nii.gz", "derivatives/a/sub-{n}/anat/sub-{n}_T2w_dseg.nii.gz", IDS),
    "BIDS dseg without suffix": (
        "sub-{n}/ses-1/anat/sub-{n}_ses-1_T2w.nii.gz",
        "derivatives/a/sub-{n}/ses-1/anat/sub-{n}_ses-1_space-orig_desc-b_dseg.nii.gz",
        IDS,
    ),
    "BIDS seg": ("sub-{n}/anat/sub-{n}_T2w.nii.gz", "derivatives/labels/sub-{n}/anat/sub-{n}_T2w_seg.nii.gz", IDS),
    "BIDS seg-manual": (
        "sub-{n}/anat/sub-{n}_T2w.nii.gz",
        "derivatives/labels/sub-{n}/anat/sub-{n}_T2w_seg-manual.nii.gz",
        IDS,
    ),
    "segment files": ("p{n}.nrrd", "p{n}.seg.nrrd", IDS),
    "segment files of 3D Slicer": ("p{n}/T2.nrrd", "p{n}/Segmentation.seg.nrrd", IDS),
    "TotalSpineSeg": ("in/a{n}.nii.gz", "out/step2_output/a{n}.nii.gz", TOTALSPINESEG),
    "TotalSpineSeg with its input": ("out/input/a{n}_0000.nii.gz", "out/step2_output/a{n}.nii.gz", TOTALSPINESEG),
    "SPINEPS": ("sub-{n}_T2w.nii.gz", "derivatives_seg/sub-{n}_mod-T2w_seg-vert_msk.nii.gz", SPINEPS),
    "spaces": ("Müller{n} T2 1.nii.gz", "Müller{n} T2 1 seg.nii.gz", IDS),
    "nnU-Net": ("imagesTr/s{n}_0000.nii.gz", "labelsTr/s{n}.nii.gz", IDS),
    "masks": ("set{n}/images/a{n}.nii.gz", "set{n}/Masks/a{n}.nii.gz", IDS),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_pairs_at_first_try(shape: str, draw: Draw, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, label, values = SHAPES[shape]
    for n in range(1, 6):
        folder = draw(image.format(n=n), label.format(n=n), seed=n, values=values)
    assert run(folder, "--out", tmp_path / "d.json") == 0
    assert pairs_of(tmp_path / "d.json") == {image.format(n=n): label.format(n=n) for n in range(1, 6)}
    assert len(patients_of(tmp_path / "d.json")) == 5
    counts = {section: len(rows) for section, rows in load_datalist(tmp_path / "d.json").sections.items()}
    assert counts == {"training": 3, "unlabelled": 0, "validation": 1, "test": 1}
    problems = check_datalist(tmp_path / "d.json", sections=("training", "validation", "test"))
    assert errors(problems) == []
    assert "note: patients: 5 of 5 scans, told by " in capsys.readouterr().out


class TestPatients:
    def test_folders_of_sequences(self, draw, tmp_path, capsys):
        for n in range(6):
            for number, sequence in enumerate(("t1", "t2", "stir")):
                folder = draw(f"{sequence}/images/case{n}.nii.gz", f"{sequence}/labels/case{n}.nii.gz", seed=n,
                              contrast=number)  # fmt: skip
        path = prepare(folder, tmp_path / "d.json")
        sections = load_datalist(path).sections
        assert {s: len(rows) for s, rows in sections.items()} == {
            "training": 9,
            "unlabelled": 0,
            "validation": 3,
            "test": 6,
        }
        assert patients_of(path) == {f"case{n}" for n in range(6)}
        assert errors(check_datalist(path, sections=("training", "validation", "test"))) == []
        assert 'is of patient "case0"' in capsys.readouterr().out
        # what `check` says of the split that folders would give
        raw = json.loads(path.read_text())
        rows = [row for section in ("training", "validation", "test") for row in raw[section]]
        for number, section in enumerate(("training", "validation", "test")):
            raw[section] = [row for row in rows if row["image"].split("/")[1] == ("t1", "t2", "stir")[number]]
            raw[section] = [{**row, "patient": row["image"].split("/")[1]} for row in raw[section]]
        path.write_text(json.dumps(raw))
        said = [str(p) for p in errors(check_datalist(path))]
        assert len(said) == 6
        assert "t2/labels/case" in said[0]
        assert "has the same voxels as" in said[0]
        assert "t1/labels/case" in said[0]

    def test_sites(self, draw, tmp_path):
        for n in range(10):
            folder = draw(
                f"site{'AB'[n % 2]}/images/c{n // 2}.nii.gz", f"site{'AB'[n % 2]}/labels/c{n // 2}.nii.gz", seed=n
            )
        sections = load_datalist(prepare(folder, tmp_path / "d.json")).sections
        assert {s: len({r["patient"] for r in rows}) for s, rows in sections.items()} == {
            "training": 7,
            "unlabelled": 0,
            "validation": 1,
            "test": 2,
        }

    def test_spider_as_pairs(self, draw, tmp_path):
        for n in range(1, 6):
            for number, sequence in enumerate(("t1", "t2")):
                folder = draw(f"images/{n}_{sequence}.mha", f"masks/{n}_{sequence}.mha", seed=n, contrast=number)
        path = prepare(folder, tmp_path / "d.json", layout="pairs")
        for rows in load_datalist(path).sections.values():
            assert all(sum(r["patient"] == row["patient"] for r in rows) == 2 for row in rows)
        assert patients_of(path) == set("12345")

    def test_pattern(self, draw, tmp_path, capsys):
        for n in range(4):
            folder = draw(f"images/x{n}-{n % 2}.nii.gz", f"labels/x{n}-{n % 2}.nii.gz", seed=n)
        path = prepare(folder, tmp_path / "d.json", patient=r"-(\d)")
        assert patients_of(path) == {"0", "1"}
        assert 'told by --patient; "images/x0-0.nii.gz" is of patient "0"' in capsys.readouterr().out
        with pytest.raises(DataError, match="finds no patient in this path"):
            prepare(folder, tmp_path / "d.json", patient="(zz)")


class TestNnunet:
    def test_channels_and_test_images(self, draw, tmp_path, capsys):
        for n in range(3):
            for channel in range(2):
                folder = draw(f"imagesTr/s{n}_000{channel}.nii.gz", f"labelsTr/s{n}.nii.gz", seed=n, contrast=channel)
        for channel in range(2):
            draw(f"imagesTs/s9_000{channel}.nii.gz", seed=9, contrast=channel)
        path = prepare(folder, tmp_path / "d.json")
        assert [row["image"] for row in load_datalist(path).sections["unlabelled"]] == [
            str(folder / "imagesTs/s9_0000.nii.gz")
        ]
        assert set(pairs_of(path)) == {f"imagesTr/s{n}_0000.nii.gz" for n in range(3)}
        out = capsys.readouterr().out
        assert "imagesTs: 1 scans without labels are taken as unlabelled, training reads them" in out
        assert "passed over, a channel of nnU-Net beside the one that is taken: imagesTr/s0_0001.nii.gz" in out

    def test_a_number_of_four_digits_is_no_channel(self, draw, tmp_path):
        for n in range(4):
            folder = draw(f"images/case_000{n}.nii.gz", f"labels/case_000{n}.nii.gz", seed=n)
        path = prepare(folder, tmp_path / "d.json")
        assert patients_of(path) == {f"case_000{n}" for n in range(4)}
        assert len(pairs_of(path)) == 4

    def test_scans_alone_are_no_channels(self, draw, tmp_path):
        for n in range(4):
            folder = draw(f"images/case_000{n}.nii.gz", seed=n)
        assert patients_of(prepare(folder, tmp_path / "d.json")) == {f"case_000{n}" for n in range(4)}

    def test_the_channel_that_is_asked_for(self, draw, tmp_path):
        for n in range(3):
            for channel in range(2):
                folder = draw(f"imagesTr/s{n}_000{channel}.nii.gz", f"labelsTr/s{n}.nii.gz", seed=n, contrast=channel)
        names = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, **IDS}}
        (folder / "dataset.json").write_text(json.dumps(names))
        path = prepare(folder, tmp_path / "d.json")
        assert pairs_of(path) == {f"imagesTr/s{n}_0001.nii.gz": f"labelsTr/s{n}.nii.gz" for n in range(3)}
        assert patients_of(path) == {"s0", "s1", "s2"}


class TestWhatIsSaid:
    def test_labels_that_pair_with_nothing(self, draw, tmp_path, capsys):
        folder = draw("images/a.nii.gz", "labels/a.nii.gz", seed=1)
        draw("", "labels/b.nii.gz", seed=2)
        assert run(folder, "--out", tmp_path / "d.json") == 1
        captured = capsys.readouterr()
        assert f"{folder}/labels/b.nii.gz: left out, no scan fits this label" in captured.out
        assert "error: 1 labels pair with no scan" in captured.err
        assert json.loads((tmp_path / "d.json").read_text())["prepared"]["labels_without_scan"] == [
            str(folder / "labels/b.nii.gz")
        ]

    def test_a_word_is_a_whole_word(self, draw, tmp_path):
        for name in ("Maskell", "Segal"):
            folder = draw(f"{name}/t2.nii.gz", f"{name}/t2_seg.nii.gz", seed=len(name))
        path = prepare(folder, tmp_path / "d.json")
        assert patients_of(path) == {"Maskell", "Segal"}
        assert len(pairs_of(path)) == 2

    def test_all_that_is_passed_over(self, draw, tmp_path, capsys):
        folder = draw("in/a.nii.gz", "out/step2_output/a.nii.gz", seed=1, values=TOTALSPINESEG)
        for name in ("step1_output", "step2_raw", "step1_canal", "step1_cord"):
            draw("", f"out/{name}/a.nii.gz", seed=1)
        draw("", "sub-1_mod-T2w_seg-spine_msk.nii.gz", seed=1)
        assert run(folder, "--out", tmp_path / "d.json") == 0
        out = capsys.readouterr().out
        assert (
            "note: passed over, what a program wrote on its way to a label map: out/step1_canal/a.nii.gz, "
            "out/step1_cord/a.nii.gz, out/step1_output/a.nii.gz and 1 more" in out
        )
        assert "note: passed over, a mask of SPINEPS without levels: sub-1_mod-T2w_seg-spine_msk.nii.gz" in out

    def test_layouts_that_say_where_files_are(self, tmp_path, draw, capsys):
        folder = draw("images/1_t2.mha", "masks/1_t2.mha", seed=1, values={"L5": 1, "L4": 2})
        draw("images/1_t1.mha", "masks/1_t1.mha", seed=1)
        draw("extra/other.mha", seed=3)
        prepare(folder, tmp_path / "d.json", layout="spider")
        out = capsys.readouterr().out
        assert "passed over, of another series than t2 (see --series): images/1_t1.mha, masks/1_t1.mha" in out
        assert "passed over, no part of the layout spider: extra/other.mha" in out


class TestPatterns:
    def test_everything_else(self, draw, tmp_path, capsys):
        for n in range(3):
            folder = draw(f"x/{n}/A.nii.gz", f"y/{n}-truth.nii.gz", seed=n)
        draw("x/0/B.nii.gz", seed=7)
        options = ("--images", "x/*/A.nii.gz", "--labels", "y/*-truth.nii.gz")
        assert run(folder, "--out", tmp_path / "d.json", *options) == 0
        assert pairs_of(tmp_path / "d.json") == {f"x/{n}/A.nii.gz": f"y/{n}-truth.nii.gz" for n in range(3)}
        assert "passed over, not named by --images and --labels: x/0/B.nii.gz" in capsys.readouterr().out

    def test_one_of_two_labels(self, draw, tmp_path):
        folder = draw("a.nii.gz", "a_seg.nii.gz", seed=1)
        draw("", "a_mask.nii.gz", seed=2)
        with pytest.raises(DataError, match="fits the same scan"):
            prepare(folder, tmp_path / "d.json")
        assert pairs_of(prepare(folder, tmp_path / "d.json", labels="*_seg.nii.gz")) == {"a.nii.gz": "a_seg.nii.gz"}

    def test_exception(self, draw, tmp_path, capsys):
        folder = draw("a.nii.gz", "a_seg.nii.gz", seed=1)
        assert run(folder, "--out", tmp_path / "d.json", "--images", "b*", "--labels", "*") == 1
        assert "no image file fits --images 'b*'" in capsys.readouterr().err


class TestDicomBeside:
    """Labelled NIfTI files and DICOM series in one folder."""

    def test_nothing_is_dropped(self, draw, tmp_path, write_dicom, capsys):
        for n in range(3):
            folder = draw(f"images/p{n}.nii.gz", f"labels/p{n}.nii.gz", seed=n)
        write_dicom(folder / "archive/one", number=3)
        path = prepare(folder, tmp_path / "d.json")
        (row,) = load_datalist(path).sections["unlabelled"]
        assert row["image"] == str(tmp_path / "d_nifti/one.nii.gz")
        assert row["patient"] == "patient_001"
        assert "note: patients: 1 of 1 DICOM series, told by PatientID, which is not written" in capsys.readouterr().out
        assert "MRN4711" not in path.read_text()

    def test_the_patient_of_the_folder(self, draw, tmp_path, write_dicom, capsys):
        for n in range(3):
            folder = draw(f"p{n}/t2.nii.gz", f"p{n}/t2_seg.nii.gz", seed=n)
            write_dicom(folder / f"p{n}/dicom", number=n + 1, tags={"0010|0020": f"MRN{n}", "0020|000d": f"1.2.{n}"})
        sections = load_datalist(prepare(folder, tmp_path / "d.json")).sections
        (trained,) = sections["training"]
        assert [row["patient"] for row in sections["unlabelled"]] == [trained["patient"]]
        assert capsys.readouterr().out.count("left out, no label, and its patient is in") == 2

    def test_dicom_alone_is_asked_for(self, draw, tmp_path, write_dicom, capsys):
        folder = draw("images/a.nii.gz", "labels/a.nii.gz", seed=1)
        write_dicom(folder / "dicom/one", number=3)
        prepare(folder, tmp_path / "d.json", layout="dicom")
        said = "passed over, no DICOM, which the layout asks for: images/a.nii.gz, labels/a.nii.gz"
        assert said in capsys.readouterr().out

    def test_a_second_call(self, draw, tmp_path, write_dicom):
        folder = draw("images/a.nii.gz", "labels/a.nii.gz", seed=1)
        write_dicom(folder / "dicom/one", number=3)
        first, again = (prepare(folder, folder / "d.json").read_text() for _ in range(2))
        assert first == again

    def test_one_person_of_two_folders(self, draw, tmp_path, write_dicom):
        for n in range(2):
            folder = draw(f"p{n}/x.nii.gz", f"p{n}/x_seg.nii.gz", seed=n + 5)
            write_dicom(folder / f"p{n}/dicom", number=n + 1, tags={"0020|000d": f"1.2.{n}"})
        assert patients_of(prepare(folder, tmp_path / "d.json")) == {"p0"}


def test_segment_file_of_the_voxels_around_the_segments(draw: Draw, tmp_path: Path) -> None:
    """As 3D Slicer writes it: on a grid of its own, smaller than the scan's; training gets it on the scan's."""
    itk = pytest.importorskip("itk", reason="NRRD is written with itk")
    for n in range(1, 6):
        folder = draw(f"p{n}/T2.nrrd", f"p{n}/Segmentation.seg.nrrd", seed=n, values=VALUES)
        whole = label_array(n, VALUES)
        affine = AFFINE.copy()
        affine[:3, 3] = AFFINE[:3] @ [3, 7, 0, 1]
        file = folder / f"p{n}/Segmentation.seg.nrrd"
        itk.imwrite(itk_image(itk, whole[3:56, 7:39], affine), str(file))
        name_segments(file, {value: name for name, value in VALUES.items()})
    path = prepare(folder, tmp_path / "d.json")
    assert len(pairs_of(path)) == 5
    problems = check_datalist(path, sections=("training", "validation", "test"))
    assert errors(problems) == []
    assert sum("it is brought onto the image's, nearest" in problem.message for problem in problems) == 5
    entry = load_datalist(path).sections["training"][0]
    pair = LoadScand(["image", "label"], ensure_channel_first=True, image_only=True)(entry)
    found = MatchGridd("label", "image")(pair)["label"]
    number = int(entry["case"].split("_")[0].removeprefix("p"))
    np.testing.assert_array_equal(found[0].numpy(), label_array(number, VALUES))


def test_a_label_drawn_on_another_grid_is_for_the_check(draw: Draw, tmp_path: Path) -> None:
    folder = draw("p1/image.nii.gz", "p1/seg.nii.gz", seed=1)
    label = nibabel.load(folder / "p1/seg.nii.gz")
    nibabel.save(label.slicer[:50], folder / "p1/seg.nii.gz")
    path = prepare(folder, tmp_path / "d.json")
    assert "resample the label" in str(errors(check_datalist(path))[0])


def test_segment_files_pair_and_name_their_values(draw: Draw, tmp_path: Path) -> None:
    for n, values in enumerate(({"L5": 1, "L4": 2}, {"L4": 1, "L3": 2})):
        folder = draw(f"p{n}.nrrd", f"p{n}.seg.nrrd", seed=n, values=values)
        name_segments(folder / f"p{n}.seg.nrrd", {value: f"{name} vertebra" for name, value in values.items()})
    path = prepare(folder, tmp_path / "d.json")
    rows = load_datalist(path).sections["training"]
    assert [row["label_map"]["map"] for row in rows] == [
        {"0": "background", "1": "L5", "2": "L4"},
        {"0": "background", "1": "L4", "2": "L3"},
    ]
    assert errors(check_datalist(path)) == []
