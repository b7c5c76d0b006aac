"""Volumes on disk, small and seeded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel
import numpy as np
import pytest

SHAPE = (12, 16, 5)
PIR = np.array([[0, 0, 4.0, -10], [-0.9, 0, 0, 20], [0, -0.8, 0, 30], [0, 0, 0, 1]])
"""Affine of a sagittal stack: axes towards posterior, inferior, right."""

WriteVolume = Callable[..., Path]


@pytest.fixture
def write_volume() -> WriteVolume:
    """Write a NIfTI file; without an array an image of noise, with `values` a label that holds them."""

    def write(
        path: Path, array: np.ndarray | None = None, *, values: tuple[int, ...] | None = None, affine=PIR
    ) -> Path:
        if array is None:
            rng = np.random.default_rng(list(path.name.encode()))  # another name, other voxels
            array = rng.integers(0, 255, SHAPE).astype(np.int16)
            if values is not None:
                array = np.resize(np.array([0, *values], dtype=np.uint8), SHAPE)
                period = len(values) + 1
                array.flat[(start := sum(path.name.encode()) % 100 * period) : start + period] = 0  # other labels, too
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
        return path

    return write


@pytest.fixture
def write_dicom() -> Callable[..., np.ndarray]:
    """Write a DICOM series, its files named against the order of the slices; give back its voxels (z, y, x).

    `tags` add to the header or replace what is in it; `direction` holds the directions of columns, rows and slices as
    columns, in place of a plane's; `backwards` turns the order of the file names.
    """
    itk = pytest.importorskip("itk", reason="DICOM is read with itk")

    def write(
        folder: Path,
        *,
        number: int = 7,
        plane: str = "sagittal",
        kind: str = "ORIGINAL\\PRIMARY\\M",
        tags: Mapping[str, str] | None = None,
        direction: np.ndarray | None = None,
        backwards: bool = True,
    ) -> np.ndarray:
        folder.mkdir(parents=True, exist_ok=True)
        voxels = np.random.default_rng(number).integers(0, 500, (5, 16, 12)).astype(np.int16)
        rows = {"sagittal": [[0, 0, -1.0], [1, 0, 0], [0, -1, 0]], "axial": np.eye(3).tolist()}[plane]
        direction = np.array(rows) if direction is None else direction
        io = itk.GDCMImageIO.New()
        io.SetKeepOriginalUID(True)
        for z in range(len(voxels)):
            position = np.array([-10.0, -20.0, 30.0]) + 4.0 * z * direction[:, 2]
            header = {
                "0008|0008": kind,
                "0008|0018": f"1.2.826.0.1.{number}.{z + 1}",
                "0008|0060": "MR",
                "0010|0010": "Doe^Jane",
                "0010|0020": "MRN4711",
                "0020|000d": "1.2.826.0.1",
                "0020|000e": f"1.2.826.0.1.{number}",
                "0020|0011": str(number),
                "0020|0013": str(z + 1),
                "0020|0032": "\\".join(f"{p:.6f}" for p in position),
                "0020|0037": "\\".join(f"{d:.9g}" for d in (*direction[:, 0], *direction[:, 1])),
                "0018|0088": "4.0",
                **(tags or {}),
            }
            image = itk.image_from_array(voxels[z : z + 1])
            image.SetSpacing([0.9, 0.8, 4.0])
            image.SetOrigin(position)
            image.SetDirection(direction)
            dictionary = itk.MetaDataDictionary()
            for key, value in header.items():
                dictionary[key] = value
            image.SetMetaDataDictionary(dictionary)
            file = folder / f"{number}_{9 - z if backwards else z}.dcm"
            itk.ImageFileWriter[type(image)].New(Input=image, FileName=str(file), ImageIO=io).Update()
        return voxels

    return write
