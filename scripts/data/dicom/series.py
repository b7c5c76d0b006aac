"""DICOM series: search, header, order of slices, conversion to NIfTI; read by ITK alone.

Convention: the path of a series is its folder, or any of its files if the folder holds several series. Nothing that
identifies a patient is printed or written.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ...files import whole_file
from .contrast import TAGS, sequence_of

if TYPE_CHECKING:
    from .stack import Stack

PREAMBLE = 128
"""Bytes before the letters DICM at the beginning of a DICOM file."""
OTHER_SUFFIXES = (
    *(".bmp", ".csv", ".gz", ".html", ".jpeg", ".jpg", ".json", ".log", ".mha", ".mhd", ".nii", ".nrrd", ".nhdr"),
    *(".pdf", ".png", ".py", ".raw", ".tif", ".tiff", ".tsv", ".txt", ".xlsx", ".xml", ".yaml", ".yml", ".zip"),
)
"""File endings that are not DICOM."""
META_BYTES = 1024
"""Length of the file meta information in which the SOP class is searched."""
CLASS_OF_OBJECT = re.compile(
    rb"\x02\x00\x02\x00UI..1\.2\.840\.10008\.5\.1\.4\.1\.1\.(?:9|11|66|88|104|481)(?![0-9])", re.DOTALL
)
"""Waveforms, presentation states, segmentations and raw data, reports, documents, radiotherapy: all but images."""
SAGITTAL_COSINE = 0.7
"""Smallest left-right component of the slice normal of a sagittal stack; 0.7 is up to 45 degrees oblique."""


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
        alone: the folder holds no other series.
        study: the header's study, for grouping.
        number: the series' number, "" if the header has none.
        modality: "MR", "SEG", ...; "" if the header does not say.
        sequence: contrast, see `scripts.data.dicom.contrast.sequence_of`.
        evidence: evidence for the contrast.
        first_instance: identifier of the first file's image, to tell copies.
    """

    folder: Path
    uid: str
    files: tuple[str, ...]
    name: str
    plane: str
    localiser: bool = False
    patient: str = ""
    alone: bool = True
    study: str = ""
    number: str = ""
    modality: str = ""
    sequence: str = "unknown"
    evidence: str = ""
    first_instance: str = ""

    @property
    def path(self) -> Path:
        """Path for a reader: the folder, or a file of the series if the folder holds others."""
        return self.folder if self.alone or not self.files else Path(min(self.files))

    @property
    def place(self) -> str:
        """Name of the series in logs, by folder and number only."""
        return f"DICOM series {self.number or '?'} in {self.folder}"


def is_dicom(path: Path) -> bool:
    """True for a DICOM image file; false for DICOMDIR and for reports, segmentations and other non-images."""
    if path.suffix.lower() in OTHER_SUFFIXES or path.name.upper() == "DICOMDIR" or path.name.startswith("."):
        return False
    try:
        if not path.is_file():  # a pipe would block
            return False
        with path.open("rb") as file:
            content = file.read(PREAMBLE + META_BYTES)[PREAMBLE:]
    except OSError:
        return False
    return content.startswith(b"DICM") and not CLASS_OF_OBJECT.search(content)


def dicom_folders(folder: Path) -> list[Path]:
    """All folders at or below `folder` that directly hold a DICOM file, sorted; without hidden folders."""
    return sorted(path for path, names in _walk(folder) if any(is_dicom(path / name) for name in names))


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    entered: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in entered:  # a linked folder that was visited before
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
        yield Path(root), sorted(names)


