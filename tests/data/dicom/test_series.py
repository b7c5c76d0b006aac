import numpy as np
import pytest

from scripts.data.check.volumes import read_volume
from scripts.data.dicom import series as dicom
from tests.data.conftest import PIR


class TestIsDicom:
    def test_value(self, tmp_path, write_dicom):
        write_dicom(tmp_path)
        assert all(dicom.is_dicom(path) for path in tmp_path.iterdir())

    @pytest.mark.parametrize("name", ["notes.txt", "DICOMDIR", "a.nii.gz", ".hidden", "short"])
    def test_others(self, tmp_path, name):
        content = b"short" if name == "short" else b"\0" * 128 + b"DICM"
        (tmp_path / name).write_bytes(content)
        assert not dicom.is_dicom(tmp_path / name)

    @pytest.mark.parametrize(
        ("kind", "wanted"),
        [("4", True), ("4.1", True), ("7", True), ("66.4", False), ("66", False), ("88.33", False), ("11.1", False)],
    )
    def test_objects_beside_images(self, tmp_path, kind, wanted):
        uid = f"1.2.840.10008.5.1.4.1.1.{kind}".encode()
        uid += b"\0" * (len(uid) % 2)
        length = len(uid).to_bytes(2, "little")
        meta = b"\2\0\0\0UL\4\0\x90\0\0\0" + b"\2\0\1\0OB\0\0\2\0\0\0\0\1" + b"\2\0\2\0UI" + length + uid
        (tmp_path / "x").write_bytes(b"\0" * 128 + b"DICM" + meta + b"\2\0\3\0UI\4\x001.2\0")
        assert dicom.is_dicom(tmp_path / "x") is wanted


class TestListSeries:
    def test_one_folder_each(self, tmp_path, write_dicom):
        write_dicom(tmp_path / "b_t2", number=3)
        write_dicom(tmp_path / "a_t1", number=4)
        found = dicom.list_series(tmp_path)
        assert [series.name for series in found] == ["a_t1", "b_t2"]
        assert [series.plane for series in found] == ["sagittal", "sagittal"]
        assert found[0].patient == "MRN4711"

    def test_mixed_folder(self, tmp_path, write_dicom):
        write_dicom(tmp_path / "study", number=3)
        write_dicom(tmp_path / "study", number=4, plane="axial")
        write_dicom(tmp_path / "study", number=5, kind="ORIGINAL\\PRIMARY\\LOCALIZER")
        found = {series.name: (series.plane, series.localiser) for series in dicom.list_series(tmp_path)}
        assert found == {"study_3": ("sagittal", False), "study_4": ("axial", False), "study_5": ("sagittal", True)}

    def test_files_in_order_of_slices(self, tmp_path, write_dicom):
        write_dicom(tmp_path)
        (series,) = dicom.list_series(tmp_path)
        # the slices' normal points to the patient's right, positions fall, file names are against the slices' order
        assert [name.rsplit("_")[-1] for name in series.files] == [f"{n}.dcm" for n in (9, 8, 7, 6, 5)]


class TestConvertSeries:
    def test_geometry(self, tmp_path, write_dicom):
        voxels = write_dicom(tmp_path / "scan")
        (series,) = dicom.list_series(tmp_path)
        out = tmp_path / "out" / "scan.nii.gz"
        dicom.convert_series(series, out)
        for path in (out, tmp_path / "scan"):
            array, affine = read_volume(path)
            # DICOM's LPS position (-10, -20, 30) is (10, 20, 30) in RAS; slices go to the right, which is +x
            expected = PIR.copy()
            expected[0, 3] = 10
            np.testing.assert_allclose(affine, expected, atol=1e-4)
            np.testing.assert_array_equal(array, voxels.transpose(2, 1, 0))

    def test_no_name_of_the_patient(self, tmp_path, write_dicom):
        write_dicom(tmp_path / "scan")
        (series,) = dicom.list_series(tmp_path)
        dicom.convert_series(series, tmp_path / "scan.nii")
        content = (tmp_path / "scan.nii").read_bytes()
        assert b"Doe" not in content
        assert b"MRN4711" not in content

    def test_one_slice(self, tmp_path, write_dicom):
        write_dicom(tmp_path)
        for path in list(tmp_path.iterdir())[1:]:
            path.unlink()
        (series,) = dicom.list_series(tmp_path)
        with pytest.raises(RuntimeError, match="one slice only"):
            dicom.convert_series(series, tmp_path / "out.nii.gz")
        assert not (tmp_path / "out.nii.gz").exists()
