"""Label maps come back in the scan's own grid, whatever its axes, obliqueness, number of slices and file format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from scripts.labels import ClassTable
from tests.scan_files import itk_image, write_dicom

AXES = ("PIR", "RAS", "LPS", "ASR", "IPL", "SRA", "LAI")


def reoriented(array: np.ndarray, affine: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """The same volume with another order and direction of its array's axes."""
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(axes))
    return np.ascontiguousarray(nib.apply_orientation(array, turn)), affine @ inv_ornt_aff(turn, array.shape)


def save(array: np.ndarray, affine: np.ndarray, path: Path) -> Path:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.fixture(scope="module")
def scan(datalist: Path) -> tuple[np.ndarray, np.ndarray]:
    """A phantom's voxels and affine, axes PIR."""
    image = nib.load(datalist.parent / "images/phantom_0001.nii.gz")
    return np.asarray(image.dataobj), image.affine


@pytest.fixture(scope="module")
def label_folder(run_bundle: Callable[..., None], trained: SimpleNamespace) -> Callable[[Path], dict[str, Path]]:
    """`label_folder(folder)`: label maps of all scans in it by name, made by one run of the bundle."""

    def label(folder: Path) -> dict[str, Path]:
        out = folder.parent / "labelled"
        run_bundle("inference", ["inference.yaml"], input_dir=folder, output_dir=out, ckpt_dir=trained.models)
        return {path.name.removesuffix("_seg.nii.gz"): path for path in sorted(out.glob("*.nii.gz"))}

    return label


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    return folder


