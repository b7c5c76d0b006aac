import numpy as np
import pytest
from monai.transforms import LoadImaged

from scripts.data.check.command import check_scan
from scripts.data.datalist import errors
from scripts.data.dicom import series as dicom
from scripts.data.dicom.reader import LoadScand, SeriesReader


def load(loader, path):
    return loader(keys="image", ensure_channel_first=True, image_only=True)({"image": str(path)})["image"]


class TestLoadScand:
    def test_any_file_stands_for_its_series(self, tmp_path, write_dicom):
        write_dicom(tmp_path / "alone", number=4)
        for number in (3, 4):
            write_dicom(tmp_path / "mixed", number=number)
        wanted = load(LoadImaged, tmp_path / "alone")
        for name in ("4_9.dcm", "4_5.dcm"):
            got = load(LoadScand, tmp_path / "mixed" / name)
            np.testing.assert_array_equal(got.numpy(), wanted.numpy())
            np.testing.assert_allclose(got.affine, wanted.affine)
            assert got.meta["filename_or_obj"] == str(tmp_path / "mixed" / name)

    @pytest.mark.parametrize("name", ["series", "a.nii.gz"])
    def test_all_else_as_monai_does(self, tmp_path, write_dicom, write_volume, name):
        write_dicom(tmp_path / "series")
        write_volume(tmp_path / "a.nii.gz")
        got, wanted = load(LoadScand, tmp_path / name), load(LoadImaged, tmp_path / name)
        np.testing.assert_array_equal(got.numpy(), wanted.numpy())
        np.testing.assert_allclose(got.affine, wanted.affine)

    def test_only_dicom_is_its_business(self, tmp_path, write_dicom, write_volume):
        write_dicom(tmp_path / "series")
        reader = SeriesReader()
        assert reader.verify_suffix(str(tmp_path / "series/7_9.dcm"))
        assert not reader.verify_suffix(str(tmp_path / "series"))
        assert not reader.verify_suffix(str(write_volume(tmp_path / "a.nii")))


class TestFilesOf:
    def test_value(self, tmp_path, write_dicom, write_volume):
        write_dicom(tmp_path / "one", number=3)
        write_dicom(tmp_path / "two", number=3)
        write_dicom(tmp_path / "two", number=4)
        in_order = tuple(str(tmp_path / f"one/3_{n}.dcm") for n in (9, 8, 7, 6, 5))
        assert dicom.files_of(tmp_path / "one") == dicom.files_of(tmp_path / "one/3_7.dcm") == in_order
        assert dicom.files_of(tmp_path / "two") == dicom.files_of(write_volume(tmp_path / "a.nii")) == ()
        assert len(dicom.files_of(tmp_path / "two/4_7.dcm")) == 5

    def test_a_folder_that_changes(self, tmp_path, write_dicom):
        write_dicom(tmp_path / "one")
        assert len(dicom.files_of(tmp_path / "one")) == 5
        (tmp_path / "one/7_9.dcm").unlink()
        assert len(dicom.files_of(tmp_path / "one")) == 4


class TestCheckScan:
    def test_missing_slices_in_a_folder_of_several_series(self, tmp_path, write_dicom):
        for number in (3, 4):
            write_dicom(tmp_path / "study", number=number)
        (tmp_path / "study/4_7.dcm").unlink()
        assert errors(check_scan(tmp_path / "study/3_5.dcm")) == []
        (problem,) = errors(check_scan(tmp_path / "study/4_5.dcm"))
        assert "lacks about 1 slices" in problem.message
