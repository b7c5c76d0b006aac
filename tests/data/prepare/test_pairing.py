from pathlib import Path

import pytest

from scripts.data.datalist import DataError
from scripts.data.prepare.pairing import pair, pair_by_patterns

ROOT = Path("/data")


def paths(names: str) -> list[Path]:
    return [ROOT / name for name in names.split("|")]


def paired(scans: str, labels: str) -> dict[str, str]:
    found = pair(paths(scans), paths(labels), ROOT).labels
    return {str(scan.relative_to(ROOT)): str(label.relative_to(ROOT)) for scan, label in found.items()}


class TestPair:
    @pytest.mark.parametrize(
        ("scan", "label"),
        [
            ("p1/image.nii.gz", "p1/seg.nii.gz"),
            ("p1/T2.nii.gz", "p1/mask.mha"),
            ("images/a_0000.nii.gz", "labels/a.nii.gz"),
            ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"),
            ("images/a.nii.gz", "images/a_seg.nii.gz"),
            ("Müller T2 1.nii.gz", "Müller T2 1 seg.nii.gz"),
            ("a.nrrd", "a.seg.nrrd"),
            ("a_t2.nii.gz", "a_seg.nii.gz"),
            ("scans/a.nii.gz", "out/step2_output/a.nii.gz"),
            ("out/input/a_0000.nii.gz", "out/step2_output/a.nii.gz"),
            ("sub-1/anat/sub-1_T2w.nii.gz", "derivatives/x/sub-1/anat/sub-1_T2w_dseg.nii.gz"),
            ("sub-1/anat/sub-1_T2w.nii.gz", "derivatives/x/sub-1/anat/sub-1_space-orig_desc-anna_dseg.nii.gz"),
            ("sub-1/anat/sub-1_T2w.nii.gz", "derivatives/labels/sub-1/anat/sub-1_T2w_seg-manual.nii.gz"),
            ("sub-1/anat/sub-1_T2w.nii.gz", "derivatives/labels/sub-1/anat/sub-1_T2w_label-spine_seg.nii.gz"),
            ("sub-1_T2w.nii.gz", "derivatives_seg/sub-1_mod-T2w_seg-vert_msk.nii.gz"),
            ("sub-mri_label-6_T2w.nii.gz", "sub-mri_seg-vert_label-6_msk.nii.gz"),
        ],
    )
    def test_one(self, scan, label):
        assert paired(scan, label) == {scan: label}
        other = scan.replace("sub-1", "sub-2").replace("p1", "p2")
        other = other if other != scan else scan.replace("a", "b").replace("Müller", "Maier")
        assert paired(f"{other}|{scan}", label).get(scan, label) == label

    def test_constant_names(self):
        scans = "p1/anatomy.nii.gz|p2/anatomy.nii.gz|p3/anatomy.nii.gz"
        assert paired(scans, "p1/bones_mask.nii.gz|p3/bones_mask.nii.gz") == {
            "p1/anatomy.nii.gz": "p1/bones_mask.nii.gz",
            "p3/anatomy.nii.gz": "p3/bones_mask.nii.gz",
        }
        assert paired(scans, "p1/bones_mask.nii.gz|p3/discs_mask.nii.gz") == {}

    def test_a_label_is_never_guessed(self):
        found = pair(paths("p1/t1.nii.gz|p1/t2.nii.gz"), paths("p1/seg.nii.gz"), ROOT)
        assert found.labels == {}
        assert "fits several scans (/data/p1/t1.nii.gz, /data/p1/t2.nii.gz)" in found.alone[ROOT / "p1/seg.nii.gz"]
        found = pair(paths("p1/t2.nii.gz|p2/t1.nii.gz"), paths("p3/seg.nii.gz|p1/t1_seg.nii.gz"), ROOT)
        assert found.labels == {}
        assert list(found.alone.values()) == ["no scan fits this label"] * 2

    def test_order_of_words_counts(self):
        assert paired("a_1_2.nii|a_2_1.nii", "a_2_1_seg.nii|a_1_2_seg.nii") == {
            "a_1_2.nii": "a_1_2_seg.nii",
            "a_2_1.nii": "a_2_1_seg.nii",
        }

    def test_exception(self):
        with pytest.raises(DataError, match="fits the same scan; move one of the two labels away, or say by --labels"):
            pair(paths("a.nii"), paths("a_seg.nii|a_label.nii"), ROOT)


class TestPairByPatterns:
    def test_wildcards_agree(self):
        files = paths("x/1/A.nii|x/2/A.nii|y/1-truth.nii|y/2-truth.nii|z/3.nii")
        scans, found = pair_by_patterns("x/*/A.nii", "y/*-truth.nii", ROOT, files)
        assert scans == files[:2]
        assert found.labels == {files[0]: files[2], files[1]: files[3]}

    def test_names_decide_where_wildcards_cannot(self):
        files = paths("1/t2.nii|1/old_vert.nii|2/t2.nii|2/old_vert.nii")
        _, found = pair_by_patterns("**/t2.nii", "*/*_vert.nii", ROOT, files)
        assert found.labels == {files[0]: files[1], files[2]: files[3]}

    def test_folders(self):
        files = paths("a/b/t2.nii|t2.nii|s/a/b/t2.nii")
        _, found = pair_by_patterns("**/t2.nii", "s/**/t2.nii", ROOT, files)
        assert found.labels == {files[0]: files[2]}

    def test_exception(self):
        with pytest.raises(DataError, match=r"no image file fits --labels 'y/\*'"):
            pair_by_patterns("*", "y/*", ROOT, paths("a.nii"))
