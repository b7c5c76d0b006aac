"""The grid that follows from scans and labels."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.data.datalist import load_datalist, write_datalist
from scripts.data.prepare.fingerprint import (
    MOST_PIXELS,
    SAMPLE,
    Fingerprint,
    add_grid,
    fingerprint,
    fitting_grid,
    read_fingerprint,
)


def write(path: Path, array: np.ndarray, affine: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), affine), path)
    return str(path)


def case(folder: Path, name: str, bounds: tuple[int, int, int, int], axes: str = "RAS") -> dict[str, str]:
    """A scan of 5 x 100 x 200 voxels of 4 x 2 x 1.5 mm, L4 from `bounds`: front to back and foot to head."""
    affine = np.diag([4.0, 2.0, 1.5, 1.0])
    label = np.zeros((5, 100, 200))
    label[:, bounds[0] : bounds[1], bounds[2] : bounds[3]] = 3
    image = np.arange(label.size).reshape(label.shape) % 500
    now, wanted = nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(axes)
    turn = nibabel.orientations.ornt_transform(now, wanted)
    turned = [nibabel.Nifti1Image(of.astype(np.int16), affine).as_reoriented(turn) for of in (image, label)]
    paths = [folder / "images" / f"{name}.nii.gz", folder / "labels" / f"{name}.nii.gz"]
    for path, of in zip(paths, turned, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(of, path)
    return {"image": str(paths[0]), "label": str(paths[1]), "case": name}


def listed(folder: Path, *entries: dict[str, str]) -> Path:
    sections = {"training": list(entries), "unlabelled": [], "validation": [], "test": []}
    return write_datalist(folder / "D.json", sections)


class TestFingerprint:
    @pytest.mark.parametrize("axes", ["RAS", "LPS", "ASR", "SPL"])
    def test_value(self, tmp_path: Path, axes: str) -> None:
        """Voxels 60 to 179 of 200 reach 80 voxels of 1.5 mm from the middle; 40 to 74 of 100 25 of 2 mm."""
        path = listed(tmp_path, case(tmp_path, "a", (40, 75, 60, 180), axes))
        assert fingerprint(load_datalist(path)) == Fingerprint(264.0, 132.0, 2.0)

    def test_width_of_the_labels(self, tmp_path: Path) -> None:
        path = listed(tmp_path, case(tmp_path, "a", (10, 60, 60, 140)), case(tmp_path, "b", (45, 55, 80, 120)))
        assert fingerprint(load_datalist(path)) == Fingerprint(132.0, 176.0, 2.0)

    def test_no_more_than_the_scan(self, tmp_path: Path) -> None:
        path = listed(tmp_path, case(tmp_path, "a", (0, 100, 0, 200)))
        assert fingerprint(load_datalist(path)) == Fingerprint(300.0, 200.0, 2.0)

    def test_what_is_no_structure_does_not_count(self, tmp_path: Path) -> None:
        entry = case(tmp_path, "a", (40, 75, 60, 180))
        label = nibabel.load(entry["label"])
        array = np.asarray(label.dataobj).copy()
        array[:, 0, 0], array[:, -1, -1] = 100, 255
        write(Path(entry["label"]), array, label.affine)
        mapping = {"map": {"0": 0, "3": "L4", "100": 0, "255": "ignore"}}
        path = write_datalist(tmp_path / "D.json", {"training": [entry]}, label_map=mapping)
        assert fingerprint(load_datalist(path)) == Fingerprint(264.0, 132.0, 2.0)

    def test_test_patients_are_not_looked_at(self, tmp_path: Path) -> None:
        entries = [case(tmp_path, "a", (40, 75, 60, 180)), case(tmp_path, "b", (0, 100, 0, 200))]
        path = write_datalist(tmp_path / "D.json", {"training": entries[:1], "test": entries[1:]})
        assert fingerprint(load_datalist(path)) == Fingerprint(264.0, 132.0, 2.0)

    def test_unreadable(self, tmp_path: Path) -> None:
        good, bad = case(tmp_path, "a", (40, 75, 60, 180)), case(tmp_path, "b", (0, 100, 0, 200))
        Path(bad["image"]).write_bytes(b"no scan")
        assert fingerprint(load_datalist(listed(tmp_path, good, bad))) == Fingerprint(264.0, 132.0, 2.0)
        assert fingerprint(load_datalist(listed(tmp_path, bad))) is None

    def test_a_sample_is_enough(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        entry = case(tmp_path, "a", (40, 75, 60, 180))
        seen: list[str] = []
        module = "scripts.data.prepare.fingerprint"
        monkeypatch.setattr(f"{module}._reach", lambda entry, datalist: seen.append(entry["case"]) or (100.0, 50.0))
        fingerprint(load_datalist(listed(tmp_path, *({**entry, "case": str(n)} for n in range(100)))))
        assert (len(seen), seen[0]) == (SAMPLE, "0")
        assert int(seen[-1]) > 90


class TestFittingGrid:
    def test_defaults(self) -> None:
        """The scans of SPIDER's SPACE series, 301 x 241 mm, get about the grids of `configs/`."""
        found = Fingerprint(300.8, 150.4, 0.94)
        assert fitting_grid(found, MOST_PIXELS["cuda"]) == {"image_size": [256, 128], "pixel_mm": 1.18}
        assert fitting_grid(found, MOST_PIXELS["cpu"]) == {"image_size": [192, 96], "pixel_mm": 1.57}

    def test_not_finer_than_the_scans(self) -> None:
        assert fitting_grid(Fingerprint(200.0, 100.0, 2.0), 256 * 128) == {"image_size": [112, 64], "pixel_mm": 2.0}

    @pytest.mark.parametrize(
        ("height", "width", "pixel", "most"),
        list(itertools.product((80.0, 301.0, 700.0), (60.0, 151.0), (0.3, 0.94, 3.0), (192 * 96, 256 * 128, 16))),
    )
    def test_properties(self, height: float, width: float, pixel: float, most: int) -> None:
        """Multiples of 16, within the bound, all in view, not finer than the scans, and no finer grid is possible."""
        grid = fitting_grid(Fingerprint(height, width, pixel), most)
        size, mm = grid["image_size"], grid["pixel_mm"]
        assert all(side % 16 == 0 and side > 0 for side in size)
        assert size[0] * size[1] <= max(most, 256)
        assert size[0] * mm >= height - 0.01
        assert size[1] * mm >= width - 0.01
        assert mm >= pixel
        finer = round(mm - 0.01, 2)
        if finer >= pixel:
            needed = [16 * int(np.ceil(of / finer / 16 - 1e-9)) for of in (height, width)]
            assert needed[0] * needed[1] > max(most, 256)


class TestAddGrid:
    def test_key(self, tmp_path: Path) -> None:
        path = listed(tmp_path, case(tmp_path, "a", (40, 75, 60, 180)))
        before = json.loads(path.read_text(encoding="utf-8"))
        (line,) = add_grid(path)
        after = json.loads(path.read_text(encoding="utf-8"))
        assert after.pop("grid") == {
            "image_size": [144, 80], "pixel_mm": 2.0, "height_mm": 264.0, "width_mm": 132.0, "scan_pixel_mm": 2.0,
        }  # fmt: skip
        assert after == before
        assert "image_size [144, 80], pixel_mm 2.0" in line
        assert load_datalist(path).sections["training"]

    def test_read(self, tmp_path: Path) -> None:
        path = listed(tmp_path, case(tmp_path, "a", (40, 75, 60, 180)))
        assert read_fingerprint(path) == Fingerprint(264.0, 132.0, 2.0)  # none in the list
        content = json.loads(path.read_text(encoding="utf-8"))
        content["grid"] = {"height_mm": 100, "width_mm": 50, "scan_pixel_mm": 1}
        path.write_text(json.dumps(content), encoding="utf-8")
        assert read_fingerprint(path) == Fingerprint(100.0, 50.0, 1.0)
