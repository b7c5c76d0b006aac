"""DICOM SEG files, read back by highdicom: the same voxels at the same places as in the label map, with coded names."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from monai.data import MetaTensor
from scipy.spatial.transform import Rotation

from scripts.data.check.volumes import read_volume
from scripts.data.datalist import DataError
from scripts.data.dicom import seg as dicom_seg
from scripts.data.dicom import series as dicom
from scripts.data.dicom.reader import LoadScand
from scripts.data.output_folder import OutputFolder
from scripts.labels import ClassTable

METADATA = Path(__file__).resolve().parents[3] / "configs/metadata.json"
TABLE = ClassTable.load()
SAGITTAL = np.array([[0, 0, -1.0], [1, 0, 0], [0, -1, 0]])
OBLIQUE = Rotation.from_euler("xyz", (8, -12, 15), degrees=True).as_matrix() @ SAGITTAL
HEADER = {"0020|0052": "1.2.826.0.1.99", "0020|0010": "study", "0008|0020": "20260102"}
"""Beside the frame of reference, a few attributes that anonymised series lack."""


@pytest.fixture
def highdicom():
    return pytest.importorskip("highdicom", reason="highdicom is not installed (requirements-dicom.txt)")


def labels(shape: tuple[int, ...]) -> np.ndarray:
    """Three classes, none of them on the first slice, nor symmetric in any axis."""
    label = np.zeros(shape, dtype=np.uint8)
    label[1:4, 2:9, 1:3] = TABLE.id_of("L5")
    label[5:6, 1:7, 2:] = TABLE.id_of("L5/S")
    label[7:, 9:14, 4] = TABLE.id_of("S")
    return label


def in_the_room(label: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Millimetres (RAS) of all voxels above 0, sorted."""
    points = np.argwhere(label) @ affine[:3, :3].T + affine[:3, 3]
    return points[np.lexsort(points.round(2).T)]


def read_back(highdicom, path: Path) -> tuple[object, dict[str, np.ndarray]]:
    """The file, and the places of every segment's voxels."""
    seg = highdicom.seg.segread(path)
    places = {}
    for number in seg.segment_numbers:
        volume = seg.get_volume(segment_numbers=[number], combine_segments=False).squeeze_channel()
        affine = np.diag([-1.0, -1, 1, 1]) @ volume.affine
        places[seg.get_segment_description(number).segment_label] = in_the_room(volume.array, affine)
    return seg, places


