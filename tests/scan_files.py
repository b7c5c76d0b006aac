"""Scans in the formats of archives: ITK images and DICOM series of an array and its affine."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROW, COLUMN = [0.0, 1, 0], [0.0, 0, -1]  # sagittal: to the back, and down; the normal is to the right of LPS's left
FRAMES = 6
PLACES = [4.0 * number for number in range(FRAMES)]


def lps(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Direction (3, 3), spacing (3,) and origin (3,) of an affine as ITK and DICOM have them."""
    flipped = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(flipped[:3, :3], axis=0)
    return flipped[:3, :3] / spacing, spacing, flipped[:3, 3]


def itk_image(itk, array: np.ndarray, affine: np.ndarray):
    """An ITK image of an array (X, Y, Z)."""
    direction, spacing, origin = lps(affine)
    image = itk.image_from_array(np.ascontiguousarray(array.T))
    image.SetDirection(direction)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(origin.tolist())
    return image


def write_dicom(
    itk,
    array: np.ndarray,
    affine: np.ndarray,
    folder: Path,
    *,
    number: int = 7,
    series: int | None = None,
    study: str = "1.2.826.0.1",
    description: str = "",
) -> None:
    """A DICOM series with a file for each slice of the third axis; `series` stands for `number` in the series' ids."""
    series = number if series is None else series
    folder.mkdir(exist_ok=True)
    direction, spacing, origin = lps(affine)
    io = itk.GDCMImageIO.New()
    io.SetKeepOriginalUID(True)
    for z in range(array.shape[2]):
        position = origin + z * spacing[2] * direction[:, 2]
        image = itk_image(itk, array[:, :, z : z + 1], affine)
        image.SetOrigin(position.tolist())
        header = {
            **{"0008|0008": "ORIGINAL\\PRIMARY\\M", "0008|0018": f"{study}.{number}.{z + 1}", "0008|0060": "MR"},
            **{"0020|000d": study, "0020|000e": f"{study}.{series}", "0020|0013": str(z + 1)},
            **{"0008|103e": description, "0020|0011": str(series), "0020|0052": "1.2.826.0.1.99"},
            **{"0010|0010": "Doe^Jane", "0010|0020": "MRN4711"},
            "0020|0032": "\\".join(f"{p:.6f}" for p in position),
            "0020|0037": "\\".join(f"{d:g}" for d in (*direction[:, 0], *direction[:, 1])),
            "0018|0088": f"{spacing[2]:g}",
        }
        dictionary = itk.MetaDataDictionary()
        for key, value in header.items():
            dictionary[key] = value
        image.SetMetaDataDictionary(dictionary)
        itk.ImageFileWriter[type(image)].New(
            Input=image, FileName=str(folder / f"{number}_{z}.dcm"), ImageIO=io
        ).Update()


def enhanced(
    path: Path,
    places: list[float],
    echoes: list[float] | None = None,
    turned: int | None = None,
    shift: float = 0.0,
    study: str = "",
) -> Path:
    """An enhanced MR file with frames at some left-right places in mm; every frame holds 100 + 10 x its place.

    It is of a study of its own, and so of another patient than the others of a batch, unless one is given.
    """
    pydicom = pytest.importorskip("pydicom", reason="requirements-dicom.txt")
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.sequence import Sequence

    def item(**values: Any) -> Any:
        made = Dataset()
        for name, value in values.items():
            setattr(made, name, value)
        return Sequence([made])

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file = Dataset()
    file.file_meta = meta
    file.SOPClassUID = meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    own = f"1.2.826.0.1.{zlib.crc32(str(path).encode())}"
    file.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = f"{own}.5"
    file.StudyInstanceUID, file.SeriesInstanceUID, file.Modality = study or own, f"{own}.1", "MR"
    file.SeriesNumber, file.PatientName = 7, "Doe^Jane"
    file.Rows, file.Columns, file.NumberOfFrames = 8, 10, len(places)
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, "MONOCHROME2", 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 16, 15
    frames = []
    for number, place in enumerate(places):
        frame = Dataset()
        frame.PlanePositionSequence = item(ImagePositionPatient=[place, 5.0 + shift * place, 30.0])
        direction = [1.0, 0, 0, 0, 1, 0] if turned == number else [*ROW, *COLUMN]
        frame.PlaneOrientationSequence = item(ImageOrientationPatient=direction)
        if echoes:
            frame.MREchoSequence = item(EffectiveEchoTime=echoes[number])
        frames.append(frame)
    file.PerFrameFunctionalGroupsSequence = Sequence(frames)
    shared = Dataset()
    shared.PixelMeasuresSequence = item(PixelSpacing=[0.75, 0.5], SliceThickness=4.0)
    file.SharedFunctionalGroupsSequence = Sequence([shared])
    rng = np.random.default_rng(0)
    voxels = np.stack([100 + 10 * place + rng.integers(0, 5, (8, 10)) for place in places])
    file.PixelData = voxels.astype(np.uint16).tobytes()
    path.parent.mkdir(exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path
