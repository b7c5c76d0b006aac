"""The DICOM series of a folder as NIfTI files, and whose they are: nothing that names a patient is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from ..dicom import series as dicom
from ..dicom.series import Series
from ..dicom.series_selection import choose_series
from .layouts import Found, Volume
from .patients import tell_patients


def add_converted(found: Found, folder: Path, target: Path, sequence: str, pattern: str | None = None) -> None:
    """Write the wanted series as NIfTI and add them to what a layout found, as scans without labels.

    Patients are told by the header's PatientID, of which a number is written. A series below the folder of a patient
    who has other scans is that patient's, and so are all that share its PatientID.

    Args:
        found: gets the volumes and a note for each series that is left out.
        folder: the data set.
        target: folder for the NIfTI files.
        sequence: contrast, see `choose_series`.
        pattern: see `tell_patients`; None takes the header.
    """
    choice = choose_series(dicom.list_series(folder), sequence)
    found.notes += [*choice.notes, *choice.warnings]
    damaged = [series for series in choice.taken if series.plane == "unreadable"]
    found.notes += [f"{series.place}: left out, it is damaged" for series in damaged]
    names: set[str] = {volume.case for volume in found.volumes}
    written: dict[str, Series] = {}
    for series in tqdm([s for s in choice.taken if s not in damaged], desc="converting DICOM", disable=None):
        name, copy = series.name, 2
        while name in names:
            name, copy = f"{series.name}_{copy}", copy + 1
        names.add(name)
        try:
            dicom.convert_series(series, target / f"{name}.nii.gz")
        except RuntimeError as error:
            found.notes.append(f"{series.place}: left out, it cannot be read ({str(error).strip().splitlines()[-1]})")
            continue
        written[name] = series
    patients = _patients(found, written, folder, pattern)
    found.volumes += [Volume(name, patients[name], target / f"{name}.nii.gz") for name in written]


def _patients(found: Found, written: dict[str, Series], folder: Path, pattern: str | None) -> dict[str, str]:
    """The patient of every converted series; patients of other files who share a PatientID become one."""
    if pattern is not None:
        told, lines = tell_patients([series.path for series in written.values()], folder, pattern)
        found.notes += lines
        return {name: told[series.path] for name, series in written.items()}
    above = {name: _patient_above(found.volumes, series.folder, folder) for name, series in written.items()}
    known: dict[str, str] = {}
    same: dict[str, str] = {}
    for name, series in written.items():
        if above[name] and series.patient and known.setdefault(series.patient, above[name]) != above[name]:
            same[above[name]] = known[series.patient]
    found.volumes = [replace(v, patient=same.get(v.patient, v.patient)) for v in found.volumes]
    taken = {volume.patient for volume in found.volumes}
    numbers = (label for number in range(1, 10**6) if (label := f"patient_{number:03d}") not in taken)
    patients = {}
    for name, series in written.items():
        person = above[name] or known.get(series.patient, "")
        key = series.patient or series.study or name
        patients[name] = same.get(person, person) or known.setdefault(key, next(numbers))
    if written:
        count = len(set(patients.values()))
        found.notes.append(f"patients: {count} of {len(written)} DICOM series, told by PatientID, which is not written")
    return patients


def _patient_above(volumes: Sequence[Volume], series: Path, folder: Path) -> str:
    """The patient all of whose files lie in a folder above a series, or in the series' own; "" for none."""
    for above in (series, *series.parents):
        if above == folder:
            break
        inside = {volume.patient for volume in volumes if volume.image.is_relative_to(above)}
        if inside:
            return inside.pop() if len(inside) == 1 else ""
    return ""