def save(path: str | Path, out: Path, label: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Write the SEG of a scan as inference does; give back the label map and its affine."""
    _, affine = read_volume(path)
    scan = LoadScand(keys="image", ensure_channel_first=True, image_only=True)({"image": str(path)})["image"]
    label = labels(tuple(scan.shape[1:])) if label is None else label
    pred = MetaTensor(label[None], meta=scan.meta)
    np.testing.assert_allclose(pred.affine, affine)
    dicom_seg.SaveDicomSegd("pred", OutputFolder(out), TABLE, METADATA)({"pred": pred, "case": "scan"})
    return label, affine


class TestSaveDicomSegd:
    @pytest.mark.parametrize(
        "direction", [SAGITTAL, OBLIQUE, OBLIQUE * [1, 1, -1]], ids=["straight", "oblique", "left"]
    )
    @pytest.mark.parametrize("backwards", [True, False])
    def test_voxels_lie_where_the_label_map_has_them(
        self, tmp_path, write_dicom, highdicom, direction, backwards
    ) -> None:
        write_dicom(tmp_path / "t2", tags=HEADER, direction=direction, backwards=backwards)
        label, affine = save(tmp_path / "t2", tmp_path)
        _, places = read_back(highdicom, tmp_path / "scan_seg.dcm")
        assert list(places) == ["S", "L5", "L5/S"]
        for name, points in places.items():
            np.testing.assert_allclose(points, in_the_room(label == TABLE.id_of(name), affine), atol=1e-3)

    def test_one_of_several_series(self, tmp_path, write_dicom, highdicom) -> None:
        for number in (3, 4):
            write_dicom(tmp_path / "study", number=number, tags=HEADER)
        label, affine = save(tmp_path / "study/4_7.dcm", tmp_path)
        seg, places = read_back(highdicom, tmp_path / "scan_seg.dcm")
        np.testing.assert_allclose(places["S"], in_the_room(label == TABLE.id_of("S"), affine), atol=1e-3)
        (referenced,) = seg.ReferencedSeriesSequence
        assert referenced.SeriesInstanceUID == "1.2.826.0.1.4"
        assert seg.SeriesNumber == 1004

    def test_what_the_file_says(self, tmp_path, write_dicom, highdicom) -> None:
        write_dicom(tmp_path / "t2", tags=HEADER)
        save(tmp_path / "t2", tmp_path)
        seg = highdicom.seg.segread(tmp_path / "scan_seg.dcm")
        assert (seg.FrameOfReferenceUID, seg.StudyInstanceUID) == ("1.2.826.0.1.99", "1.2.826.0.1")
        assert (str(seg.PatientName), seg.PatientID) == ("Doe^Jane", "MRN4711")  # the standard asks for them
        images = {item.ReferencedSOPInstanceUID for item in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
        assert images == {f"1.2.826.0.1.7.{z + 1}" for z in range(5)}
        about = json.loads(METADATA.read_text(encoding="utf-8"))
        for segment, name in zip(seg.SegmentSequence, ("S", "L5", "L5/S"), strict=True):
            structure = TABLE.classes[TABLE.id_of(name)]
            assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Anatomical Structure"
            code = segment.SegmentedPropertyTypeCodeSequence[0]
            assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == structure.code
            assert segment.SegmentDescription == structure.long_name
            assert segment.SegmentAlgorithmType == "AUTOMATIC"
            algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
            assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (about["name"], about["version"])
            lab = highdicom.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue)
            np.testing.assert_allclose(lab.to_rgb(), structure.colour, atol=2)

    def test_all_slices_in_one_file(self, tmp_path, write_dicom, highdicom) -> None:
        from pydicom import dcmread

        write_dicom(tmp_path / "t2", tags=HEADER, direction=OBLIQUE)
        (series,) = dicom.list_series(tmp_path / "t2")
        label, (_, affine) = labels((12, 16, 5)), read_volume(tmp_path / "t2")
        sources = [dcmread(file) for file in reversed(series.files)]
        whole = highdicom.legacy.LegacyConvertedEnhancedMRImage(sources, "1.2.826.0.1.50", 50, "1.2.826.0.1.50.1", 1)
        whole.save_as(tmp_path / "whole.dcm")
        about = json.loads(METADATA.read_text(encoding="utf-8"))
        dicom_seg.dicom_seg(label, affine, [str(tmp_path / "whole.dcm")], TABLE, about).save_as(tmp_path / "seg.dcm")
        _, places = read_back(highdicom, tmp_path / "seg.dcm")
        for name, points in places.items():
            np.testing.assert_allclose(points, in_the_room(label == TABLE.id_of(name), affine), atol=1e-3)

    def test_class_without_a_code(self, tmp_path, write_dicom, highdicom) -> None:
        write_dicom(tmp_path / "t2", tags=HEADER)
        raw = json.loads((METADATA.parent / "classes.json").read_text(encoding="utf-8"))
        for row in raw["classes"]:
            row.pop("code", None)
        (tmp_path / "classes.json").write_text(json.dumps(raw), encoding="utf-8")
        (series,) = dicom.list_series(tmp_path / "t2")
        _, affine = read_volume(tmp_path / "t2")
        about = json.loads(METADATA.read_text(encoding="utf-8"))
        table = ClassTable.load(tmp_path / "classes.json")
        seg = dicom_seg.dicom_seg(labels((12, 16, 5)), affine, series.files, table, about)
        assert {s.SegmentedPropertyTypeCodeSequence[0].CodeValue for s in seg.SegmentSequence} == {"91723000"}

    def test_other_scans_get_none(self, tmp_path, write_volume, write_dicom, highdicom, caplog) -> None:
        caplog.set_level(logging.INFO)
        save(write_volume(tmp_path / "a.nii.gz"), tmp_path / "out")
        write_dicom(tmp_path / "t2", tags=HEADER)
        save(tmp_path / "t2", tmp_path / "out", np.zeros((12, 16, 5), dtype=np.uint8))
        write_dicom(tmp_path / "bare")
        save(tmp_path / "bare", tmp_path / "out")
        assert "scan: not read from DICOM" in caplog.text
        assert "scan: no structure was found" in caplog.text
        assert "scan: no DICOM SEG can be written (its header names no frame of reference)" in caplog.text
        assert not list(tmp_path.rglob("*_seg.dcm"))

    def test_no_name_of_the_patient(self, tmp_path, write_dicom, highdicom, caplog, capfd) -> None:
        caplog.set_level(logging.DEBUG)
        write_dicom(tmp_path / "t2", tags=HEADER)
        write_dicom(tmp_path / "odd", tags={**HEADER, "0020|000d": "1.2.Jane.Doe"})  # highdicom or pydicom may object
        for folder in ("t2", "odd"):
            save(tmp_path / folder, tmp_path / "out")
        shown = caplog.text + str(capfd.readouterr()) + str([path.name for path in tmp_path.rglob("*")])
        assert "Doe" not in shown
        assert "MRN4711" not in shown

    def test_beside_the_grid(self, tmp_path, write_dicom, highdicom) -> None:
        write_dicom(tmp_path / "t2", tags=HEADER)
        (series,) = dicom.list_series(tmp_path / "t2")
        _, affine = read_volume(tmp_path / "t2")
        about = json.loads(METADATA.read_text(encoding="utf-8"))
        with pytest.raises(DataError, match="its slices are not those of the label map"):
            dicom_seg.dicom_seg(labels((12, 16, 5)), affine, series.files[:4], TABLE, about)
        affine[1, 3] += 0.4
        with pytest.raises(DataError, match="do not lie on the grid"):
            dicom_seg.dicom_seg(labels((12, 16, 5)), affine, series.files, TABLE, about)

    def test_without_highdicom(self, tmp_path, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "highdicom", None)
        with pytest.raises(DataError, match=r"pip install -r requirements-dicom\.txt"):
            dicom_seg.SaveDicomSegd("pred", OutputFolder(tmp_path), TABLE, METADATA)


class TestCodes:
    def test_are_those_of_the_standard(self) -> None:
        codedict = pytest.importorskip(
            "pydicom.sr.codedict", reason="pydicom is not installed (requirements-dicom.txt)"
        )
        vertebrae, discs = codedict.codes.CID7603, codedict.codes.CID7604
        for structure in TABLE.foreground:
            name = structure.name.replace("/S", "/S1").replace("/", "")
            group = {"sacrum": codedict.codes.SCT, "vertebra": vertebrae, "disc": discs}[structure.group]
            suffix = {"sacrum": "Sacrum", "vertebra": f"{name}Vertebra", "disc": f"{name}Disc"}[structure.group]
            code = getattr(group, suffix)
            assert structure.code == (code.value, code.scheme_designator, code.meaning)
