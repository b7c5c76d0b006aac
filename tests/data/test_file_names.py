from pathlib import Path

import pytest

from scripts.data.file_names import SEQUENCE, folder_role, name_parts, names_label, place, role

ROOT = Path("/data")


class TestNamesLabel:
    @pytest.mark.parametrize(
        "name",
        [
            *["mask_1", "x_seg", "seg", "x-label", "Müller T2 1 seg", "x.seg", "sub-01_T2w_seg-manual", "sub-01_dseg"],
            *["sub-01_T2w_label-SC_seg", "sub-01_mod-T2w_seg-vert_msk", "case_gt", "x_seg_final", "Segmentation"],
        ],
    )
    def test_label(self, name: str) -> None:
        assert names_label(name)

    @pytest.mark.parametrize(
        "name",
        [
            *[
                "Maskell",
                "Maskell_t2",
                "labelled",
                "segal_1",
                "sub-mri_label-6_T2w",
                "x_segment",
                "case1",
                "manual",
                "v1",
            ],
            *["unlabelled_3", "Gt1", "labeling", "maskenball"],
        ],
    )
    def test_whole_words_alone(self, name: str) -> None:
        assert not names_label(name)


class TestRole:
    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("Maskell/t2.nii.gz", "scan"),
            ("labelled/a.nii.gz", "scan"),
            ("Segal/images/a.nii.gz", "scan"),
            ("segmentation_challenge/a.nii.gz", "scan"),
            ("labels/a.nii.gz", "label"),
            ("labelsTr/a.nii.gz", "label"),
            ("labels/final/a.nii.gz", "label"),
            ("labels_by_anna/a.nii.gz", "label"),
            ("manual masks/a.nii.gz", "label"),
            ("images/a_seg.nii.gz", "label"),
            ("labels 2019/images/a.nii.gz", "scan"),
            ("derivatives/labels/sub-1/anat/sub-1_T2w.nii.gz", "label"),
            ("derivatives/x/sub-1/anat/sub-1_dseg.nii.gz", "label"),
            ("derivatives/x/sub-1/sub-1_desc-x_T2w.nii.gz", "neither scan nor label of a folder derivatives"),
            ("out/step2_output/a.nii.gz", "label"),
            ("out/step1_output/a.nii.gz", "what a program wrote on its way to a label map"),
            ("out/input/a_0000.nii.gz", "scan"),
            ("sub-1_mod-T2w_seg-spine_msk.nii.gz", "a mask of SPINEPS without levels"),
            ("sub-1_mod-T2w_seg-vert_msk.nii.gz", "label"),
        ],
    )
    def test_value(self, path: str, expected: str) -> None:
        assert role(ROOT / path, ROOT) == expected


def test_folders_of_parts() -> None:
    assert folder_role("imagesTr") == ("image", "tr")
    assert folder_role("labelsTs") == ("label", "ts")
    assert folder_role("Mask") == ("label", "")
    assert folder_role("patients") == ("", "")


def test_place_is_what_scan_and_label_share() -> None:
    for scan, label in (
        ("siteA/imagesTr/a.nii.gz", "siteA/labelsTr/a.nii.gz"),
        ("out/input/a_0000.nii.gz", "out/step2_output/a.nii.gz"),
        ("sub-1/anat/a.nii.gz", "derivatives/labels/sub-1/anat/a.nii.gz"),
    ):
        assert place(ROOT / scan, ROOT) == place(ROOT / label, ROOT)
    assert place(ROOT / "imagesTr/a.nii.gz", ROOT) != place(ROOT / "imagesTs/a.nii.gz", ROOT)


def test_parts_of_bids_names() -> None:
    assert name_parts("sub-01_mod-T2w_seg-vert_msk") == ["sub-01", "t2w", "seg-vert", "msk"]
    assert name_parts("Müller T2-1") == ["müller", "t2", "1"]
    assert name_parts("Mu\u0308ller") == name_parts("M\u00fcller")  # as macOS writes it


@pytest.mark.parametrize("word", ["t1", "t2w", "stir", "sagt2", "t2sag", "dixon", "t2space", "space", "tse", "axial"])
def test_sequences(word: str) -> None:
    assert SEQUENCE.fullmatch(word)
    assert not SEQUENCE.fullmatch(f"{word}9x")
