"""Dictionary transforms that MONAI lacks: slices as volumes, in-plane resampling, label mapping, saving."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor, NibabelWriter
from monai.data.utils import affine_to_spacing, compute_shape_offset, zoom_affine
from monai.transforms import (
    CropForegroundd,
    InvertibleTransform,
    MapTransform,
    SaveImaged,
    Spacingd,
    SpatialResample,
    Transform,
)
from monai.utils import TraceKeys, convert_to_tensor, ensure_tuple
from torch import Tensor

from ..files import nifti_bytes
from ..labels import ClassTable, LabelMap
from ..ops.resampling import resampled_top_class
from .check.grid import same_grid
from .output_folder import OutputFolder

LABEL_MAP = "_seg.nii.gz"
"""Ending of the files of label maps."""

GEOMETRY = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)
"""Fields of a NIfTI header that say where its voxels lie, beside `pixdim`."""
STRAIGHT = 1e-4
"""Tolerance for parallel axes of two grids: a twentieth of a pixel along 512 pixels."""


class EnsureVolumed(MapTransform, InvertibleTransform):
    """Add a third axis of length 1 to a single slice (1, X, Y); a volume (1, X, Y, Z) is unchanged. Invertible.

    Raises:
        ValueError: the image has more than one channel or more than three spatial axes.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with every key as a one-channel volume."""
        d = dict(data)
        for key in self.key_iterator(d):
            image = d[key]
            if image.ndim not in (3, 4) or image.shape[0] != 1:
                name = image.meta.get("filename_or_obj", key) if isinstance(image, MetaTensor) else key
                raise ValueError(
                    f"{name}: expected one channel and two or three axes, got an array of shape {tuple(image.shape)}; "
                    "give one grey-value volume per file"
                )
            added = image.ndim == 3
            d[key] = image[..., None] if added else image
            self.push_transform(d, key, extra_info={"added": added})
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Remove the added axis."""
        d = dict(data)
        for key in self.key_iterator(d):
            if self.pop_transform(d, key)["extra_info"]["added"]:
                d[key] = d[key][..., 0]
        return d


