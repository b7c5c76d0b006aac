"""Whatever the bytes of a file are: its voxels and affine, or one sentence; never another error."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts.data.check.command import check_scan
from scripts.data.check.grid import PLANES, grid_of
from scripts.data.check.volumes import UnusableError, read_volume

from .conftest import PIR

SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
pytestmark = pytest.mark.filterwarnings("ignore")  # readers warn of odd headers, which is theirs to do


@pytest.fixture
def content(tmp_path: Path, write_volume: Callable[..., Path]) -> bytes:
    path = write_volume(tmp_path / "good.nii")
    return path.read_bytes()


def told(path: Path) -> str:
    """What is said of a file: nothing, or one line."""
    try:
        array, affine = read_volume(path, single_slices=True)
    except UnusableError as error:
        return str(error)
    assert array.ndim == 3
    assert affine.shape == (4, 4)
    assert all(len(str(problem).splitlines()) == 1 for problem in check_scan(path))
    return ""


@SAME_FOLDER
@given(changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_header(content: bytes, tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(content)
    for place, value in changes:
        damaged[place] = value
    path = tmp_path / "damaged.nii"
    path.write_bytes(damaged)
    told(path)


@SAME_FOLDER
@given(share=st.floats(0, 0.999), packed=st.booleans())
def test_cut_off(content: bytes, tmp_path: Path, share: float, packed: bool) -> None:
    whole = gzip.compress(content, 1) if packed else content
    path = tmp_path / ("cut.nii.gz" if packed else "cut.nii")
    path.write_bytes(whole[: int(share * len(whole))])
    assert told(path)


@SAME_FOLDER
@given(place=st.integers(10, 10_000), change=st.integers(1, 255))
def test_a_byte_of_a_packed_file(content: bytes, tmp_path: Path, place: int, change: int) -> None:
    # nibabel reads no further than the last voxel, so it never comes to the checksum
    packed = bytearray(gzip.compress(content, 1))
    packed[10 + place % (len(packed) - 10)] ^= change
    path = tmp_path / "flipped.nii.gz"
    path.write_bytes(packed)
    assert "cannot be unpacked" in told(path)


@SAME_FOLDER
@given(noise=st.binary(max_size=600), ending=st.sampled_from(["nii", "nii.gz"]))
def test_noise(tmp_path: Path, noise: bytes, ending: str) -> None:
    path = tmp_path / f"noise.{ending}"
    path.write_bytes(noise)
    assert told(path)


@given(
    order=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
)
def test_grid_is_the_patients(order: list[int], signs: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, patient in enumerate(order):
        affine[patient, axis] = signs[axis] * spacing[axis]
    shape = (20, 30, 40)
    grid = grid_of(shape, affine)
    up, front, across = (order.index(patient) for patient in (2, 1, 0))
    assert grid.height_mm == pytest.approx(shape[up] * spacing[up])
    assert grid.depth_mm == pytest.approx(shape[front] * spacing[front])
    assert (grid.slices, grid.slice_mm) == (shape[across], pytest.approx(spacing[across]))
    ranked = sorted(spacing)
    if grid.plane == "any":
        assert ranked[2] < 1.5 * ranked[1]
    else:
        assert grid.plane == PLANES[order[spacing.index(ranked[2])]]
        assert grid.tilt_degrees == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("dtype", [">i2", "<i2", ">f4", "i8", "u8", "i1", "f8", ">f8", "u2"])
def test_types(tmp_path: Path, dtype: str) -> None:
    array = np.random.default_rng(0).integers(0, 120, (12, 16, 5)).astype(dtype)
    path = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, PIR, dtype=array.dtype), path)
    np.testing.assert_array_equal(read_volume(path)[0], array)
    assert [p for p in check_scan(path) if p.level == "error"] == []
