"""Bodies of known size and place are measured as such, on any grid; what a scan does not show is not measured."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scripts.measure.command import measured
from scripts.measure.scan_report import read_scan
from scripts.measure.shapes import BESIDE, CUT, MEASURES, OF_OUTLINE, SACRUM
from scripts.measure.spine import POSTERIOR, columns
from scripts.phantom.volume import make_phantom
from tests.measure.bodies import LUMBAR, TABLE, Body, draw, spine, truths

SPACING = (3.0, 0.7, 0.8)
FAR = {"mm": 0.5, "degrees": 2.0, "index": 0.03}
"""Most that a measurement may be off; volumes 3 %."""


def report(label: np.ndarray, affine: np.ndarray, source: str = "") -> dict[str, Any]:
    return measured(label, affine, source, TABLE, {}, None, read_scan(source, label.shape, affine))


def flat(found: Mapping[str, Any]) -> dict[str, Any]:
    """All measurements of a report by their names."""
    rows = {f"{row['name']}.{key}": row[key] for row in found["structures"] for key in MEASURES}
    return {**found["spine"], **rows}


def mistakes(found: Mapping[str, Any], wanted: Mapping[str, float]) -> dict[str, str]:
    """What is off by more than it may."""
    off = {}
    for key, value in wanted.items():
        got = flat(found)[key]
        unit = next((unit for unit in FAR if unit in key.split("_")), "")
        most = 0.03 * value if key.endswith("_ml") else FAR[unit]
        if got is None or abs(got - value) > most:
            off[key] = f"{got} for {value:.2f}"
    return off


class TestKnownGeometry:
    @pytest.mark.parametrize(("seed", "names"), [(0, LUMBAR), (1, LUMBAR[1:6]), (2, LUMBAR[4:])])
    def test_straight_grid(self, seed: int, names: tuple[str, ...]) -> None:
        bodies = spine(np.random.default_rng(seed), names)
        assert mistakes(report(*draw(bodies, SPACING)), truths(bodies)) == {}

    @pytest.mark.parametrize("degrees", [(12, 0, 0), (-8, 3, -5)])
    def test_oblique_grid(self, degrees: tuple[int, int, int]) -> None:
        """Turned about the patient's axes: sizes and angles are those of the patient, as far as slices are sagittal."""
        bodies = spine(np.random.default_rng(7), LUMBAR[2:7])
        turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
        found = report(*draw(bodies, (2.4, 0.7, 0.7), turn, roll=0.0))
        wanted = {key: value for key, value in truths(bodies).items() if not key.startswith("L4/L5")}
        assert mistakes(found, wanted) == {}

    def test_thick_voxels_from_head_to_foot(self) -> None:
        bodies = spine(np.random.default_rng(3), ("L4", "L3/L4", "L3"), steepest=-16)
        found = flat(report(*draw(bodies, (2.0, 0.7, 1.6))))
        wanted = truths(bodies)
        assert max(abs(found[k] - v) for k, v in wanted.items() if k.endswith("mm")) <= 0.8
        assert max(abs(found[k] - v) for k, v in wanted.items() if k.endswith("degrees")) <= 2.0

    def test_centroid(self) -> None:
        bodies = {"L4": Body(28, 28, 34, tilt=11, centre=(4.0, -3.0))}
        label, affine = draw(bodies, SPACING, roll=0.0)
        affine[:3, 3] += (10.0, -20.0, 30.0)
        (row,) = report(label, affine)["structures"]
        found = [row[f"centroid_{axis}_mm"] for axis in "xyz"]
        assert np.abs(np.array(found) - (10.0, -16.0, 27.0)).max() < 0.1


