"""`benchmark verdicts`: how it makes scans wrong, and its table; the labelling itself is replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from scripts.__main__ import main
from scripts.tools.reliability import verdicts
from scripts.tools.reliability.verdicts import Made, canonical, other_names, ways
from tests.spines import PIR, Spine

AFFINE = np.diag([4.0, 1.0, 2.0, 1.0])


def ramp(order: int = 1) -> Made:
    """Grey values equal to the row; the spine lies in rows 20 to 70 of 100."""
    array = np.broadcast_to(np.arange(100, dtype=np.float32), (6, 40, 100)).copy()
    return Made(array, AFFINE, 20, 70, order)


def made(way: str) -> tuple[np.ndarray, np.ndarray]:
    return ways(np.random.default_rng(0))[way][0](ramp())


class TestWays:
    @pytest.mark.parametrize(("percent", "rows"), [(20, 10), (40, 20), (60, 30)])
    def test_crops(self, percent: int, rows: int) -> None:
        """The upper part begins in the spine and keeps the image above it; the place of every voxel stays."""
        array, affine = made(f"upper {percent} % of the spine")
        assert (array[0, 0, 0], array.shape[2]) == (70 - rows, 30 + rows)
        assert affine[2, 3] == 2.0 * (70 - rows)
        array, affine = made(f"lower {percent} % of the spine")
        assert (array[0, 0, 0], array[0, 0, -1]) == (0, 20 + rows - 1)
        assert np.array_equal(affine, AFFINE)

    def test_sizes(self) -> None:
        for way, factor in (("half as large, as a cervical spine", 0.5), ("twice as large", 2.0)):
            array, affine = made(way)
            assert np.array_equal(array, ramp().array)
            assert np.diag(affine).tolist() == [4 * factor, factor, 2 * factor, 1]

    @pytest.mark.parametrize(("way", "spacing"), [("axial slices", (1, 1, 4)), ("coronal slices", (1, 4, 1))])
    def test_other_planes(self, way: str, spacing: tuple[int, ...]) -> None:
        """24 x 40 x 200 mm at the new spacing."""
        array, affine = made(way)
        assert array.shape == tuple(np.array([24, 40, 200]) // spacing)
        assert np.linalg.norm(affine[:3, :3], axis=0) == pytest.approx(spacing)
        assert array[0, 0, 0] < array[0, 0, -1]

    def test_others(self) -> None:
        assert made("two spines, one above the other")[0][0, 0].tolist() == [*range(100), *range(100)]
        assert made("upside down")[0][0, 0, 0] == 99
        padded, affine = made("padded with zeros")
        assert padded.shape == (6, 60, 150)
        assert padded[0, 10, 25 + 7] == 7
        assert affine[:3, 3].tolist() == [0, -10, -50]
        noise = made("noise")[0]
        assert noise.shape == (6, 40, 100)
        assert abs(np.corrcoef(noise.ravel(), ramp().array.ravel())[0, 1]) < 0.05

    def test_label_maps_stay_class_ids(self) -> None:
        label = Made(
            np.repeat(np.array([0, 7], np.uint8), 50)[None, None].repeat(6, 0).repeat(40, 1), AFFINE, 50, 99, 0
        )
        array, _ = ways(np.random.default_rng(0))["axial slices"][0](label)
        assert set(np.unique(array)) == {0, 7}

    def test_what_no_network_can_name_is_never_wanted_ok(self) -> None:
        wanted = {way: wish for way, (_, wish) in ways(np.random.default_rng(0)).items()}
        assert {way for way, wish in wanted.items() if wish != "not ok"} == {
            "lower 40 % of the spine",
            "lower 60 % of the spine",
            "padded with zeros",
        }


def test_other_names() -> None:
    label = Spine().draw()
    assert not other_names(label, label)
    assert other_names(np.where(label > 0, label % 19 + 1, 0), label)
    assert other_names(np.zeros_like(label), label)
    assert other_names(label[1:], label)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of two scans, and a network that labels every scan with its own values; "b" is never ok."""
    for name in ("a", "b"):
        (tmp_path / "scans").mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(Spine().draw(), PIR), tmp_path / "scans" / f"{name}.nii.gz")

    def label(scans: Path, out: Path, models: Path) -> None:
        assert models == tmp_path / "models"
        for path in sorted(scans.rglob("*.nii.gz")):
            name = "_".join(path.relative_to(scans).parts).removesuffix(".nii.gz")
            if name.startswith("noise"):
                continue  # a scan that cannot be labelled
            out.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.load(path), out / f"{name}_seg.nii.gz")
            bad = name.endswith("b") or name.startswith("upside")
            report = {"verdict": "check levels" if bad else "ok", "reasons": ["Look."] if bad else []}
            (out / f"{name}_levels.json").write_text(json.dumps(report), encoding="utf-8")

    (tmp_path / "models").mkdir()
    settings = {"image_size": [96, 48], "pixel_mm": 3.1, "structure_sizes": {"cases": 22}}
    (tmp_path / "models/model.json").write_text(json.dumps(settings), encoding="utf-8")
    monkeypatch.setattr(verdicts, "_label", label)
    return tmp_path


def run(folder: Path, **more: Any) -> str:
    words = ["--ckpt-dir", folder / "models", "--data", folder / "scans", "--out", folder / "out"]
    assert main(["benchmark", "verdicts", *map(str, words)]) == 0
    return (folder / "out/verdicts.md").read_text(encoding="utf-8")


def test_table(command: Path) -> None:
    page = run(command)
    rows = {
        cells[1].strip(): [c.strip() for c in cells[2:-1]]
        for line in page.splitlines()
        if len(cells := line.split("|")) > 5
    }
    assert rows["untouched"] == ["ok", "2", "1", "1", "0", "0", "0", "Look."]
    assert rows["noise"] == ["not ok", "2", "0", "0", "0", "2", "0", ""]
    assert rows["upside down"][2:4] == ["0", "2"]
    assert rows["upper 20 % of the spine"][2:] == ["1", "1", "0", "0", "0", "Look."]
    assert "trained on 22 labelled volumes, on slices of 96 x 48 pixels of 3.1 mm" in page
    assert "False alarms: 1 of 2 untouched scans are not ok." in page
    # of eleven ways, noise is not labelled and upside down not ok: nine are ok for one of two scans
    ways_not_ok = [row for row in rows.values() if row[0] == "not ok"]
    assert f"Passed as ok: {len(ways_not_ok) - 2} of {2 * len(ways_not_ok)} scans" in page


def test_canonical() -> None:
    array, affine = canonical(Spine().draw(), PIR)
    assert nibabel.aff2axcodes(affine) == ("R", "A", "S")
    assert array.shape == (10, 80, 260)