def series_files(folder: Path) -> dict[str, tuple[str, ...]]:
    """ITK's identifier of every series in one folder -> its files in slice order; settings of MONAI's `ITKReader`."""
    return _series_files(str(folder), folder.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _series_files(folder: str, _: int) -> dict[str, tuple[str, ...]]:
    """Cached until the folder changes."""
    names = import_itk().GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(True)
    names.AddSeriesRestriction("0008|0021")
    names.SetDirectory(folder)
    return {uid: tuple(names.GetFileNames(uid)) for uid in names.GetSeriesUIDs()}


def files_of(path: Path) -> tuple[str, ...]:
    """Files of a series in slice order, given by its folder or one of its files; () if not DICOM or several series."""
    if path.is_dir():
        groups = series_files(path) if any(is_dicom(file) for file in path.iterdir()) else {}
        return next(iter(groups.values())) if len(groups) == 1 else ()
    if not is_dicom(path):
        return ()
    groups = series_files(path.parent)
    return next((files for files in groups.values() if str(path) in files), (str(path),))


def list_series(folder: str | Path) -> list[Series]:
    """All DICOM series at or below a folder, whether each has a folder or several share one; sorted by folder."""
    return [series for path in dicom_folders(Path(folder)) for series in _series_in(path)]


def series_of(file: Path) -> Series:
    """The series that a DICOM file belongs to."""
    found = _series_in(file.parent)
    return next((series for series in found if str(file) in series.files), found[0])


def _series_in(folder: Path) -> list[Series]:
    """The series of images directly in a folder of DICOM files."""
    groups = series_files(folder)
    found: list[Series] = []
    for uid, files in sorted(groups.items()):
        if not is_dicom(Path(files[0])):  # a segmentation
            continue
        try:
            found.append(_describe(folder, uid, files, len(groups) == 1))
        except RuntimeError:  # a damaged header
            found.append(Series(folder, uid, files, folder.resolve().name, "unreadable", alone=len(groups) == 1))
    return found or [Series(folder, "", (), folder.resolve().name, "unreadable")]


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
        normal = [abs(component) for component in (_frame_normal(files[0]) or io.GetDirection(2))]
        if max(normal) >= SAGITTAL_COSINE:
            plane = ("sagittal", "coronal", "axial")[normal.index(max(normal))]
    name, number = folder.resolve().name, tag("0020|0011")
    sequence, evidence = sequence_of({key: tag(key) for key in TAGS})
    return Series(
        folder=folder,
        uid=uid,
        files=files,
        name=name if alone else f"{name}_{number or uid[-8:]}",
        plane=plane,
        localiser="LOCALIZER" in tag("0008|0008").upper(),
        patient=tag("0010|0020"),
        alone=alone,
        study=tag("0020|000d"),
        number=number,
        modality=tag("0008|0060"),
        sequence=sequence,
        evidence=evidence,
        first_instance=tag("0008|0018"),
    )


def _frame_normal(file: str) -> list[float] | None:
    """Direction across the frames of a multi-frame file, which ITK does not always find; None for other files."""
    with contextlib.suppress(RuntimeError):  # the check says what is wrong with it
        return [float(part) for part in _frames_of(file).normal] if _is_multiframe(file) else None
    return None


def convert_series(series: Series, out: Path) -> None:
    """Convert a series to NIfTI, atomically.

    Raises:
        RuntimeError: ITK cannot read the series, slices are missing, or it has one slice only.
    """
    itk = import_itk()
    if gap := slice_gap(series.files):
        raise RuntimeError(gap)
    image = read_series(series.files)
    if image.GetImageDimension() != 3 or min(image.GetLargestPossibleRegion().GetSize()) < 2:
        raise RuntimeError("it has one slice only")
    # a fresh image: the header that ITK copies along could name the patient
    clean = itk.image_from_array(itk.array_view_from_image(image))
    clean.SetSpacing(image.GetSpacing())
    clean.SetOrigin(image.GetOrigin())
    clean.SetDirection(image.GetDirection())
    with tempfile.TemporaryDirectory() as scratch:  # ITK writes to a name alone
        itk.imwrite(clean, f"{scratch}/{out.name}", compression=True)
        with whole_file(out) as file:
            file.write(Path(scratch, out.name).read_bytes())


def slice_gap(files: Sequence[str]) -> str | None:
    """Why the slices or frames of a series are not one regular grid; None if they are, or their header has no places.

    ITK reads every stack as if its slices were evenly spaced along their normal, and places no frames.

    Args:
        files: files of one series, one slice each, or one multi-frame file.
    """
    if len(files) == 1 and _is_multiframe(files[0]):
        try:
            return _frames_of(files[0]).problem()
        except RuntimeError as error:
            return str(error)
    places = [place for place in map(_slice_place, files) if place is not None]
    if len(places) < 3 or len(places) < len(files):
        return None
    import numpy as np  # `prepare` starts without it

    from .stack import Stack

    positions, orientations = (np.array(part) for part in zip(*places, strict=True))
    return Stack(positions, orientations).problem()


def read_series(files: Sequence[str], **kwargs: Any) -> Any:
    """Read the files of one series as an ITK image; frames of a multi-frame file in the order of their places.

    Raises:
        RuntimeError: a multi-frame file whose frames are not one regular grid, or ITK cannot read the files.
    """
    import numpy as np

    itk = import_itk()
    image = itk.imread(files[0] if len(files) == 1 else list(files), **kwargs)
    if len(files) > 1 or not _is_multiframe(files[0]):
        return image
    stack = _frames_of(files[0])
    if problem := stack.problem():
        raise RuntimeError(problem)
    order, row, column = stack.order, stack.orientations[0, :3], stack.orientations[0, 3:]
    placed = itk.image_from_array(np.ascontiguousarray(itk.array_view_from_image(image)[order]))
    places = stack.positions[order]
    step = float(np.linalg.norm(places[-1] - places[0])) / (len(places) - 1)
    down, right = stack.spacing or (1.0, 1.0)
    placed.SetSpacing([right, down, step])
    placed.SetOrigin([float(p) for p in places[0]])
    placed.SetDirection(itk.matrix_from_array(np.ascontiguousarray(np.stack([row, column, stack.normal], 1))))
    return placed


def _frames_of(file: str) -> Stack:
    from .stack import frames_of

    return frames_of(file)


def _is_multiframe(file: str) -> bool:
    io = import_itk().GDCMImageIO.New()
    io.SetFileName(file)
    io.ReadImageInformation()
    return io.GetNumberOfDimensions() == 3 and io.GetDimensions(2) > 1


def _slice_place(file: str) -> tuple[list[float], list[float]] | None:
    """Position in mm and direction cosines of a slice; None if they are not in the header."""
    io = import_itk().GDCMImageIO.New()
    io.SetFileName(file)
    io.ReadImageInformation()
    header = io.GetMetaDataDictionary()
    if not (header.HasKey("0020|0032") and header.HasKey("0020|0037")):
        return None
    position, orientation = (
        [float(number) for number in str(header[tag]).split("\\")] for tag in ("0020|0032", "0020|0037")
    )
    return position, orientation


def import_itk() -> ModuleType:
    """Import itk; a ModuleNotFoundError with advice if it is not installed."""
    try:
        import itk
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("DICOM, MHA and NRRD files are read with itk: run `pip install itk`") from error
    return itk
