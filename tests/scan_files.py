"""Scans in the formats of archives: ITK images and DICOM series of an array and its affine."""

from __future__ import annotations

from pathlib import Path

import numpy as np


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
