"""Inference returns a label map in the scan's grid, in all 48 orders and signs of the axes, straight and oblique."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from nibabel.affines import apply_affine
from scipy.spatial.transform import Rotation

from scripts.bundle.launch import BUNDLE_ROOT

SHAPE = (24, 20, 9)
SPACINGS_MM = ((2.0, 2.0, 4.0), (1.37, 2.61, 3.3), (0.7, 0.7, 8.8), (3.0, 1.0, 1.0))
ROTATIONS_DEGREES = ((0, 0, 0), (12, -9, 15), (-20, 17, 5))
RADIUS = 2
"""The mark is a cube of (2 * RADIUS + 1)^3 voxels, which no resampling removes."""
NEAR_VOXELS = 0.75
"""Largest distance, along any axis, from a mark's place in the scan to its place in the label map."""


@dataclass(frozen=True)
class Orientation:
    """Array axis i runs along the patient's axis order[i], up or down it by its sign; then all is rotated."""

    order: tuple[int, ...]
    signs: tuple[int, ...]
    spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0)
    rotation_degrees: tuple[int, ...] = (0, 0, 0)

    @property
    def affine(self) -> np.ndarray:
        axes, rotation = np.eye(4), np.eye(4)
        axes[:3, :3] = 0
        for axis, (patient, sign, size) in enumerate(zip(self.order, self.signs, self.spacing_mm, strict=True)):
            axes[patient, axis] = sign * size
        rotation[:3, :3] = Rotation.from_euler("xyz", self.rotation_degrees, degrees=True).as_matrix()
        rotation[:3, 3] = (-31.5, 12.25, 70.0)
        return rotation @ axes


def orientations() -> Iterator[Any]:
    """Every order and signs with every spacing and rotation; `make test` takes one of these for each."""
    both = list(itertools.product(SPACINGS_MM, ROTATIONS_DEGREES))
    axes = itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
    for number, ((order, signs), other) in enumerate(itertools.product(axes, range(len(both)))):
        given = Orientation(order, signs, *both[other])
        name = "".join(nibabel.aff2axcodes(Orientation(order, signs).affine))
        marks = () if other == number // len(both) % len(both) else pytest.mark.reliability
        yield pytest.param(number, given, marks=marks, id=f"{name}-{given.spacing_mm}-{given.rotation_degrees}")


CASES = list(orientations())


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Compose, Compose]:
    """Output folder, and the transforms of `configs/inference.yaml` before and behind the network."""
    out = tmp_path_factory.mktemp("label_maps")
    parser = ConfigParser(ConfigParser.load_config_file(str(BUNDLE_ROOT / "configs" / "inference.yaml")))
    parser.update({"bundle_root": str(BUNDLE_ROOT), "output_dir": str(out), "ckpt_dir": str(out), "levels": "raw"})
    parser.update({"image_size": [64, 64], "pixel_mm": 1.5, "num_classes": 2})
    parser.parse(True)
    return out, parser.get_parsed_content("preprocessing"), parser.get_parsed_content("postprocessing")


def label_bright_voxels(scan: Path, steps: tuple[Path, Compose, Compose]) -> nibabel.Nifti1Image:
    """The label map that inference writes for a network that marks what is bright."""
    out, before, after = steps
    name = f"{scan.parent.name}_scan"  # a name that the folder holds from another scan would be refused
    data = before({"image": str(scan), "case": name})
    bright = data["image"] > (data["image"].max() + data["image"].min()) / 2
    data["pred"] = torch.cat([(~bright).float(), bright.float()]) * 20  # logits (2, H, W, S)
    after(data)
    return nibabel.load(out / f"{name}_seg.nii.gz")


def distance_of_mark(
    number: int, orientation: Orientation, folder: Path, steps: tuple[Path, Compose, Compose], seed: int = 0
) -> tuple[float, nibabel.Nifti1Image]:
    """Distance, in voxels along the worst axis, from a random marked voxel to its label, and the label map."""
    random, affine = np.random.default_rng([seed, number]), orientation.affine
    marked = [int(random.integers(RADIUS, size - RADIUS)) for size in SHAPE]
    array = np.ones(SHAPE, np.float32)  # not 0, which would be cut off as an empty border
    array[tuple(slice(m - RADIUS, m + RADIUS + 1) for m in marked)] = 1000
    nibabel.save(nibabel.Nifti1Image(array, affine), folder / "scan.nii.gz")
    label = label_bright_voxels(folder / "scan.nii.gz", steps)
    centre_mm = apply_affine(label.affine, np.argwhere(np.asarray(label.dataobj) == 1).mean(0))
    return float(np.abs(apply_affine(np.linalg.inv(affine), centre_mm) - marked).max()), label


@pytest.mark.parametrize(("number", "orientation"), CASES)
def test_marked_voxel_keeps_its_place(
    number: int,
    orientation: Orientation,
    tmp_path: Path,
    steps: tuple[Path, Compose, Compose],
    seed: int,
    record_row: Callable[..., None],
) -> None:
    off, label = distance_of_mark(number, orientation, tmp_path, steps, seed)
    assert off <= NEAR_VOXELS
    assert label.shape == SHAPE
    np.testing.assert_allclose(label.affine, orientation.affine, atol=1e-3)
    record_row(
        "orientation", axes="".join(nibabel.aff2axcodes(orientation.affine)), spacing_mm=orientation.spacing_mm,
        turned_degrees=orientation.rotation_degrees, off_voxels=round(off, 3), same_grid=True,
    )  # fmt: skip


def test_a_flipped_label_map_is_noticed(
    tmp_path: Path, steps: tuple[Path, Compose, Compose], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = nibabel.Nifti1Image.to_stream  # writes the label map; the scan is saved by its name

    def flipped(image: nibabel.Nifti1Image, *args: Any) -> None:
        write(nibabel.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine), *args)

    monkeypatch.setattr(nibabel.Nifti1Image, "to_stream", flipped)
    few = [param.values for param in CASES if not param.marks][:3]
    assert max(distance_of_mark(*values, tmp_path, steps, seed=1)[0] for values in few) > NEAR_VOXELS


class TestCases:
    def test_all_48_orders(self) -> None:
        sample = [param.values[1] for param in CASES if not param.marks]
        assert (len(CASES), len(sample)) == (576, 48)
        assert len({nibabel.aff2axcodes(Orientation(one.order, one.signs).affine) for one in sample}) == 48
        assert len({(one.spacing_mm, one.rotation_degrees) for one in sample}) == 12

    def test_left_and_right_handed(self) -> None:
        hands = [np.sign(np.linalg.det(param.values[1].affine[:3, :3])) for param in CASES if not param.marks]
        assert sorted(hands) == [-1.0] * 24 + [1.0] * 24
