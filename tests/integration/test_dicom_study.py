"""A study as archives send it: series of other kinds never stop the one that is good."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest

from scripts.data.scans import find_scans
from scripts.phantom.volume import make_phantom
from tests.scan_files import PLACES, enhanced, write_dicom

STUDY = "1.2.826.0.1"


class Study:
    """A folder of DICOM files with one good sagittal T2 series, to which others are added."""

    def __init__(self, folder: Path, itk: Any) -> None:
        self.folder, self.itk = folder, itk
        self.array, _, self.affine = make_phantom(5, 1, shape_hw=(40, 32), pixel_mm=7.0)
        folder.mkdir(parents=True)
        write_dicom(itk, self.array, self.affine, folder / "good", number=7, description="t2_tse_sag")

    def series(self, name: str, number: int, description: str, axes: tuple[int, ...] = (0, 1, 2), **tags: Any) -> None:
        """A series of this or, by other axes, of another plane, with tags changed."""
        pydicom = pytest.importorskip("pydicom", reason="requirements-dicom.txt")
        affine = self.affine[:, [*axes, 3]]
        array = np.ascontiguousarray(self.array.transpose(axes))[..., :5]
        write_dicom(self.itk, array, affine, self.folder / name, number=number, description=description)
        for file in (self.folder / name).iterdir():
            data = pydicom.dcmread(file)
            for tag, value in tags.items():
                setattr(data, tag, value)
            data.save_as(file)

    def object(self, name: str, sop_class: str, modality: str, **tags: Any) -> None:
        """A file that is no scan."""
        pydicom = pytest.importorskip("pydicom", reason="requirements-dicom.txt")
        data, meta = pydicom.Dataset(), pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = data.SOPClassUID = sop_class
        meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"{STUDY}.77.{len(name)}"
        data.file_meta, data.Modality, data.StudyInstanceUID = meta, modality, STUDY
        data.SeriesInstanceUID, data.SeriesNumber = f"{STUDY}.77{len(name)}", 77
        for tag, value in tags.items():
            setattr(data, tag, value)
        (self.folder / name).mkdir()
        data.save_as(self.folder / name / "1.dcm", enforce_file_format=True)


OTHERS: dict[str, Callable[[Study], Any]] = {
    "localiser": lambda s: s.series("loc", 1, "localizer", ImageType=["ORIGINAL", "PRIMARY", "M", "LOCALIZER"]),
    "coronal": lambda s: s.series("cor", 2, "t2_tse_cor", (0, 2, 1)),
    "axial": lambda s: s.series("ax", 3, "t2_tse_tra", (1, 2, 0)),
    "T1": lambda s: s.series("t1", 4, "t1_tse_sag"),
    "damaged file": lambda s: (s.folder / "good/other").write_bytes(bytes(128) + b"DICM" + b"\7" * 300),
    "multi-frame that lacks a frame": lambda s: enhanced(s.folder / "mf/1.dcm", PLACES[:2] + PLACES[3:], study=STUDY),
    "multi-frame of several orientations": lambda s: enhanced(s.folder / "mo/1.dcm", PLACES, turned=2, study=STUDY),
    "structured report": lambda s: s.object("sr", "1.2.840.10008.5.1.4.1.1.88.33", "SR"),
    "radiotherapy structures": lambda s: s.object("rt", "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"),
    "presentation state": lambda s: s.object("pr", "1.2.840.10008.5.1.4.1.1.11.1", "PR"),
    "colour screenshot": lambda s: s.object(
        "sc", "1.2.840.10008.5.1.4.1.1.7", "OT", Rows=8, Columns=8, SamplesPerPixel=3, PhotometricInterpretation="RGB",
        PlanarConfiguration=0, BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0, PixelData=bytes(192)),
}  # fmt: skip


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "scans/study", pytest.importorskip("itk", reason="DICOM is read with itk"))


@pytest.mark.parametrize("kind", OTHERS)
def test_found(study: Study, kind: str) -> None:
    OTHERS[kind](study)
    images = [Path(scan["image"]) for scan in find_scans(study.folder.parent)]
    assert [path for path in images if study.folder / "good" in (path, path.parent)]


def test_labelled_beside_all_of_them(
    study: Study, run_bundle: Callable[..., None], trained: SimpleNamespace, tmp_path: Path
) -> None:
    """Without an error: none of them is taken."""
    for add in OTHERS.values():
        add(study)
    given = {"input_dir": tmp_path / "scans", "output_dir": tmp_path / "out", "ckpt_dir": trained.models}
    run_bundle("inference", ["inference.yaml"], **given)
    (made,) = (tmp_path / "out").glob("*_seg.nii.gz")
    assert nibabel.load(made).shape == study.array.shape
