"""DICOM series, read by ITK alone: find them, tell them apart, turn them into NIfTI.

Convention: one folder holds one series. Folders that mix series are sorted out by `convert_series`, which
`python -m scripts prepare --layout dicom` calls. Nothing that names a patient is printed or written.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

PREAMBLE = 128
"""Bytes before the letters DICM with which a DICOM file begins."""
OTHER_SUFFIXES = (
    *(".bmp", ".csv", ".gz", ".html", ".jpeg", ".jpg", ".json", ".log", ".mha", ".mhd", ".nii", ".nrrd", ".nhdr"),
    *(".pdf", ".png", ".py", ".raw", ".tif", ".tiff", ".tsv", ".txt", ".xlsx", ".xml", ".yaml", ".yml", ".zip"),
)
"""Endings of files that are not worth opening."""
GAP = 1.5
"""Largest distance of neighbouring slices, as a multiple of the usual one."""
SAGITTAL_COSINE = 0.7
"""Smallest left-right part of the slices' normal; 0.7 takes a stack that is turned by up to 45 degrees."""


@dataclass(frozen=True)
class Series:
    """One DICOM series.

    Attributes:
        folder: the folder that holds its files.
        uid: ITK's identifier, unique in the folder.
        files: its files in the order of the slices.
        name: the folder's name; in a folder of several series with the series' number behind it.
        plane: "sagittal", "coronal", "axial", "unknown" (no orientation in the header, as in screenshots) or
            "unreadable" (a damaged header).
        localiser: True for a planning scan.
        patient: the header's patient id; for grouping only, never to be shown or stored.
    """

    folder: Path
    uid: str
    files: tuple[str, ...]
    name: str
    plane: str
    localiser: bool
    patient: str


def is_dicom(path: Path) -> bool:
    """True for a file that begins as DICOM files do; the index file DICOMDIR does not count."""
    if path.suffix.lower() in OTHER_SUFFIXES or path.name.upper() == "DICOMDIR" or path.name.startswith("."):
        return False
    try:
        if not path.is_file():  # reading from a pipe would wait for ever
            return False
        with path.open("rb") as file:
            return file.read(PREAMBLE + 4)[PREAMBLE:] == b"DICM"
    except OSError:
        return False


def dicom_folders(folder: Path) -> list[Path]:
    """All folders at or below `folder` that directly hold a DICOM file, sorted; hidden folders are passed over."""
    return sorted(path for path, names in _walk(folder) if any(is_dicom(path / name) for name in names))


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    entered: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in entered:  # a linked folder, entered elsewhere, or a circle of links
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
        yield Path(root), sorted(names)


def series_files(folder: Path) -> dict[str, tuple[str, ...]]:
    """ITK's identifier of every series in one folder -> its files in the order of the slices.

    Convention: the same settings as MONAI's `ITKReader`, so that a folder of one series here is one volume there.
    """
    itk = import_itk()
    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(True)
    names.AddSeriesRestriction("0008|0021")
    names.SetDirectory(str(folder))
    return {uid: tuple(names.GetFileNames(uid)) for uid in names.GetSeriesUIDs()}


def list_series(folder: str | Path) -> list[Series]:
    """All DICOM series at or below a folder, whether each has a folder or several share one; sorted by folder."""
    found: list[Series] = []
    for path in dicom_folders(Path(folder)):
        groups = series_files(path)
        alone = len(groups) == 1
        for uid, files in sorted(groups.items()):
            try:
                found.append(_describe(path, uid, files, alone))
            except RuntimeError:  # a damaged header; ITK's words about it name the file, not the reason
                found.append(Series(path, uid, files, path.resolve().name, "unreadable", False, ""))
        if not groups:
            found.append(Series(path, "", (), path.resolve().name, "unreadable", False, ""))
    return found


