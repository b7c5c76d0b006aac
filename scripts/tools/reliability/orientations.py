"""Mark a voxel in a scan of any orientation, follow it through inference's own transforms, and see where it lands."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from nibabel.affines import apply_affine
from scipy.spatial.transform import Rotation

from ...bundle.launch import BUNDLE_ROOT

SHAPE = (24, 20, 9)
SPACINGS_MM = ((2.0, 2.0, 4.0), (1.37, 2.61, 3.3), (0.7, 0.7, 8.8), (3.0, 1.0, 1.0))
TURNS_DEGREES = ((0, 0, 0), (12, -9, 15), (-20, 17, 5))
NEAR = 2
"""A blob of (2 * NEAR + 1)^3 voxels around the marked one shows up whatever pixels it is resampled to."""


def cases(whole: bool = True) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...], tuple[int, ...]]]:
    """Order of the axes, their signs, spacing and turn: all 48 orders, with every spacing and turn or with one each."""
    axes = itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
    both = list(itertools.product(SPACINGS_MM, TURNS_DEGREES))
    for number, (order, signs) in enumerate(axes):
        for spacing, turn in both if whole else [both[number % len(both)]]:
            yield order, signs, spacing, turn


def affine_of(order: tuple[int, ...], signs: tuple[int, ...], spacing: tuple[float, ...], turn: tuple[int, ...]) -> Any:
    """The affine (4, 4) of a volume whose array axis i runs along the patient's axis order[i], up or down it."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (patient, sign, size) in enumerate(zip(order, signs, spacing, strict=True)):
        affine[patient, axis] = sign * size
    whole = np.eye(4)
    whole[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    whole[:3, 3] = (-31.5, 12.25, 70.0)
    return whole @ affine


def follow(
    folder: Path, affine: np.ndarray, marked: tuple[int, ...], steps: tuple[Compose, Compose]
) -> tuple[Path, np.ndarray]:
    """Write a scan with one marked voxel, and what becomes of it if the network marks what is bright.

    Args:
        folder: gets the scan, `scan.nii.gz`, and the label map, `out/scan_seg.nii.gz`.
        affine: of the scan.
        marked: the voxel.
        steps: see :func:`transforms`, which write to `folder / "out"`.

    Returns:
        The label map's path, and the centre (x, y, z), in mm in the patient, of what it marks.

    Raises:
        ValueError: nothing is marked.
    """
    array = np.zeros(SHAPE, np.float32)
    array[tuple(slice(max(0, m - NEAR), m + NEAR + 1) for m in marked)] = 1000
    image = nibabel.Nifti1Image(array, affine)
    nibabel.save(image, folder / "scan.nii.gz")
    before, after = steps
    data = before({"image": str(folder / "scan.nii.gz"), "case": "scan"})
    bright = data["image"] > (data["image"].max() + data["image"].min()) / 2
    data["pred"] = torch.cat([(~bright).float(), bright.float()]) * 20  # logits (2, H, W, S)
    after(data)
    path = folder / "out" / "scan_seg.nii.gz"
    label = nibabel.load(path)
    found = np.argwhere(np.asarray(label.dataobj) == 1)
    if not len(found):
        raise ValueError(f"nothing was marked for the affine {affine.tolist()}")
    return path, apply_affine(label.affine, found.mean(0))


def transforms(out: Path, pixel_mm: float) -> tuple[Compose, Compose]:
    """The transforms of `configs/inference.yaml` before and behind the network, without its names of levels."""
    parser = ConfigParser(ConfigParser.load_config_file(str(BUNDLE_ROOT / "configs" / "inference.yaml")))
    parser.update({"bundle_root": str(BUNDLE_ROOT), "output_dir": str(out), "ckpt_dir": str(out), "levels": "raw"})
    parser.update({"image_size": [64, 64], "pixel_mm": pixel_mm, "num_classes": 2})
    parser.parse(True)
    return parser.get_parsed_content("preprocessing"), parser.get_parsed_content("postprocessing")


def check_orientations(work: Path, pixel_mm: float = 1.5, seed: int = 0, whole: bool = True) -> list[dict[str, Any]]:
    """Follow a marked voxel in all cases, or with `whole` False in one of each order of the axes.

    Returns:
        A row for each: the orientation, and how far from the marked voxel the mark landed, in voxels of the scan.
    """
    random, rows, steps = np.random.default_rng(seed), [], transforms(work / "out", pixel_mm)
    for order, signs, spacing, turn in cases(whole):
        marked = tuple(int(random.integers(NEAR, size - NEAR)) for size in SHAPE)
        affine = affine_of(order, signs, spacing, turn)
        path, landed = follow(work, affine, marked, steps)
        label = nibabel.load(path)
        same = label.shape == SHAPE and bool(np.allclose(label.affine, affine, atol=1e-3))
        voxel = apply_affine(np.linalg.inv(affine), landed)
        rows.append(
            {
                "axes": "".join(nibabel.aff2axcodes(affine)),
                "spacing_mm": list(spacing),
                "turned_degrees": list(turn),
                "off_voxels": round(float(np.abs(voxel - marked).max()), 3),
                "same_grid": same,
            }
        )
    return rows
