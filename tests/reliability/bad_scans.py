"""Random test files: damaged files and unusable scans, which are refused, and unusual scans, which are labelled."""

from __future__ import annotations

import contextlib
import gzip
import locale
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from scripts.labels import IGNORE
from scripts.phantom.volume import make_phantom
from tests.scan_files import FRAMES, PLACES, enhanced, write_dicom

SHAPE_HW, PIXEL_MM = (40, 32), 7.0


@dataclass
class Scan:
    """A phantom from which the test files are made.

    Attributes:
        folder: new folder for a file.
        array: voxels (X, Y, Z), int16.
        label: class ids, uint8.
        affine: (4, 4).
        random: generator of all random choices.
    """

    folder: Path
    array: NDArray[np.int16]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]
    random: np.random.Generator

    def save(self, array: NDArray[Any], name: str = "scan.nii.gz", affine: NDArray[Any] | None = None) -> Path:
        """Write a NIfTI file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, self.affine if affine is None else affine, dtype=array.dtype), path)
        return path

    def unpacked(self, name: str = "scan.nii.gz", **header: tuple[int, str, Any]) -> tuple[Path, bytearray]:
        """Bytes of an uncompressed NIfTI file with header fields set: (offset, struct format, value) each."""
        path = self.save(self.array, "whole.nii")
        content = bytearray(path.read_bytes())
        path.unlink()
        for offset, form, value in header.values():
            struct.pack_into(form, content, offset, value)
        return self.folder / name, content

    def packed(self, content: bytes, path: Path) -> Path:
        """Write bytes, compressed if the name ends in .gz."""
        path.write_bytes(gzip.compress(content, 1, mtime=0) if path.name.endswith(".gz") else content)
        return path

    def raw(self, content: bytes) -> Path:
        """Write bytes as scan.nii.gz."""
        (self.folder / "scan.nii.gz").write_bytes(content)
        return self.folder / "scan.nii.gz"

    def set(self, **header: tuple[int, str, Any]) -> Path:
        """Write a NIfTI file, compressed or not, with header fields set."""
        name = str(self.random.choice(["scan.nii", "scan.nii.gz"]))
        path, content = self.unpacked(name, **header)
        return self.packed(bytes(content), path)

    def spoilt(self, value: float, share: float) -> Path:
        """Write a scan with a share of its voxels, at least one, set to a value."""
        array = self.array.astype(np.float32)
        array[self.random.random(array.shape) < share] = value
        array[tuple(self.random.integers(0, array.shape))] = value
        return self.save(array)

    def itk(self, name: str) -> Path:
        """Write the scan with ITK."""
        import itk

        path = self.folder / name
        itk.imwrite(itk.image_from_array(np.ascontiguousarray(self.array.T)), str(path))
        return path


def new_scan(folder: Path, seed: int, *more: int) -> Scan:
    """A small phantom in a new folder; the numbers seed its random choices."""
    folder.mkdir(parents=True)
    image, label, affine = make_phantom(seed, 1, shape_hw=SHAPE_HW, pixel_mm=PIXEL_MM)
    return Scan(folder, image, label, affine, np.random.default_rng([seed, *more]))


def _cut(d: Scan, path: Path) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * d.random.uniform(0.02, 0.97))])
    return path


def _flipped(d: Scan, path: Path, first: int, count: int) -> Path:
    content = bytearray(path.read_bytes())
    for place in d.random.integers(first, len(content), count):
        content[place] ^= int(d.random.integers(1, 256))
    path.write_bytes(bytes(content))
    return path


def _turned(d: Scan, *degrees: float) -> Path:
    from scipy.spatial.transform import Rotation

    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    return d.save(d.array, affine=turn @ d.affine)


def _axes(d: Scan) -> Path:
    order = d.random.permutation(3)
    flips = d.random.integers(0, 2, 3) * 2 - 1
    affine = d.affine[:, [*order, 3]]
    affine[:3, :3] *= flips
    return d.save(np.ascontiguousarray(d.array.transpose(order)), affine=affine)


def _two_affines(d: Scan) -> Path:
    image = nibabel.Nifti1Image(d.array, d.affine)
    other = d.affine.copy()
    other[:3, 3] += d.random.uniform(30, 90, 3)
    image.set_sform(d.affine, 1)
    image.set_qform(other, 1)
    nibabel.save(image, d.folder / "scan.nii.gz")
    return d.folder / "scan.nii.gz"


def _linked(d: Scan, target: Path) -> Path:
    link = d.folder / "linked.nii.gz"
    link.symlink_to(target)
    return link


def _pipe(d: Scan) -> Path:
    os.mkfifo(d.folder / "scan.nii.gz")
    return d.folder / "scan.nii.gz"


def _no_permission(d: Scan) -> Path:
    path = d.save(d.array)
    path.chmod(0)
    return path


def _no_data_file(d: Scan) -> Path:
    ending = str(d.random.choice(["mhd", "nhdr"]))
    path = d.itk(f"scan.{ending}")
    for data in d.folder.iterdir():
        if data != path:
            data.unlink()
    return path


@contextlib.contextmanager
def _locale_kept() -> Iterator[None]:
    """Restore the locale: ITK's DICOM writer sets the C locale, in which Python decodes output of programs as ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