def _describe(folder: Path, uid: str, files: tuple[str, ...], alone: bool) -> Series:
    """Read the header of a series' first file."""
    itk = import_itk()
    io = itk.GDCMImageIO.New()
    io.SetFileName(files[0])
    io.ReadImageInformation()
    header = io.GetMetaDataDictionary()

    def tag(key: str) -> str:
        return str(header[key]).strip() if header.HasKey(key) else ""

    plane = "unknown"
    # enhanced (multi-frame) files keep their orientation elsewhere, but ITK has found it
    if tag("0020|0037") or (io.GetNumberOfDimensions() == 3 and io.GetDimensions(2) > 1):
        normal = [abs(component) for component in io.GetDirection(2)]
        if max(normal) >= SAGITTAL_COSINE:
            plane = ("sagittal", "coronal", "axial")[normal.index(max(normal))]
    name = folder.resolve().name
    name = name if alone else f"{name}_{tag('0020|0011') or uid[-8:]}"
    return Series(folder, uid, files, name, plane, "LOCALIZER" in tag("0008|0008").upper(), tag("0010|0020"))


def convert_series(series: Series, out: Path) -> None:
    """Write a series as NIfTI; the file appears whole or not at all.

    Raises:
        RuntimeError: ITK cannot read the series, slices are missing, or it has one slice only.
    """
    itk = import_itk()
    if gap := slice_gap(series.files):
        raise RuntimeError(gap)
    image = itk.imread(series.files[0] if len(series.files) == 1 else list(series.files))
    if image.GetImageDimension() != 3 or min(image.GetLargestPossibleRegion().GetSize()) < 2:
        raise RuntimeError("it has one slice only")
    # a fresh image: the header that ITK copies along could name the patient
    clean = itk.image_from_array(itk.array_view_from_image(image))
    clean.SetSpacing(image.GetSpacing())
    clean.SetOrigin(image.GetOrigin())
    clean.SetDirection(image.GetDirection())
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".part_{out.name}")
    itk.imwrite(clean, str(part), compression=True)
    part.replace(out)


def slice_gap(files: Sequence[str]) -> str | None:
    """What is wrong with the places of a series' slices, as the beginning of a sentence; None if nothing is.

    A series with a hole would be read as if its slices were evenly spaced, and all beyond the hole would lie elsewhere.

    Args:
        files: of one series, a slice each.
    """
    places = [_place(file) for file in files]
    known = sorted(place for place in places if place is not None)
    if len(known) < 3 or len(known) < len(files):
        return None  # enhanced files hold all slices in one, and ITK reads their places
    steps = [after - before for before, after in itertools.pairwise(known)]
    usual = sorted(steps)[len(steps) // 2]
    if min(steps) < 0.01 * max(usual, 1e-3):
        return f"holds several slices at the same place ({len(known)} files)"
    if max(steps) > GAP * usual:
        lost = sum(round(step / usual) - 1 for step in steps)
        return f"lacks about {lost} slices (a gap of {max(steps):.1f} mm among steps of {usual:.1f} mm)"
    return None


def _place(file: str) -> float | None:
    """Where a slice lies along its normal, in mm; None if its header does not say."""
    io = import_itk().GDCMImageIO.New()
    io.SetFileName(file)
    io.ReadImageInformation()
    header = io.GetMetaDataDictionary()
    if not (header.HasKey("0020|0032") and header.HasKey("0020|0037")):
        return None
    position = [float(p) for p in str(header["0020|0032"]).split("\\")]
    row, column = (a := [float(c) for c in str(header["0020|0037"]).split("\\")])[:3], a[3:6]
    normal = [row[i - 2] * column[i - 1] - row[i - 1] * column[i - 2] for i in range(3)]
    return sum(n * p for n, p in zip(normal, position, strict=True))


def import_itk() -> ModuleType:
    """The module itk, or a sentence that says how to get it.

    Raises:
        ModuleNotFoundError: itk is not installed.
    """
    try:
        import itk
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("DICOM, MHA and NRRD files are read with itk: run `pip install itk`") from error
    return itk