class TestOrientations:
    def test_all_48(self) -> None:
        """Whatever the order and the signs of the axes, the same numbers."""
        bodies = spine(np.random.default_rng(1), ("L4", "L3"), steepest=-20)
        label, affine = draw(bodies, (4.0, 1.3, 1.5))
        image = nibabel.Nifti1Image(label, affine)
        wanted = flat(report(label, affine))
        assert wanted["slip_mm_L3_L4"] is not None
        for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
            turned = image.as_reoriented(np.array(list(zip(order, signs, strict=True))))
            found = flat(report(np.asarray(turned.dataobj), turned.affine))
            assert {k: v for k, v in found.items() if v is not None} == pytest.approx(
                {k: v for k, v in wanted.items() if v is not None}, abs=0.0101
            ), (order, signs)

    def test_moving_the_scan_moves_the_centroids_alone(self) -> None:
        label, affine = draw(spine(np.random.default_rng(2), ("L4", "L3/L4", "L3")), (4.0, 1.0, 1.2))
        before = flat(report(label, affine))
        affine[:3, 3] += (5.0, 7.0, -11.0)
        after = flat(report(label, affine))
        moved = {"x": 5.0, "y": 7.0, "z": -11.0}
        for key, value in before.items():
            shift = moved[key.split("_")[1]] if "centroid" in key else 0.0
            assert after[key] == (None if value is None else pytest.approx(value + shift, abs=0.0101)), key

    def test_larger_voxels_are_larger_sizes(self) -> None:
        label, affine = draw(spine(np.random.default_rng(2), ("L4", "L3/L4", "L3")), (4.0, 1.0, 1.2))
        one, two = flat(report(label, affine)), flat(report(label, affine @ np.diag([2, 2, 2, 1.0])))
        for key in ("L4.height_middle_mm", "L3/L4.width_mm", "slip_mm_L3_L4"):
            assert two[key] == pytest.approx(2 * one[key], abs=0.1), key
        for key in ("L4.tilt_degrees", "disc_height_index_L3_L4"):
            assert two[key] == pytest.approx(one[key], abs=0.05), key
        assert two["L3.volume_ml"] == pytest.approx(8 * one["L3.volume_ml"], rel=1e-3)


class TestRobust:
    def test_a_spur_and_a_stray_part(self) -> None:
        """An outgrowth at a corner, a hole and voxels elsewhere change little."""
        bodies = spine(np.random.default_rng(4), ("L4", "L3/L4", "L3"), steepest=-10)
        label, affine = draw(bodies, SPACING)
        before = flat(report(label, affine))
        l4 = TABLE.id_of("L4")
        x, y, z = (axis.mean().astype(int) for axis in np.nonzero(label == l4))
        label[:, y - 3 : y + 3, z - 2 : z + 2][label[:, y - 3 : y + 3, z - 2 : z + 2] == l4] = 0
        front = np.nonzero(label[x] == l4)[0].max()
        label[:, front : front + 6, z + 8 : z + 11] = l4
        label[x, 2:5, z : z + 4] = l4
        after = flat(report(label, affine))
        for key in ("L4.height_middle_mm", "L4.height_anterior_mm", "L4.width_mm", "slip_mm_L3_L4"):
            assert after[key] == pytest.approx(before[key], abs=0.7), key
        assert after["L4.tilt_degrees"] == pytest.approx(before["L4.tilt_degrees"], abs=1.0)


class TestNotMeasured:
    def test_cut_by_the_border(self) -> None:
        label, affine = draw(spine(np.random.default_rng(5)), (3.3, 1.0, 1.0))
        l1 = TABLE.id_of("L1")
        top = int(np.nonzero(label == l1)[2].mean())
        found = report(label[:, :, :top], affine)
        row = next(row for row in found["structures"] if row["name"] == "L1")
        assert [row[key] for key in MEASURES] == [None] * len(MEASURES)
        assert row["voxels"] == (label[:, :, :top] == l1).sum()
        assert {found["not_measured"][f"L1.{key}"] for key in MEASURES} == {CUT}
        assert found["spine"]["lordosis_degrees"] is found["spine"]["slip_mm_L1_L2"] is None
        assert found["not_measured"]["lordosis_degrees"] == f"L1: {CUT}"
        assert found["spine"]["slip_mm_L2_L3"] is not None

    def test_border_of_zeros_in_the_scan(self, tmp_path: Path) -> None:
        """What the scanner did not see is no part of the image, though it lies in the array."""
        label, affine = draw(spine(np.random.default_rng(5)), (3.3, 1.0, 1.0))
        scan = np.full(label.shape, 100, np.int16)
        scan[:, :, int(np.nonzero(label == TABLE.id_of("L1"))[2].mean()) :] = 0
        nibabel.save(nibabel.Nifti1Image(scan, affine), tmp_path / "a.nii.gz")
        found = report(np.where(scan > 0, label, 0), affine, str(tmp_path / "a.nii.gz"))
        assert found["not_measured"]["L1.width_mm"] == CUT

    def test_beside_the_outermost_slice(self) -> None:
        """Of a structure that may go on beside the image neither volume nor place from left to right is known."""
        label, affine = draw(spine(np.random.default_rng(6), ("L4", "L3/L4", "L3")), (3.3, 1.0, 1.0))
        found = report(label[5:-5], affine)
        row = found["structures"][0]
        assert row["volume_ml"] is row["centroid_x_mm"] is None
        assert row["height_middle_mm"] is not None is not row["centroid_y_mm"]
        assert found["not_measured"]["L4.volume_ml"] == BESIDE

    def test_every_gap_has_a_reason(self) -> None:
        label, affine = draw(spine(np.random.default_rng(6), ("L4", "L3/L4", "L3")), (3.3, 1.0, 1.0))
        found = report(label, affine)
        values = flat(found)
        assert set(found["spine"]) == set(columns(TABLE))
        assert {key for key, value in values.items() if value is None} == set(found["not_measured"])
        assert found["not_measured"]["lordosis_degrees"] == "L1 is not labelled"
        assert found["not_measured"]["disc_signal_L3_L4"] == "no scan was read beside the label map"
        assert POSTERIOR in found["not_measured"]

    def test_do_not_use(self) -> None:
        """Upside down: nothing is measured."""
        label, affine = draw(spine(np.random.default_rng(6)), (3.3, 1.0, 1.0))
        found = report(label[:, :, ::-1], affine)
        assert found["verdict"] == "do not use"
        assert {value for value in flat(found).values()} == {None}
        assert set(found["not_measured"]) == set(flat(found))

    def test_a_few_voxels(self) -> None:
        label = np.zeros((5, 40, 40), np.uint8)
        label[2, 20:22, 20:22] = TABLE.id_of("L3")
        label[[0, 4], 10, 30] = TABLE.id_of("L2")  # nothing of it in its middle slices
        found = report(label, np.eye(4))
        assert [row["width_mm"] for row in found["structures"]] == [None, None]
        assert found["structures"][0]["volume_ml"] == 0.004


