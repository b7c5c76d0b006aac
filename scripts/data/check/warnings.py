"""What about a volume is odd but can be used: sentences that end with what a run will do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from .grid import fits, grid_of, same_grid
from .volumes import FEW_VALUES, holds_labels

FEW_PIXELS = 32
MANY_SLICES = 400
MANY_VOXELS = 3e8
"""About 5 GB while a volume is resampled in float32."""
TILT_DEGREES = 30.0
FIELD_MM = (80.0, 1000.0)
"""Fields of view, head to foot and front to back, outside of which the header's spacing is hardly right."""
PIXEL_MM = (0.1, 5.0)
SLICE_MM = (0.2, 15.0)
WORTH_A_WORD = 0.001
"""Share of labelled voxels outside of the window from which that is said."""


def image_warnings(array: np.ndarray, affine: np.ndarray, who: str = "training") -> list[str]:
    """What is odd about an image that can be used: sentences without its path.

    Args:
        array: (X, Y, Z) voxels, finite.
        affine: (4, 4) to millimetres, RAS.
        who: who reads on: "training" or "inference".
    """
    found, grid = [], grid_of(array.shape, affine)
    if grid.plane not in ("any", "sagittal"):
        coarse = f"{who} cuts sagittal slices out of it all the same, as coarse as the {grid.plane} ones are apart"
        found.append(f"was acquired in {grid.plane} slices; {coarse}")
    elif grid.tilt_degrees > TILT_DEGREES:
        found.append(
            f"has slices that are tilted by {grid.tilt_degrees:.0f} degrees; {who} takes them for sagittal ones"
        )
    for name, size in (("head to foot", grid.height_mm), ("front to back", grid.depth_mm)):
        if not FIELD_MM[0] <= size <= FIELD_MM[1]:
            found.append(
                f"shows {size:.0f} mm from {name}; {who} believes its spacing and resamples it by that: if it is "
                "wrong, the spine comes out too large or too small"
            )
    for name, size, (low, high) in (("pixels", grid.pixel_mm, PIXEL_MM), ("slices", grid.slice_mm, SLICE_MM)):
        if not low <= size <= high and not (name == "slices" and grid.slices == 1):
            found.append(f"has {name} of {size:.3g} mm; {who} believes that, correct the spacing if it is wrong")
    found += _sizes(array.shape, grid.slices, who)
    if array.dtype.kind in "iub" and holds_labels(array):
        found.append(
            f"has fewer than {FEW_VALUES} grey values, as a label map has; {who} takes it for a scan all the same"
        )
    return found


def _sizes(shape: Sequence[int], slices: int, who: str) -> list[str]:
    found = []
    in_plane = sorted(shape)[1:]
    if min(in_plane) < FEW_PIXELS:
        found.append(f"has the shape {tuple(shape)}, next to nothing; {who} resamples it and fills up with zeros")
    if slices == 1:
        found.append(f"has one sagittal slice; {who} takes it as a volume of its own")
    elif slices > MANY_SLICES:
        found.append(f"has {slices} sagittal slices; {who} takes them all, each as much as a slice of another scan")
    if np.prod(shape, dtype=np.float64) > MANY_VOXELS:
        found.append(f"has {np.prod(shape, dtype=np.float64):.2g} voxels; {who} holds all of them in memory at once")
    return found


def header_warnings(path: str | Path, who: str = "training") -> list[str]:
    """What a NIfTI header leaves open or says twice; none for other formats."""
    if not str(path).lower().endswith((".nii", ".nii.gz")):
        return []
    header = nibabel.load(path).header
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if not sform and not qform:
        return [
            f"does not say how it lies in the patient (sform and qform codes are 0); {who} takes its axes for left, "
            "forward and up, which is a guess"
        ]
    if sform and qform:
        corners = np.array([[x, y, z, 1.0] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
        corners[:, :3] *= np.array([*header.get_data_shape(), 1, 1][:3]) - 1
        far = np.linalg.norm((corners @ (header.get_sform() - header.get_qform()).T)[:, :3], axis=1).max()
        if not far <= max(1.0, float(np.min(header["pixdim"][1:4]))):
            return [f"has two affines, {far:.0f} mm apart (sform and qform); {who} believes the sform"]
    return []


def grid_warnings(image: Mapping[str, Any], label: Mapping[str, Any]) -> list[str]:
    """That a label is stored on another grid than its image's, but at the same place; see `grid_mistakes`."""
    if same_grid(image, label) or not fits(label, image):
        return []
    one, other = ("".join(nibabel.aff2axcodes(of["affine"])) for of in (image, label))
    how = f"axes {other}, its image {one}" if one != other else f"shape {tuple(label['shape'])}"
    return [f"lies on another grid than its image ({how}) at the same place; it is brought onto the image's, nearest"]


def window_warnings(
    array: np.ndarray, affine: np.ndarray, window_mm: Sequence[float], image: Mapping[str, Any] | None = None
) -> list[str]:
    """That labelled voxels lie outside of the window around the image's centre which training cuts out.

    Args:
        array: (X, Y, Z) label values, 0 for background.
        affine: (4, 4) to millimetres, RAS.
        window_mm: height and width of the window.
        image: `shape` and `affine` of the image; None if the label lies on its grid.
    """
    of = image or {"shape": array.shape, "affine": affine}
    middle = np.append((np.array(of["shape"]) - 1) / 2, 1.0)
    centre = np.linalg.solve(affine, np.asarray(of["affine"]) @ middle)  # voxels of the label
    axes = nibabel.io_orientation(affine)[:, 0].astype(int).tolist()
    spacing = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    labelled = array != 0
    inside = labelled
    for patient, size in ((2, window_mm[0]), (1, window_mm[1])):  # up, forward
        axis = axes.index(patient)
        place = (np.arange(array.shape[axis]) - centre[axis]) * spacing[axis]
        shape = [-1 if number == axis else 1 for number in range(3)]
        inside = inside & (np.abs(place) <= size / 2).reshape(shape)
    outside = 1 - inside.sum() / max(labelled.sum(), 1)
    if not labelled.any() or outside < WORTH_A_WORD:
        return []
    return [
        f"has {outside:.1%} of its labelled voxels outside of the window of {window_mm[0]:.0f} x {window_mm[1]:.0f} mm "
        "that training cuts out of the centre; enlarge it with --image_size"
    ]