class MatchGridd(MapTransform):
    """Resample labels (nearest) onto the grid of their image, by place in the world; on the same grid nothing changes.

    Args:
        keys: keys of label volumes.
        image_key: key of the image, as it was read or preprocessed; its grid is the file's.
    """

    def __init__(self, keys: KeysCollection, image_key: str, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with every label on the image's grid."""
        d, image = dict(data), data[self.image_key]
        size = [int(n) for n in image.meta.get("spatial_shape", image.shape[1:])]
        grid = {"shape": size, "affine": np.asarray(image.meta.get("original_affine", image.affine))}
        for key in self.key_iterator(d):
            label = d[key]
            own = {"shape": label.shape[1:], "affine": np.asarray(label.affine)}
            if len(size) == len(own["shape"]) == 3 and not same_grid(grid, own):
                resample = SpatialResample(mode="nearest", padding_mode="zeros", dtype=torch.float64)
                with resample.trace_transform(False):
                    d[key] = resample(label, torch.as_tensor(grid["affine"]), size).to(label.dtype)
        return d


class CropEmptyd(CropForegroundd):
    """Cut off borders of zeros on any side, as scanners and registration add them; all of an empty volume is kept.

    They would change the normalisation of grey values and the batch statistics. Invertible.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys, ensure_tuple(keys)[0], select_fn=_not_empty, allow_smaller=True)


def _not_empty(volume: Tensor) -> Tensor:
    return volume != 0 if volume.any() else volume == 0


class InPlaneSpacingd(Spacingd):
    """Resample in plane (first two axes) to `pixel_mm`; the slice axis is not resampled.

    Args:
        keys: keys of (1, H, W, S) volumes, slices last.
        pixel_mm: edge length of a pixel in mm, for both axes.
        mode: interpolation for each key, "bilinear" or "nearest".
        window: columns of a window. In a wider volume pixels are counted from the last column instead of the first, so
            that tissue added in front of an IPR volume leaves the values of the others what they are.

    Convention: entries such as MONAI Label's string `image_path` are hidden from MONAI 1.6's `Spacingd`, which treats
    every entry whose key starts with "<key>_" as a dictionary.
    """

    def __init__(
        self,
        keys: KeysCollection,
        pixel_mm: float,
        mode: Any = "bilinear",
        window: int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        # MONAI's default dtype, float64, doubles the time.
        super().__init__(
            keys,
            pixdim=(pixel_mm, pixel_mm, -1.0),
            mode=mode,
            padding_mode="border",
            dtype=np.float32,
            allow_missing_keys=allow_missing_keys,
        )
        self.window = window

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        """Return the data with every key resampled in plane."""
        hidden = {
            k: v
            for k, v in data.items()
            if k not in self.keys and any(str(k).startswith(f"{key}_") for key in self.keys) and not isinstance(v, dict)
        }
        visible = {k: v for k, v in data.items() if k not in hidden}
        if self.window is None:
            return {**super().__call__(visible, lazy=lazy), **hidden}
        d = dict(data)
        for key, mode in self.key_iterator(d, self.mode):
            affine, shape = self._counted_from_the_back(d[key])
            if shape[1] > self.window:
                resample = self.spacing_transform.sp_resample
                d[key] = resample(d[key], affine, shape, mode, "border", self.align_corners[0], np.float32)
            else:
                d[key] = super().__call__({key: d[key]}, lazy=lazy)[key]
        return d

    def _counted_from_the_back(self, volume: MetaTensor) -> tuple[Tensor, list[int]]:
        """Affine and shape of the resampled volume, as `Spacing` gives them for one whose columns are turned round."""
        size, affine = volume.shape[1:], volume.affine.cpu().numpy().astype(np.float64)
        turned = affine @ _turn(size[1])
        pixdim = np.array([*self.spacing_transform.pixdim[:2], affine_to_spacing(affine)[2]])
        target = zoom_affine(turned, pixdim, diagonal=False)
        shape, target[:3, 3] = compute_shape_offset(size, turned, target)
        shape = [int(n) for n in shape]
        return torch.as_tensor(target @ _turn(shape[1])), shape

    def inverse_top_class(self, scores: MetaTensor) -> MetaTensor:
        """Inverse of scores (N, H, W, S) followed by the arg max over classes.

        Returns:
            (1, H', W', S) uint8 with the meta data of the inverse; see `scripts.ops.resampling.resampled_top_class`.
        """
        resample = self.spacing_transform.sp_resample
        info = resample.get_most_recent_transform(scores)
        target = torch.as_tensor(info[TraceKeys.EXTRA_INFO]["src_affine"], dtype=torch.float64)
        step = torch.linalg.solve(scores.affine.to(target), target).cpu()  # scan pixel -> score pixel
        scale, shift = step.diagonal()[:3], step[:3, 3]
        other = torch.cat([(step[:3, :3] - scale.diag()).flatten(), scale[2:] - 1, shift[2:]])
        if other.abs().max() > STRAIGHT:  # sheared scan: the axes are not parallel
            back = self.spacing_transform.inverse(scores)
            return MetaTensor(back.max(0, keepdim=True).indices.to(torch.uint8), meta=back.meta).copy_meta_from(back)
        resample.pop_transform(scores)
        size = tuple(info[TraceKeys.ORIG_SIZE][:2])
        label = resampled_top_class(scores.as_tensor(), tuple(scale[:2].tolist()), tuple(shift[:2].tolist()), size)
        made = MetaTensor(label[None]).copy_meta_from(scores)
        made.affine = target
        return made


def _turn(columns: int) -> np.ndarray:
    """Affine that counts columns from the last."""
    turn = np.diag([1.0, -1.0, 1.0, 1.0])
    turn[1, 3] = columns - 1
    return turn


class MapLabelValuesd(MapTransform):
    """Map the label values of a data set to class ids; unknown values are an error.

    Args:
        keys: keys of label volumes.
        label_map: name of a label map, a JSON file, a table, or None for class ids as they are; an entry's own
            `label_map` (the datalist's) has precedence.
        class_table: JSON file of the class table; None is the bundle's own.

    Raises:
        ValueError: a label value that the label map does not contain.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_map: str | dict[str, Any] | None = None,
        class_table: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        # Read here because their contents enter the hash of the cache.
        self.table = ClassTable.load(class_table)
        self.label_map = LabelMap.load(label_map, self.table)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with class ids, uint8, in every key."""
        d = dict(data)
        label_map = LabelMap.load(d["label_map"], self.table) if "label_map" in d else self.label_map
        for key in self.key_iterator(d):
            values = convert_to_tensor(d[key], track_meta=False).round().to(torch.int64)
            high = max(int(values.max()), 0)
            lookup = np.full(high + 1, -1, dtype=np.int64)
            for value, target in label_map.mapping.items():
                if 0 <= value <= high:
                    lookup[value] = target
            mapped = torch.from_numpy(lookup)[values.clamp_min(0)]
            unknown = sorted(set(values[(mapped < 0) | (values < 0)].tolist()))
            if unknown:
                name = d[key].meta.get("filename_or_obj", key) if isinstance(d[key], MetaTensor) else key
                raise ValueError(
                    f"{name}: label values {unknown} are not in the label map {label_map.name!r}; "
                    "correct the file or name the label map that fits"
                )
            mapped = mapped.to(torch.uint8)
            d[key] = MetaTensor(mapped, meta=d[key].meta) if isinstance(d[key], MetaTensor) else mapped
            if isinstance(data[key], MetaTensor):
                d[key].applied_operations = data[key].applied_operations
        return d


class SaveLabelMapd(SaveImaged):
    """Write label maps as `<case>_seg.nii.gz` to the folder of results, uint8, in their own grid.

    The label map of a NIfTI file gets its qform, its sform and their codes, which may disagree after a registration.

    MONAI's `SaveImaged` names the output by the input file, which may not be unique, and cannot write a single
    sagittal slice (X, Y). This is a subclass because MONAI Label removes `SaveImaged`.
    """

    def __init__(self, keys: KeysCollection, outputs: OutputFolder) -> None:
        super().__init__(keys, output_dir=outputs.folder, print_log=False)
        self.outputs = outputs

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write every key and return the data unchanged."""
        for key in self.key_iterator(data):
            label_map = data[key]
            array = np.asarray(label_map[0].cpu()).astype(np.uint8)  # (1, X, Y[, Z]) -> (X, Y[, Z])
            image = NibabelWriter.create_backend_obj(array, affine=label_map.affine, dtype=np.uint8)
            for set_form in (image.set_sform, image.set_qform):
                set_form(image.affine, code=1)
            image.header.set_xyzt_units("mm")
            _copy_geometry(Path(str(label_map.meta.get("filename_or_obj", ""))), image)
            name = f"{result_name(data, label_map)}{LABEL_MAP}"
            self.outputs.write(name, nifti_bytes(image), source_of(label_map))
        return dict(data)


def _copy_geometry(scan: Path, image: nibabel.Nifti1Image) -> None:
    """Give a label map both affines of its scan, their codes and the unit, so that every program shows it in place."""
    if not scan.name.lower().endswith((".nii", ".nii.gz")) or not scan.is_file():
        return
    source = nibabel.load(scan)
    if source.shape[: image.ndim] == image.shape and np.allclose(source.affine, image.affine, atol=1e-3):
        for field in GEOMETRY:
            image.header[field] = source.header[field]
        image.header["pixdim"][:4] = source.header["pixdim"][:4]


def result_name(item: Mapping[Any, Any], volume: MetaTensor) -> str:
    """File name of a result: the entry's `case`, else the name of the file or folder that the volume was read from."""
    return file_stem(item.get("case") or scan_name(str(volume.meta.get("filename_or_obj", "scan"))))


def file_stem(name: str) -> str:
    """A scan's name as the files of its results begin."""
    return str(name).replace("/", "_")


def source_of(volume: Any) -> str:
    """Absolute path of the file or folder that a volume was read from; "" if it was not."""
    path = getattr(volume, "meta", {}).get("filename_or_obj", "")
    return os.path.abspath(str(path)) if path else ""


def scan_name(path: str) -> str:
    """File name without the endings of image formats; a folder's name stays whole."""
    name = Path(path).name
    lower = name.lower()
    for ending in (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".dcm"):
        if lower.endswith(ending):
            return name[: -len(ending)]
    return name


class VolumeLabelMapsd(Transform):
    """Convert the output of a validation volume to label maps and unlabelled classes, for scoring.

    Takes `pred` as logits (S, N, H, W) or class ids (S, H, W), `label` (S, 1, H, W), `is_unlabelled` (N,) bool and
    `index`; gives `pred` and `label` (S, H, W), `unlabelled_classes`, a tuple of ids, and `volume`, the index.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with its label maps."""
        d = dict(data)
        if d["pred"].ndim == 4:
            d["pred"] = d["pred"].argmax(1)
        d["label"] = d["label"].squeeze(1)
        d["volume"] = d["index"]  # the engine's output gets keys that the batch does not have
        d["unlabelled_classes"] = tuple(d["is_unlabelled"].nonzero().flatten().tolist())
        return d
