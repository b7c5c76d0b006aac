"""Data sets of a few spines, as people lay them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest

AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])[[2, 1, 0, 3]]
"""Array axes: up, forwards, right; 4 mm."""
STRUCTURES = ("S", "L5/S", "L5", "L4/L5", "L4", "L3/L4", "L3")
IDS = dict(zip(STRUCTURES, (1, 11, 2, 12, 3, 13, 4), strict=True))
"""The structures that are drawn, from the lowest up, and their class ids."""


def image_array(seed: int) -> np.ndarray:
    """(60, 40, 6) noise."""
    return np.random.default_rng(seed).integers(0, 900, (60, 40, 6)).astype(np.int16)


def label_array(seed: int, values: dict[str, int], order: Sequence[str] = STRUCTURES) -> np.ndarray:
    """(60, 40, 6) the structures one above the other, as wide as nobody else's."""
    array = np.zeros((60, 40, 6), np.uint8)
    for number, name in enumerate(order):
        array[4 + 7 * number : 10 + 7 * number, 8 : 16 + seed % 20] = values.get(name, 0)
    return array


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii", ".nii.gz")):
        nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)
        return path
    itk = pytest.importorskip("itk", reason="NRRD is written with itk")
    from tests.scan_files import itk_image

    itk.imwrite(itk_image(itk, array, AFFINE), str(path))
    return path


Draw = Callable[..., Path]


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """`draw("p1/t2.nii.gz", "p1/seg.nii.gz", seed=1)` writes a patient's scan and label; either may be ""."""

    def write(image: str = "", label: str = "", *, seed: int, values: dict[str, int] = IDS, contrast: int = 0) -> Path:
        if image:
            save(tmp_path / "set" / image, image_array(seed + 100 * contrast))
        if label:
            save(tmp_path / "set" / label, label_array(seed, values))
        return tmp_path / "set"

    return write


def name_segments(file: Path, names: dict[int, str]) -> None:
    """Put the names of segments into the header of a NRRD file, as 3D Slicer does."""
    header, voxels = file.read_bytes().split(b"\n\n", 1)
    lines = [
        line
        for number, (value, name) in enumerate(names.items())
        for line in (
            f"Segment{number}_ID:=Segment_{number}",
            f"Segment{number}_LabelValue:={value}",
            f"Segment{number}_Layer:=0",
            f"Segment{number}_Name:={name}",
        )
    ]
    file.write_bytes(header + b"\n" + "\n".join(lines).encode() + b"\n\n" + voxels)
