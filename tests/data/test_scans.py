import logging
from pathlib import Path

import numpy as np
import pytest

from scripts.data.check.volumes import read_volume
from scripts.data.datalist import DataError
from scripts.data.scans import find_scans

T2 = {"0018|0081": "110", "0018|0080": "3500", "0008|103e": "Sag T2 TSE Jane Doe"}
T1 = {"0018|0081": "10", "0018|0080": "550", "0008|103e": "Sag T1 TSE Jane Doe"}
STIR = {"0018|0081": "60", "0018|0080": "4000", "0018|0082": "150", "0008|103e": "t2_tirm_sag"}


class TestFindScans:
    def test_value(self, tmp_path):
        for name in (
            "b/x.nii.gz",
            "a.mha",
            "c.nrrd",
            "a_seg.nii.gz",
            "labels/a.nii.gz",
            ".d/e.nii",
            "n.txt",
            "._b.nii",
        ):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        assert find_scans(tmp_path) == [
            {"image": str(tmp_path / "a.mha"), "case": "a"},
            {"image": str(tmp_path / "b/x.nii.gz"), "case": "b_x"},
            {"image": str(tmp_path / "c.nrrd"), "case": "c"},
        ]

    def test_what_is_passed_over_is_said(self, tmp_path, caplog):
        for name in ("Maskell/t2.nii", "labelled/x.nii", "a_seg.nii", "labels/final/a.nii"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        with caplog.at_level(logging.INFO):
            assert [scan["case"] for scan in find_scans(tmp_path)] == ["Maskell_t2", "labelled_x"]
        said = "passed over, labels or other outputs by their names: a_seg.nii, labels/final/a.nii"
        assert caplog.messages == [f"{tmp_path}: {said}"]

    def test_one_file(self, tmp_path):
        (tmp_path / "labels").mkdir()
        (tmp_path / "labels/x.nii").write_bytes(b"")
        assert find_scans(tmp_path / "labels/x.nii") == [{"image": str(tmp_path / "labels/x.nii"), "case": "x"}]

    def test_same_names(self, tmp_path):
        for visit in ("v1", "v2"):
            (tmp_path / visit).mkdir()
            (tmp_path / visit / "t2.nii").write_bytes(b"")
        assert [scan["case"] for scan in find_scans(tmp_path)] == ["v1_t2", "v2_t2"]

    def test_dicom(self, tmp_path, write_dicom):
        write_dicom(tmp_path / "study/T2 sag")
        (tmp_path / "study/x.nii").write_bytes(b"")
        cases = [(scan["case"], scan["image"]) for scan in find_scans(tmp_path)]
        assert cases == [("study_T2 sag", str(tmp_path / "study/T2 sag")), ("study_x", str(tmp_path / "study/x.nii"))]
        assert [scan["case"] for scan in find_scans(tmp_path / "study/T2 sag")] == ["T2 sag"]

    def test_bad_ones_are_found_too(self, tmp_path):
        # the check names them; left out here they would be left out in silence
        (tmp_path / "study").mkdir()
        (tmp_path / "study/1").write_bytes(bytes(128) + b"DICM")
        (tmp_path / "lost.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
        assert [scan["case"] for scan in find_scans(tmp_path)] == ["lost", "study"]

    def test_name_depends_on_nothing_else_in_the_batch(self, tmp_path, write_dicom):
        for name in ("p1/S03.nii", "p2/S03.nii", "S03.nii", "p1/x/S03.nii.gz"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        write_dicom(tmp_path / "p1/series")
        together = {scan["image"]: scan["case"] for scan in find_scans(tmp_path)}
        assert sorted(together.values()) == ["S03", "p1_S03", "p1_series", "p1_x_S03", "p2_S03"]
        for path in sorted(together):
            if not path.endswith("series"):
                Path(path).rename(tmp_path / "away")
                (tmp_path / "away").rename(Path(path).with_name("alone.nii"))  # all others by turns under another name
                rest = {scan["image"]: scan["case"] for scan in find_scans(tmp_path)}
                assert all(rest[other] == name for other, name in together.items() if other != path)
                Path(path).with_name("alone.nii").rename(path)

    @pytest.mark.parametrize("pair", [("a/b.nii", "a_b.nii"), ("t2.nii", "t2.mha"), ("t2.nii", "t2.nii.gz")])
    def test_equal_names_are_refused(self, tmp_path, pair):
        (tmp_path / "a").mkdir()
        for name in ("other.nii", *pair):
            (tmp_path / name).write_bytes(b"")
        first, second = sorted(str(tmp_path / name) for name in pair)
        with pytest.raises(DataError, match="have the same name") as error:
            find_scans(tmp_path)
        assert str(error.value).startswith(f"{first} and {second} have the same name, ")
        assert str(error.value).endswith("; rename all but one, or label each alone, into an --output_dir of its own")

    def test_linked_folders(self, tmp_path):
        (tmp_path / "archive").mkdir()
        (tmp_path / "archive/x.nii").write_bytes(b"")
        (tmp_path / "scans").mkdir()
        (tmp_path / "scans/link").symlink_to(tmp_path / "archive")
        (tmp_path / "archive/circle").symlink_to(tmp_path / "scans")
        assert [scan["image"] for scan in find_scans(tmp_path / "scans")] == [str(tmp_path / "scans/link/x.nii")]

    def test_exception(self, tmp_path):
        with pytest.raises(DataError, match="there is no scan here"):
            find_scans(tmp_path)
        with pytest.raises(DataError, match="there is no such folder or file"):
            find_scans(tmp_path / "none")

    def test_dicom_file_stands_for_its_series(self, tmp_path, write_dicom):
        write_dicom(tmp_path / "study", number=2, tags=T1)
        write_dicom(tmp_path / "study", number=3, tags=T2)
        scan = str(tmp_path / "study/2_7.dcm")
        assert find_scans(scan) == [{"image": scan, "case": "study_2"}]

    def test_unknown_sequence(self, tmp_path):
        with pytest.raises(DataError, match="cannot be chosen by 'T3'; choose one of t2, t1, stir, any"):
            find_scans(tmp_path, "T3")


class TestSeveralSeries:
    """A study in one folder: localiser, axial T2, sagittal T1, T2 and STIR."""

    @pytest.fixture
    def study(self, tmp_path, write_dicom):
        write_dicom(tmp_path / "study", number=1, kind="ORIGINAL\\PRIMARY\\LOCALIZER")
        write_dicom(tmp_path / "study", number=2, plane="axial", tags=T2)
        write_dicom(tmp_path / "study", number=3, tags=T1)
        self.voxels = write_dicom(tmp_path / "study", number=4, tags=T2)
        write_dicom(tmp_path / "study", number=5, tags=STIR)
        return tmp_path / "study"

    def test_sagittal_t2_is_taken(self, study, caplog):
        with caplog.at_level(logging.INFO):
            (scan,) = find_scans(study)
        assert scan["case"] == "study_4"
        where = f"in {study}"
        t1 = 'sagittal T1 by its times (TE 10 ms, TR 550 ms) and its description ("t1")'
        t2 = 'sagittal T2 by its times (TE 110 ms, TR 3500 ms) and its description ("t2")'
        assert [record.getMessage() for record in caplog.records] == [
            f"DICOM series 1 {where}: left out, a localiser",
            f"DICOM series 2 {where}: left out, of axial plane",
            f"DICOM series 3 {where}: left out, {t1}",
            f"DICOM series 4 {where}: taken, {t2}",
            f"DICOM series 5 {where}: left out, sagittal STIR by its times (TE 60 ms, TR 4000 ms, TI 150 ms) and its "
            'description ("t2"), fat suppressed by its description ("tirm")',
        ]
        array, _ = read_volume(scan["image"])
        np.testing.assert_array_equal(array, self.voxels.transpose(2, 1, 0))

    @pytest.mark.parametrize(
        ("sequence", "numbers"), [("t1", ["3"]), ("stir", ["5"]), ("any", ["3", "4", "5"]), ("t2", ["4"])]
    )
    def test_asked_for(self, study, sequence, numbers):
        assert [scan["case"] for scan in find_scans(study, sequence)] == [f"study_{n}" for n in numbers]

    def test_no_name_of_the_patient(self, study, caplog):
        with caplog.at_level(logging.DEBUG):
            scans = find_scans(study)
        assert "Doe" not in caplog.text + str(scans)
        assert "MRN4711" not in caplog.text + str(scans)
        assert [scan["case"] for scan in scans] == ["study_4"]

    def test_none_that_fits(self, tmp_path, write_dicom):
        write_dicom(tmp_path / "study", number=2, plane="axial", tags=T2)
        write_dicom(tmp_path / "study", number=3, tags=T1)
        with pytest.raises(DataError, match="there is no sagittal T2 series") as error:
            find_scans(tmp_path)
        where = f"in {tmp_path}/study"
        assert str(error.value) == (
            f"{tmp_path}: there is no sagittal T2 series: DICOM series 2 {where} is of axial plane; DICOM series 3 "
            f"{where} "
            'is sagittal T1 by its times (TE 10 ms, TR 550 ms) and its description ("t1"); ask for another contrast '
            "(--sequence, in prepare --series), or give the series that you mean alone"
        )
