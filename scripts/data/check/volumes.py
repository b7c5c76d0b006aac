"""One volume at a time: read it, and say in sentences why it cannot be used."""

from __future__ import annotations

import contextlib
import gzip
import threading
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np

from ...files import PROGRAM
from ...labels import IGNORE, LabelMap
from ..dicom import series as dicom
from .grid import corner_distance, fits, grid_of

if TYPE_CHECKING:
    from monai.transforms import LoadImage

WHOLE_NUMBER_TOLERANCE = 1e-3
MAX_VOXELS = 2_000_000_000
"""A volume of more voxels is refused before it is read: no scan has as many, but a damaged header may say so."""
FIELD_MM = (1.0, 3000.0)
"""Smallest and largest field of view that can be resampled to millimetres, head to foot and front to back."""
FEWEST_PIXELS = 2
"""Rows and columns of a sagittal slice."""
FEW_VALUES = 32
"""A volume of fewer different values is hardly a scan."""
MANY_VALUES, IN_ONE_PIECE = 256, 0.5
"""A label map has fewer values, and along every axis more than that share of its labelled voxels has equal ones."""
PERCENTILES = (1.0, 99.0)
"""Grey values between which the configs scale an image."""
_ITK = threading.Lock()
"""ITK loads its modules when they are first used, which two threads must not do at once."""


class UnusableError(Exception):
    """A volume that cannot be used; the message is the sentence after its path."""


