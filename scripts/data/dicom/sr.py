"""Write the measurements of DICOM series as DICOM structured reports, a measurement report of template TID 1500."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.data import MetaTensor

from ...labels import ClassTable
from .derived import SaveDerivedd, import_highdicom, source_images
from .seg import ANATOMICAL_STRUCTURE, ARTIFICIAL_INTELLIGENCE

MRI = ("25056-3", "LN", "MRI unspecified body region")
"""Procedure that is reported; of context group CID 100."""
SPINE = ("421060004", "SCT", "Spine")
VOLUME = ("118565006", "SCT", "Volume")
OWN = "99CPS4"
"""Private coding scheme: the columns of the tables, see docs/measurements.md, for which the standard has no code."""
MEANINGS = {
    "height_anterior_mm": "Height at the front",
    "height_middle_mm": "Height in the middle",
    "height_posterior_mm": "Height at the back",
    "width_mm": "Width from back wall to front wall",
    "tilt_degrees": "Tilt of the mid-plane against the transverse plane",
    "confidence": "Confidence of the name",
}
"""Measurements of a structure that are written beside its volume. Its centroid is the SEG's to tell."""
UNITS = {"_mm": ("mm", "millimeter"), "_ml": ("ml", "milliliter"), "_degrees": ("deg", "degree")}
NO_UNITS = ("1", "no units")
SERIES_NUMBERS = 2000
"""Offset of an SR's series number to its source's."""


class SaveDicomSrd(SaveDerivedd):
    """Write the report's measurements of DICOM series as `<case>_sr.dcm`, see `SaveDerivedd`.

    Put it behind `scripts.inference.level_report.LevelReportd`.
    """

    ENDING, WHAT = "_sr.dcm", "DICOM SR"

    def make(self, data: Mapping[Hashable, Any], label_map: MetaTensor, files: Sequence[str]) -> Any:
        """A report object; None where no structure was found."""
        report = data["result"]
        return dicom_sr(report, files, self.table, self.about) if report["structures"] else None


def dicom_sr(report: Mapping[str, Any], files: Sequence[str], table: ClassTable, about: Mapping[str, Any]) -> Any:
    """Make a DICOM SR object of a report: a group of measurements for each structure, and one for the spine.

    What is not measured is left out. The verdict is an evaluation of the spine.

    Args:
        report: value of `scripts.measure.scan_report.level_report`.
        files: files of the series.
        table: the classes.
        about: `name`, `version` and `authors` of what measured.

    Returns:
        A `highdicom.sr.Comprehensive3DSR`, complete and not verified.

    Raises:
        DataError: highdicom is not installed.
    """
    highdicom = import_highdicom()
    from highdicom import sr
    from pydicom.sr.coding import Code

    sources = source_images(files)
    algorithm = sr.AlgorithmIdentification(
        about["name"], about["version"], family=Code(*ARTIFICIAL_INTELLIGENCE), manufacturer=about["authors"]
    )

    def group(name: str, code: Sequence[str], values: Mapping[str, float], verdict: str = "") -> Any:
        measured = [
            sr.Measurement(name=Code(*_name(key)), value=float(value), unit=Code(*_unit(key)))
            for key, value in values.items()
        ]
        told = Code("verdict", OWN, "Verdict on the levels")
        return sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid=highdicom.UID(), identifier=name),
            finding_type=Code(*code),
            algorithm_id=algorithm,
            measurements=measured,
            qualitative_evaluations=[sr.QualitativeEvaluation(told, Code(verdict.replace(" ", "_"), OWN, verdict))]
            if verdict
            else None,
        )

    groups = [group("spine", SPINE, _given(report["spine"], report["spine"]), report["verdict"])]
    for row in report["structures"]:
        code = table.classes[row["class_id"]].code or ANATOMICAL_STRUCTURE
        groups.append(group(row["name"], code, _given(row, ("volume_ml", *MEANINGS))))
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=highdicom.UID(), name=about["name"], manufacturer_name=about["authors"], model_name=about["name"]
    )
    observer = sr.ObserverContext(Code("121007", "DCM", "Device"), device)
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=Code(*MRI),
        imaging_measurements=groups,
        title=Code("126000", "DCM", "Imaging Measurement Report"),
    )
    made = sr.Comprehensive3DSR(
        evidence=sources,
        content=content,
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBERS + int(sources[0].get("SeriesNumber") or 0),
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=about["authors"],
        is_complete=True,
    )
    made.SeriesDescription = f"Measurements by {about['name']}"[:64]
    return made


def _given(values: Mapping[str, Any], keys: Sequence[str] | Mapping[str, Any]) -> dict[str, float]:
    """Those of the values that were measured."""
    return {key: values[key] for key in keys if values.get(key) is not None}


def _name(key: str) -> tuple[str, str, str]:
    """Code of a measurement by its column."""
    return VOLUME if key == "volume_ml" else (key, OWN, MEANINGS.get(key, key.replace("_", " ")))


def _unit(key: str) -> tuple[str, str, str]:
    """UCUM code of a measurement's unit by the words of its column: `slip_mm_L4_L5` is in millimetres."""
    found = [unit for word, unit in UNITS.items() if f"{word}_" in f"{key}_"]
    value, meaning = found[0] if found else NO_UNITS
    return value, "UCUM", meaning