def check_grid(made: Path, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """The label map's values, after its grid and type were compared."""
    image = nib.load(made)
    assert image.shape == shape
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_allclose(image.affine, affine, atol=1e-3)
    array = np.asarray(image.dataobj)
    assert array.max() < ClassTable.load().num_classes
    return array


class TestAxes:
    def test_same_anatomy_in_every_order_of_axes(self, scan, scans, label_folder) -> None:
        stored = {axes: reoriented(*scan, axes) for axes in AXES}
        for axes, (array, affine) in stored.items():
            save(array, affine, scans / f"{axes}.nii.gz")
        made = label_folder(scans)
        assert set(made) == set(AXES)
        back = {}
        for axes, (array, affine) in stored.items():
            values = check_grid(made[axes], array.shape, affine)
            back[axes], _ = reoriented(values, affine, "PIR")
        assert len(np.unique(back["PIR"])) > 1  # else the comparison would say nothing
        for axes in AXES:
            assert np.mean(back[axes] == back["PIR"]) > 0.99, axes

    def test_oblique(self, scan, scans, label_folder) -> None:
        array, affine = scan
        tilt = np.eye(4)
        tilt[:3, :3] = Rotation.from_euler("xyz", (12, -9, 15), degrees=True).as_matrix()
        save(array, tilt @ affine, scans / "tilted.nii.gz")
        save(array, affine, scans / "straight.nii.gz")
        made = label_folder(scans)
        tilted = check_grid(made["tilted"], array.shape, tilt @ affine)
        assert np.mean(tilted == check_grid(made["straight"], array.shape, affine)) > 0.99


class TestShapes:
    def test_isotropic_with_many_slices(self, scan, scans, label_folder) -> None:
        array, affine = scan
        many = np.repeat(array, 8, axis=2)
        isotropic = affine @ np.diag([1, 1, 7.0 / 4.0 / 4.0, 1])
        save(many, isotropic, scans / "isotropic.nii.gz")
        values = check_grid(label_folder(scans)["isotropic"], many.shape, isotropic)
        # slices are labelled each by itself, so copies of a slice get the same label map
        assert np.array_equal(values, np.repeat(values[..., ::8], 8, axis=2))

    @pytest.mark.parametrize("shape", [(32, 40, 1), (32, 40)], ids=["one_slice", "2d"])
    def test_one_slice(self, scan, scans, label_folder, shape) -> None:
        """A slice by itself is labelled as a volume of copies of it is."""
        array, affine = scan
        save(np.repeat(array[:, :, 4:5], 3, axis=2), affine, scans / "copies.nii.gz")
        save(array[:, :, 4].reshape(shape), affine, scans / "single.nii.gz")
        made = label_folder(scans)
        single = check_grid(made["single"], shape, affine).reshape(32, 40)
        copies = check_grid(made["copies"], (32, 40, 3), affine)
        assert len(np.unique(single)) > 2
        assert np.mean(copies == single[..., None]) > 0.99

    def test_larger_and_smaller_than_the_network_s_size(self, scan, scans, label_folder) -> None:
        array, affine = scan
        large, small = np.pad(array, ((20, 20), (60, 60), (0, 0))), array[8:20, 10:24]
        save(large, affine, scans / "large.nii.gz")
        save(small, affine, scans / "small.nii.gz")
        made = label_folder(scans)
        check_grid(made["large"], large.shape, affine)
        check_grid(made["small"], small.shape, affine)


class TestFormats:
    def test_names(self, scan, scans, label_folder) -> None:
        save(*scan, scans / "T2.sag.nii")
        (scans / "visit1").mkdir()
        save(*scan, scans / "visit1/other.nii.gz")
        assert set(label_folder(scans)) == {"T2.sag", "visit1_other"}

    def test_same_name_in_two_folders(self, scan, scans, label_folder) -> None:
        for visit in ("visit1", "visit2"):
            (scans / visit).mkdir()
            save(*scan, scans / visit / "t2.nii.gz")
        assert len(label_folder(scans)) == 2

    def test_meta_image(self, scan, scans, label_folder) -> None:
        itk = pytest.importorskip("itk", reason="MHA is read with itk")
        array, affine = scan
        itk.imwrite(itk_image(itk, array, affine), str(scans / "scan.mha"))
        save(array, affine, scans / "same.nii.gz")
        made = label_folder(scans)
        values = check_grid(made["scan"], array.shape, affine)
        assert np.mean(values == check_grid(made["same"], array.shape, affine)) > 0.99

    def test_dicom_series(self, scan, scans, label_folder) -> None:
        itk = pytest.importorskip("itk", reason="DICOM is read with itk")
        array, affine = scan
        write_dicom(itk, array, affine, scans / "series_7")
        save(array, affine, scans / "same.nii.gz")
        made = label_folder(scans)
        assert set(made) == {"series_7", "same"}
        found = nib.load(made["series_7"])
        assert found.get_data_dtype() == np.uint8
        # ITK may run through the slices the other way round; the same voxels lie at the same place in the room
        turn = ornt_transform(io_orientation(found.affine), io_orientation(affine))
        turned = found.as_reoriented(turn)
        values = np.asarray(turned.dataobj)
        assert values.shape == array.shape
        np.testing.assert_allclose(turned.affine, affine, atol=1e-3)
        assert np.mean(values == check_grid(made["same"], array.shape, affine)) > 0.99

    def test_dicom_study(self, scan, scans, label_folder, caplog) -> None:
        itk = pytest.importorskip("itk", reason="DICOM is read with itk")
        array, affine = scan
        write_dicom(itk, array, affine, scans / "study", number=6, description="t1_tse_sag")
        write_dicom(itk, array, affine, scans / "study", number=7, description="t2_tse_sag")
        assert set(label_folder(scans)) == {"study_7"}
        assert f'DICOM series 7 in {scans}/study: taken, sagittal T2 by its description ("t2")' in caplog.text
        assert "Doe" not in caplog.text

    def test_dicom_seg(self, scan, scans, run_bundle, trained) -> None:
        itk = pytest.importorskip("itk", reason="DICOM is read with itk")
        highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed (requirements-dicom.txt)")
        array, affine = scan
        write_dicom(itk, array, affine, scans / "series")
        save(array, affine, scans / "other.nii.gz")
        out = scans.parent / "out"
        run_bundle(
            "inference", ["inference.yaml"], input_dir=scans, output_dir=out, ckpt_dir=trained.models, dicom_seg=True,
            dicom_sr=True,
        )  # fmt: skip
        report = json.loads((out / "series_levels.json").read_text())
        assert [path.name for path in out.glob("*_sr.dcm")] == ["series_sr.dcm"]
        groups = highdicom.sr.srread(out / "series_sr.dcm").content.get_image_measurement_groups()
        assert [g.tracking_identifier for g in groups] == ["spine", *(row["name"] for row in report["structures"])]
        assert sorted(path.name for path in out.glob("*_seg.*")) == [
            "other_seg.nii.gz",
            "series_seg.dcm",
            "series_seg.nii.gz",
        ]
        seg, table = highdicom.seg.segread(out / "series_seg.dcm"), ClassTable.load()
        image = nib.load(out / "series_seg.nii.gz")
        label = np.asarray(image.dataobj)
        found = [c.name for c in table.foreground if (label == c.id).any()]
        assert [segment.SegmentLabel for segment in seg.SegmentSequence] == found
        volume = seg.get_volume(combine_segments=True)
        to_label = np.linalg.inv(image.affine) @ np.diag([-1.0, -1, 1, 1]) @ volume.affine
        places = np.argwhere(volume.array)
        voxels = places @ to_label[:3, :3].T + to_label[:3, 3]
        np.testing.assert_allclose(voxels, voxels.round(), atol=1e-3)
        ids = np.array([0, *(table.id_of(name) for name in found)])
        back = np.zeros_like(label)
        back[tuple(voxels.round().astype(int).T)] = ids[volume.array[tuple(places.T)]]
        np.testing.assert_array_equal(back, label)