def _dicom(d: Scan, fault: str) -> Path:
    """A DICOM series with a fault."""
    import itk

    folder, slices = d.folder / "series", d.array.shape[2]
    study = f"1.2.826.0.{int(d.random.integers(1, 10**9))}"
    with _locale_kept():
        for number in range(1, 3 if fault == "two echoes in one series" else 2):
            write_dicom(itk, d.array, d.affine, folder, number=number, study=study, series=7)
    inner = folder / f"1_{d.random.integers(1, slices - 1)}.dcm"  # at the ends a missing slice cannot be noticed
    if fault == "a slice lost":
        inner.unlink()
    elif fault == "a slice double":
        (folder / "again.dcm").write_bytes(inner.read_bytes())
    elif fault == "a slice cut off":
        inner.write_bytes(inner.read_bytes()[: int(d.random.integers(140, 300))])
    elif fault == "nothing but a preamble":
        for file in folder.iterdir():
            file.write_bytes(bytes(128) + b"DICM" + d.random.bytes(int(d.random.integers(0, 400))))
    return folder


DICOM_FAULTS = (
    "a slice lost",
    "a slice double",
    "a slice cut off",
    "two echoes in one series",
    "nothing but a preamble",
)
MULTI_FRAME_FAULTS: dict[str, dict[str, Any]] = {
    "a frame lost": {"places": PLACES[:2] + PLACES[3:]},
    "two echoes": {"places": PLACES * 2, "echoes": [20.0] * FRAMES + [80.0] * FRAMES},
    "frames at irregular distances": {"places": [0, 4, 8, 13, 17, 21]},
    "frames of several orientations": {"places": PLACES, "turned": 2},
    "frames shifted against each other": {"places": PLACES, "shift": 0.2},
}
Writer = Callable[[Scan], Path]
REFUSED: dict[str, Writer] = {
    "gzip cut off": lambda d: _cut(d, d.save(d.array)),
    "NIfTI cut off": lambda d: _cut(d, d.save(d.array, "scan.nii")),
    "gzip with damaged bytes": lambda d: _flipped(d, d.save(d.array), 20, int(d.random.integers(1, 9))),
    "gzip with a wrong checksum": lambda d: _flipped(d, d.save(d.array), -8 + d.save(d.array).stat().st_size, 1),
    "empty file": lambda d: d.packed(b"", d.folder / f"scan.{d.random.choice(['nii', 'mha', 'nrrd', 'nhdr'])}"),
    "packed emptiness": lambda d: d.packed(b"", d.folder / "scan.nii.gz"),
    "random bytes": lambda d: d.raw(d.random.bytes(int(d.random.integers(1, 9000)))),
    "text": lambda d: d.packed(
        b"patient,age\n1,60\n" * 50, d.folder / f"scan.{d.random.choice(['nii', 'nii.gz', 'mha'])}"
    ),
    "header without its mark": lambda d: d.set(magic=(344, "4s", bytes(d.random.integers(65, 90, 4, dtype=np.uint8)))),
    "header alone": lambda d: d.packed(bytes(d.unpacked()[1][:352]), d.folder / "scan.nii.gz"),
    "header of 0 axes": lambda d: d.set(ndim=(40, "<h", 0)),
    "header of too many axes": lambda d: d.set(ndim=(40, "<h", int(d.random.integers(8, 30000)))),
    "header of negative sizes": lambda d: d.set(size=(42, "<h", -int(d.random.integers(1, 30000)))),
    "header of no slices": lambda d: d.set(size=(46, "<h", 0)),
    "header of huge sizes": lambda d: d.set(**{f"n{i}": (42 + 2 * i, "<h", 30000 + i) for i in range(3)}),
    "header of an unknown type": lambda d: d.set(type=(70, "<h", int(d.random.integers(3000, 9000)))),
    "data beyond the end": lambda d: d.set(offset=(108, "<f", float(d.random.integers(10**6, 10**8)))),
    "time series": lambda d: d.save(np.stack([d.array] * int(d.random.integers(2, 9)), -1)),
    "five axes": lambda d: d.save(np.stack([np.stack([d.array] * 2, -1)] * 3, -1)),
    "colours": lambda d: d.save(np.zeros(d.array.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])),
    "complex numbers": lambda d: d.save(d.array.astype(np.complex64)),
    "NaN": lambda d: d.spoilt(np.nan, d.random.choice([0, 0.01, 1])),
    "infinity": lambda d: d.spoilt(d.random.choice([np.inf, -np.inf]), 0.001),
    "values beyond float32": lambda d: d.save(d.array * 10.0 ** d.random.integers(60, 300)),
    "constant": lambda d: d.save(np.full_like(d.array, d.random.integers(0, 900))),
    "one bright voxel": lambda d: d.save((np.arange(d.array.size).reshape(d.array.shape) == 77).astype(np.int16)),
    "one pixel": lambda d: d.save(d.array[:1, :1] + np.arange(d.array.shape[2], dtype=np.int16)),
    "one voxel": lambda d: d.save(d.array[:1, :1, :1]),
    "affine with NaN": lambda d: d.set(
        sform=(254, "<h", 1), x=(280 + 4 * int(d.random.integers(12)), "<f", float("nan"))
    ),
    "affine of zeros": lambda d: d.set(
        sform=(254, "<h", 1), **{f"x{i}": (280 + 16 * int(d.random.integers(1)) + 4 * i, "<f", 0.0) for i in range(12)}
    ),
    "voxels of a micrometre": lambda d: d.save(d.array, affine=d.affine * np.array([*[1e-3] * 3, 1])),
    "voxels of metres": lambda d: d.save(
        d.array, affine=d.affine * np.array([*[float(d.random.integers(50, 5000))] * 3, 1])
    ),
    "link to nowhere": lambda d: _linked(d, d.folder / "not there"),
    "link to itself": lambda d: _linked(d, d.folder / "linked.nii.gz"),
    "link to a device": lambda d: _linked(d, Path("/dev/zero")),
    "pipe": _pipe,
    "MetaImage cut off": lambda d: _cut(d, d.itk("scan.mha")),
    "NRRD cut off": lambda d: _cut(d, d.itk("scan.nrrd")),
    "header without its data file": _no_data_file,
    "plain NIfTI called gzip": lambda d: d.save(d.array, "scan.nii").rename(d.folder / "scan.nii.gz"),
    **{f"DICOM: {fault}": partial(_dicom, fault=fault) for fault in DICOM_FAULTS},
    **{
        f"multi-frame DICOM: {fault}": lambda d, of=of: enhanced(d.folder / "series/1.dcm", **of).parent
        for fault, of in MULTI_FRAME_FAULTS.items()
    },
    "name too long for a result": lambda d: d.save(d.array, "n" * 246 + ".nii"),
}
"""Kinds of files that every command refuses."""
if hasattr(os, "geteuid") and os.geteuid() != 0:  # root reads everything
    REFUSED["no permission to read"] = _no_permission