class TestSacrum:
    def test_lordosis_and_slip_to_its_endplate(self) -> None:
        """A drawn patient's: its endplate goes on as that of the disc above it."""
        _, label, affine = make_phantom(3, 1, shape_hw=(300, 150), pixel_mm=1.0)
        found = report(np.where(label == 255, 0, label), affine)
        disc = next(row for row in found["structures"] if row["name"] == "L5/S")
        assert disc["tilt_degrees"] < -15
        assert 2 < found["spine"]["lordosis_L1_S1_degrees"] - found["spine"]["lordosis_degrees"] < 35
        assert abs(found["spine"]["slip_mm_L5_S"]) < 6
        assert found["not_measured"]["S.width_mm"] in (SACRUM, CUT)


class TestSignal:
    @pytest.fixture
    def scan(self, tmp_path: Path) -> tuple[np.ndarray, np.ndarray, Path]:
        label, affine = draw(spine(np.random.default_rng(8)), (3.3, 1.0, 1.0))
        grey = np.full(label.shape, 7, np.int16)
        for name, value in {"L5/S": 50, "L5": 200, "L4/L5": 90, "L4": 100, "L3/L4": 300, "L3": 300}.items():
            grey[label == TABLE.id_of(name)] = value
        nibabel.save(nibabel.Nifti1Image(grey, affine), tmp_path / "a.nii.gz")
        return label, affine, tmp_path / "a.nii.gz"

    def test_value(self, scan: Any) -> None:
        """By hand: 90 / ((200 + 100) / 2); of L5/S the vertebra above alone."""
        label, affine, path = scan
        found = report(label, affine, str(path))["spine"]
        assert (found["disc_signal_L4_L5"], found["disc_signal_L5_S"]) == (0.6, 0.25)
        assert found["disc_signal_L3_L4"] == 1.5

    def test_other_grid_and_no_scan(self, scan: Any) -> None:
        label, affine, path = scan
        moved = affine + np.array([[0, 0, 0, 9.0], *np.zeros((3, 4))])
        words = report(label, moved, str(path))["not_measured"]["disc_signal_L4_L5"]
        assert words == "the label map is not on the grid of its scan"
        path.write_bytes(b"no scan")
        assert report(label, affine, str(path))["not_measured"]["disc_signal_L4_L5"] == "the scan cannot be read"

    def test_values_without_a_zero(self, scan: Any) -> None:
        label, affine, path = scan
        nibabel.save(nibabel.Nifti1Image(np.full(label.shape, -5, np.int16), affine), path)
        words = report(label, affine, str(path))["not_measured"]["disc_signal_L4_L5"]
        assert words == "the grey values are not positive, so they have no ratio"


def test_keys_of_an_outline_are_measures() -> None:
    assert set(OF_OUTLINE) < set(MEASURES)
