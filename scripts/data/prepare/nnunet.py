"""Volumes as nnU-Net v2 reads them (a "raw dataset"), and its predictions. Needs no nnU-Net."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import nibabel
import numpy as np

from ...files import write_nifti, write_whole
from ...labels import IGNORE

DATASET, DATASET_ID = "Dataset001_spine", 1
APART = 10.0
"""Distance of the slices in a file's header, in pixels: nnU-Net's 2D configuration cuts across the coarsest axis, and
resamples nothing where all volumes agree. The true distance would make it cut some scans along another axis."""

Labelled = tuple[str, np.ndarray, np.ndarray]
Plain = tuple[str, np.ndarray]


def write_raw_dataset(
    folder: Path, names: Sequence[str], training: Iterable[Labelled], others: Iterable[Plain], pixel_mm: float
) -> Path:
    """Write volumes of slices and their labels; class ids stay as they are, `IGNORE` becomes nnU-Net's ignore label.

    Args:
        folder: what nnU-Net calls `nnUNet_raw`; gets the folder `DATASET`.
        names: of the classes, by id, background first.
        training: (case, image (S, H, W), label (S, H, W)) of every labelled scan.
        others: (case, image (S, H, W)) of the scans to predict.
        pixel_mm: edge length of a pixel.

    Returns:
        The dataset's folder; `dataset.json` is written last, so that where it is, all is.

    Convention: nnU-Net has no loss for structures that a scan shows but does not label; their pixels are background.
    Images are normalised already, as our networks see them, so that nnU-Net is told to leave them as they are.
    """
    root = folder / DATASET
    ignored, cases = False, 0
    for case, image, label in training:
        _save(root / "imagesTr" / f"{file_name(case)}_0000.nii.gz", image.astype(np.float32), pixel_mm)
        ignored = ignored or bool((label == IGNORE).any())
        values = np.where(label == IGNORE, len(names), label).astype(np.uint8)
        _save(root / "labelsTr" / f"{file_name(case)}.nii.gz", values, pixel_mm)
        cases += 1
    for case, image in others:
        _save(root / "imagesTs" / f"{file_name(case)}_0000.nii.gz", image.astype(np.float32), pixel_mm)
    labels = {name: number for number, name in enumerate(["background", *names[1:]])}
    content = {
        "channel_names": {"0": "noNorm"},
        "labels": {**labels, "ignore": len(names)} if ignored else labels,
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    write_whole(root / "dataset.json", json.dumps(content, indent=1) + "\n")
    return root


def file_name(case: str) -> str:
    """Name of a case in file names, as our own results have it."""
    return case.replace("/", "_")


def _save(path: Path, slices: np.ndarray, pixel_mm: float) -> None:
    """Write (S, H, W); nnU-Net's reader turns the axes of a NIfTI file round, and so sees (S, H, W) again."""
    affine = np.diag([pixel_mm, pixel_mm, APART * pixel_mm, 1.0])
    image = nibabel.Nifti1Image(np.ascontiguousarray(slices.transpose(2, 1, 0)), affine)
    image.header.set_xyzt_units("mm")
    write_nifti(path, image)