ODD: dict[str, Writer] = {
    "big-endian": lambda d: d.save(d.array.astype(d.random.choice([">i2", ">f4", ">f8"]))),
    "64-bit whole numbers": lambda d: d.save(d.array.astype(d.random.choice(["i8", "u8"]))),
    "64-bit fractions": lambda d: d.save(d.array.astype(np.float64) * 1e-3),
    "negative values": lambda d: d.save(d.array - np.int16(2000)),
    "oblique": lambda d: _turned(d, *d.random.uniform(-30, 30, 3)),
    "other axes, also left-handed": _axes,
    "two affines": _two_affines,
    "no orientation": lambda d: d.set(qform=(252, "<h", 0), sform=(254, "<h", 0)),
    "one slice": lambda d: d.save(d.array[:, :, :1]),
    "two axes": lambda d: d.save(d.array[:, :, 4]),
    "a fourth axis of 1": lambda d: d.save(d.array[..., None]),
    "3000 slices": lambda d: d.save(np.resize(d.array[:16, :20].transpose(2, 0, 1), (3000, 16, 20)).transpose(1, 2, 0)),
    "few grey values": lambda d: d.save((d.label != IGNORE) * d.label.astype(np.int16)),
    "other scripts in the path": lambda d: d.save(d.array, "Wirbelsäule/脊柱 μ/скан\u0301.nii.gz"),
    "blanks and signs in the path": lambda d: d.save(d.array, "a b/-c 'd' \"e\" $HOME %x @y #1;&.nii.gz"),
    "line break in the path": lambda d: d.save(d.array, "first\nsecond.nii.gz"),
    "link to a scan": lambda d: _linked(d, d.save(d.array, "elsewhere.nii.gz").rename(d.folder / "elsewhere")),
    "bytes behind the data": lambda d: d.packed(bytes(d.unpacked()[1]) + d.random.bytes(999), d.folder / "scan.nii"),
    "MetaImage": lambda d: d.itk("scan.mha"),
    "multi-frame DICOM": lambda d: enhanced(d.folder / "series/1.dcm", PLACES).parent,
    "multi-frame DICOM: frames in any order": lambda d: (
        enhanced(d.folder / "series/1.dcm", d.random.permutation(PLACES).tolist()).parent
    ),
    "packed in two parts": lambda d: d.raw(gzip.compress((b := bytes(d.unpacked()[1]))[:999]) + gzip.compress(b[999:])),
}
"""Kinds of unusual scans that are labelled, some with a warning."""
EITHER: dict[str, Writer] = {
    "header of another length": lambda d: d.set(sizeof=(0, "<i", int(d.random.integers(349, 10**6)))),
    "NIfTI called MetaImage": lambda d: d.save(d.array, "scan.nii").rename(d.folder / "scan.mha"),
    "header with damaged bytes": lambda d: d.packed(bytes(_header_noise(d)), d.folder / "scan.nii"),
}
"""Kinds of damage that may or may not matter: they are labelled or refused."""


def _header_noise(d: Scan) -> bytearray:
    _, content = d.unpacked()
    for place in d.random.integers(0, 348, int(d.random.integers(1, 12))):
        content[place] = int(d.random.integers(0, 256))
    return content
