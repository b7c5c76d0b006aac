"""DICOM structured reports, read back by highdicom: every measurement of the report with its code, value and unit."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.data import MetaTensor

from scripts.data.dicom import sr as dicom_sr
from scripts.data.dicom.reader import LoadScand
from scripts.data.output_folder import OutputFolder
from scripts.labels import ClassTable
from scripts.measure.spine import columns

METADATA = Path(__file__).resolve().parents[3] / "configs/metadata.json"
TABLE = ClassTable.load()
REPORT: dict[str, Any] = {
    "verdict": "check levels",
    "spine": {"lordosis_degrees": 41.5, "levels_posterior": None, "slip_mm_L4_L5": -1.25, "disc_signal_L4_L5": 0.62},
    "structures": [
        {
            "name": "L4/L5", "class_id": TABLE.id_of("L4/L5"), "volume_ml": 14.25, "height_anterior_mm": 12.5,
            "height_middle_mm": None, "width_mm": 36.0, "tilt_degrees": -14.0, "confidence": 0.93,
        },
        {"name": "L4", "class_id": TABLE.id_of("L4"), "volume_ml": None, "confidence": None},
    ],
}  # fmt: skip


@pytest.fixture
def highdicom():
    return pytest.importorskip("highdicom", reason="highdicom is not installed (requirements-dicom.txt)")


def save(path: Path, out: Path, report: dict[str, Any] = REPORT) -> None:
    scan = LoadScand(keys="image", ensure_channel_first=True, image_only=True)({"image": str(path)})["image"]
    pred = MetaTensor(np.zeros(scan.shape, np.uint8), meta=scan.meta)
    save = dicom_sr.SaveDicomSrd("pred", OutputFolder(out), TABLE, METADATA)
    save({"pred": pred, "case": "scan", "result": report})


class TestSaveDicomSrd:
    def test_what_the_file_says(self, tmp_path, write_dicom, highdicom) -> None:
        write_dicom(tmp_path / "t2", number=4)
        save(tmp_path / "t2", tmp_path)
        read = highdicom.sr.srread(tmp_path / "scan_sr.dcm")
        assert (read.Modality, read.SeriesNumber, read.CompletionFlag) == ("SR", 2004, "COMPLETE")
        assert read.VerificationFlag == "UNVERIFIED"
        assert (str(read.PatientName), read.PatientID) == ("Doe^Jane", "MRN4711")  # the standard asks for them
        evidence = read.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
        assert {item.ReferencedSOPInstanceUID for item in evidence.ReferencedSOPSequence} == {
            f"1.2.826.0.1.4.{z + 1}" for z in range(5)
        }

    def test_every_measurement_and_nothing_that_is_none(self, tmp_path, write_dicom, highdicom) -> None:
        write_dicom(tmp_path / "t2")
        save(tmp_path / "t2", tmp_path)
        content = highdicom.sr.srread(tmp_path / "scan_sr.dcm").content
        groups = {group.tracking_identifier: group for group in content.get_image_measurement_groups()}
        found = {
            name: {of.name.value: (of.value, of.unit.value) for of in group.get_measurements()}
            for name, group in groups.items()
        }
        assert found == {
            "spine": {
                "lordosis_degrees": (41.5, "deg"),
                "slip_mm_L4_L5": (-1.25, "mm"),
                "disc_signal_L4_L5": (0.62, "1"),
            },
            "L4/L5": {
                "118565006": (14.25, "ml"),
                "height_anterior_mm": (12.5, "mm"),
                "width_mm": (36.0, "mm"),
                "tilt_degrees": (-14.0, "deg"),
                "confidence": (0.93, "1"),
            },
            "L4": {},
        }
        assert groups["L4/L5"].finding_type.value == TABLE.classes[TABLE.id_of("L4/L5")].code[0]
        (verdict,) = [of for of in groups["spine"].get_qualitative_evaluations() if of.name.value == "verdict"]
        assert verdict.value.meaning == "check levels"

    def test_nothing_was_found(self, tmp_path, write_dicom, highdicom, caplog) -> None:
        write_dicom(tmp_path / "t2")
        with caplog.at_level(logging.WARNING):
            save(tmp_path / "t2", tmp_path, REPORT | {"structures": []})
        assert not list(tmp_path.glob("*.dcm"))
        assert "no DICOM SR is written" in caplog.text

    def test_header_that_does_not_fit(self, tmp_path, write_dicom, highdicom, caplog) -> None:
        """A lacking attribute is an error in the log, without the patient's name."""
        write_dicom(tmp_path / "t2")
        broken = json.loads(json.dumps(REPORT))
        broken["structures"][0]["volume_ml"] = "much"
        save(tmp_path / "t2", tmp_path, broken)
        assert not list(tmp_path.glob("*.dcm"))
        assert "no DICOM SR can be written" in caplog.text
        assert "Doe" not in caplog.text


@pytest.mark.parametrize("key", ["volume_ml", "confidence", *dicom_sr.MEANINGS, *columns(TABLE)])
def test_codes_of_all_columns_fit_the_standard(key: str) -> None:
    value, scheme, meaning = dicom_sr._name(key)
    assert len(meaning) <= 64
    assert len(scheme) <= 16
    assert value
    assert dicom_sr._unit(key)[0] == {"mm": "mm", "ml": "ml", "degrees": "deg"}.get(
        next((word for word in key.split("_") if word in ("mm", "ml", "degrees")), ""), "1"
    )


def test_codes_are_those_of_the_standard() -> None:
    codedict = pytest.importorskip("pydicom.sr.codedict", reason="pydicom is not installed (requirements-dicom.txt)")
    codes = codedict.codes
    for code, of in (
        (dicom_sr.SPINE, codes.SCT.Spine),
        (dicom_sr.VOLUME, codes.SCT.Volume),
        (dicom_sr.MRI, codes.CID100.MRIUnspecifiedBodyRegion),
    ):
        assert code == (of.value, of.scheme_designator, of.meaning)