def read_volume(path: str | Path, *, single_slices: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Read a NIfTI, MHA or NRRD file, or a DICOM series.

    Args:
        path: the file, or a folder of one DICOM series; a DICOM file stands for its series.
        single_slices: take a file of one slice (X, Y) too, as a volume (X, Y, 1).

    Returns:
        The voxels (X, Y, Z) in the type of the file, and the affine (4, 4) to millimetres, RAS.

    Raises:
        UnusableError: a missing or unreadable file, several channels, or not three axes.
    """
    path = Path(path)
    _refuse_file(path)
    nifti = path.name.lower().endswith((".nii", ".nii.gz"))
    with contextlib.nullcontext() if nifti else _ITK:
        if not nifti:
            _refuse_for_itk(path)
        try:
            if nifti:
                _refuse_nifti(path)
            load = _loader(nifti)
            # the reader is called by itself: LoadImage would try all others after it and bury its message
            volume = load(str(path), reader=load.readers[-1])
            array, affine = np.asarray(volume.numpy()), np.asarray(volume.affine, dtype=np.float64)
            if nifti:
                _refuse_elsewhere(path, affine)
        except UnusableError:
            raise
        except Exception as error:  # readers raise what they like; the user needs the path and the reason
            if "numpy.void" in str(error):
                raise UnusableError("holds colours; write a volume with one grey value for every voxel") from error
            lines = str(error).strip().splitlines() or [""]
            reason = f"{type(error).__name__}: {lines[-1].strip()}".replace(str(path), path.name)[:200]
            raise UnusableError(f"cannot be read ({reason}); write or copy it again") from error
    return _one_channel(array[..., None] if single_slices and array.ndim == 3 else array), affine


@cache
def _loader(nifti: bool) -> LoadImage:
    """MONAI's loader, the wanted reader at the end; kept, because MONAI warns of others when it is made."""
    from monai.transforms import LoadImage

    from ..dicom.reader import SeriesReader

    return LoadImage(reader="NibabelReader" if nifti else SeriesReader, dtype=None, ensure_channel_first=True)


def _refuse_file(path: Path) -> None:
    """Refuse what is not there, may not be read, or would never end."""
    try:
        if path.is_symlink() and not path.exists():
            raise UnusableError("is a link to a file that is not there; correct the link, or put the file there")
        if not path.exists():
            raise UnusableError("there is no such file; correct the path in the datalist, or put the file there")
        if path.is_dir():
            return
        if not path.is_file():
            raise UnusableError("is neither a file nor a folder; name a scan")
        if path.stat().st_size == 0:
            raise UnusableError("the file is empty; copy it again")
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:  # a name that is too long, a folder or file that may not be read
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UnusableError(f"cannot be opened ({reason}); correct the path or the permissions") from error


def _refuse_nifti(path: Path) -> None:
    """Refuse damage that nibabel does not look for: sizes that cannot be true, and gzip's own checksum."""
    if path.name.lower().endswith(".gz"):
        try:
            with gzip.open(path) as file:
                while file.read(1 << 20):
                    pass
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UnusableError(f"cannot be unpacked ({error}); the file is damaged, copy it again") from error
    shape = nibabel.load(path).shape
    if np.prod(shape, dtype=np.float64) > MAX_VOXELS:
        raise UnusableError(f"has a header that says {' x '.join(map(str, shape))} voxels; write or copy it again")


def _refuse_elsewhere(path: Path, affine: np.ndarray) -> None:
    """Refuse a header that MONAI mends: its place would be another than the one that other programs show."""
    header = nibabel.load(path)
    corners = np.array([[x, y, z, 1.0] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    corners[:, :3] *= np.array([*header.shape, 1, 1][:3]) - 1
    far = np.abs((corners @ (header.affine - affine).T)[:, :3]).max()
    if not far <= np.linalg.norm(affine[:3, :3], axis=0).min():  # NaN, too
        raise UnusableError(
            "has an affine (sform) that gives voxels no size, or another than its pixel sizes; correct the header's "
            "orientation and spacing"
        )


def _refuse_for_itk(path: Path) -> None:
    """Refuse what ITK cannot read for reasons that its own message would not tell."""
    try:
        dicom.import_itk()
    except ModuleNotFoundError as error:
        raise UnusableError(f"cannot be read; {error}") from error
    if path.is_dir() and not any(dicom.is_dicom(file) for file in path.iterdir()):
        raise UnusableError("is a folder without DICOM files; name a scan, or a folder of one DICOM series")
    count = len(dicom.series_files(path)) if path.is_dir() else 1
    if not count:
        raise UnusableError("is a folder of DICOM files that cannot be read; copy or export them again")
    if count != 1:
        mend = f"name a file of the one you mean, or convert them with `{PROGRAM} prepare --layout dicom`"
        raise UnusableError(f"the folder mixes {count} DICOM series; give each a folder of its own, {mend}")
    if gap := dicom.slice_gap(dicom.files_of(path)):
        raise UnusableError(f"{gap}; export the series again, whole and by itself")


def _one_channel(array: np.ndarray) -> np.ndarray:
    """(1, X, Y, Z) -> (X, Y, Z)."""
    if array.shape[0] != 1:
        kind = "colours" if array.shape[0] in (3, 4) else "time points or channels"
        raise UnusableError(f"has {array.shape[0]} {kind} for every voxel; write a volume with one grey value for each")
    if array.ndim != 4 or 0 in array.shape:
        raise UnusableError(f"has the shape {tuple(array.shape[1:])}; a volume with three axes is needed")
    return array[0]


def image_mistakes(array: np.ndarray, affine: np.ndarray) -> list[str]:
    """What is wrong with an image: sentences without its path.

    Args:
        array: (X, Y, Z) voxels.
        affine: (4, 4) to millimetres.
    """
    if array.dtype.kind == "c":
        return ["holds complex numbers; write their magnitude"]
    mistakes = _value_mistakes(array)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        return [*mistakes, "has an affine that gives voxels no size; correct the header's orientation and spacing"]
    grid = grid_of(array.shape, affine)
    for name, size in (("head to foot", grid.height_mm), ("front to back", grid.depth_mm)):
        if not FIELD_MM[0] <= size <= FIELD_MM[1]:
            mistakes.append(f"is {size:.3g} mm from {name}, says its header; correct the spacing")
    if min(grid.rows, grid.columns) < FEWEST_PIXELS:
        mend = "check how the scan lies in the patient, or export it again"
        mistakes.append(f"has sagittal slices of {grid.rows} x {grid.columns} pixels; {mend}")
    return mistakes


def _value_mistakes(array: np.ndarray) -> list[str]:
    """What is wrong with grey values."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(array.astype(np.float32)) if array.dtype.kind == "f" else None
    if finite is not None and not finite.all():
        return [f"holds {int((~finite).sum())} voxels that are NaN or infinite; replace them or export it again"]
    if array.min() == array.max():
        return [f"holds {array.flat[0]:g} in every voxel and shows nothing; take it out of the datalist"]
    sample = array.ravel()[:: max(1, array.size // 1_000_000)]
    if np.ptp(np.percentile(sample.astype(np.float64), PERCENTILES)) == 0:
        common = float(np.median(sample))
        return [f"holds {common:g} in nearly every voxel and shows next to nothing; take it out of the datalist"]
    return []


def holds_labels(array: np.ndarray) -> bool:
    """True for the voxels of a label map: whole numbers, few of them, each in one piece rather than strewn as noise.

    Args:
        array: (X, Y, Z) voxels.
    """
    sample = array.ravel()[:: max(1, array.size // 100_000)]
    if array.dtype.kind == "c" or not np.isfinite(sample).all() or (sample != np.round(sample)).any():
        return False
    if (count := len(np.unique(sample))) < FEW_VALUES:
        return True
    axes = [np.moveaxis(array, axis, 0) for axis in range(array.ndim) if array.shape[axis] > 1]
    # along every axis, since slices that were repeated are equal along one
    same = (((a[:-1] == a[1:]) & (a[:-1] != 0)).sum() > IN_ONE_PIECE * (a[:-1] != 0).sum() for a in axes)
    return count < MANY_VALUES and all(same)


def label_mistakes(array: np.ndarray, label_map: LabelMap) -> list[str]:
    """What is wrong with a label's values: sentences without its path.

    Args:
        array: (X, Y, Z) label values, whole numbers of any type.
        label_map: the values that may occur.
    """
    if array.dtype.kind not in "iub":
        whole = np.round(array)
        # not (...) so that NaN counts
        wrong = ~(np.abs(array - whole) <= WHOLE_NUMBER_TOLERANCE)
        if wrong.any():
            example = array[wrong].flat[0]
            return [f"holds {int(wrong.sum())} values that are no whole numbers ({example:g}); resample labels nearest"]
        array = whole.astype(np.int64)
    values = label_values(array)
    unknown = [v for v in values if v not in label_map.mapping]
    if unknown:
        listed = ", ".join(map(str, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
        mend = "name the label map that fits, add the value to a copy of it, or correct the file"
        return [f"holds the label value {listed}, which the label map {label_map.name!r} does not know; {mend}"]
    if not any(label_map.mapping[v] not in (0, IGNORE) for v in values):
        mend = "correct it, or move the scan to the section unlabelled"
        return [f"labels no structure (its values are {', '.join(map(str, values))}); {mend}"]
    return []


def label_values(array: np.ndarray) -> list[int]:
    """The different values, ascending; counting is several times faster than the sort of `np.unique`."""
    low, high = int(array.min()), int(array.max())
    if high - low > 65535:
        return [int(v) for v in np.unique(array)]
    shifted = array.astype(np.int64, copy=False).ravel() - low
    return [int(v) + low for v in np.flatnonzero(np.bincount(shifted))]


def grid_mistakes(image: Mapping[str, Any], label: Mapping[str, Any]) -> list[str]:
    """Whether a label can be brought onto its image's voxels, see :func:`~scripts.data.check.grid.fits`.

    Args:
        image: `shape` and `affine` of the image.
        label: the same of the label, and `cropped`.
    """
    if fits(label, image):
        return []
    shape, other = tuple(image["shape"]), tuple(label["shape"])
    if shape != other:
        return [f"has the shape {other}, its image {shape}; resample the label onto the image's grid"]
    far = f"lies {corner_distance(image, label):.1f} mm away from its image (same shape, other affine)"
    return [f"{far} and does not cover it; export both again, or correct the affine that is wrong"]
