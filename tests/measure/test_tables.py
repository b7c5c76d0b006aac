from __future__ import annotations

import csv
import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from scripts.data.datalist import DataError
from scripts.data.output_folder import OutputFolder
from scripts.measure.tables import COLUMNS, finish_folder, scans_csv, structures_csv


def report(scan: str, lordosis: float | None = 41.5) -> dict[str, Any]:
    row = {
        "name": "L4",
        "class_id": 3,
        "voxels": 7,
        "width_mm": 33.1,
        "volume_ml": None,
        "confidence": None,
        "flag": "",
    }
    return {
        "verdict": "ok",
        "reasons": ["One, two.", "Three."],
        "source": f"/patients/Doe/{scan}.nii",
        "structures": [row],
        "spine": {"lordosis_degrees": lordosis, "levels_posterior": 0.98},
    }


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def write(folder: Path, *scans: str) -> None:
    outputs = OutputFolder(folder)
    for scan in scans:
        outputs.write(f"{scan}_levels.json", json.dumps(report(scan)).encode(), f"/in/{scan}.nii")


class TestText:
    def test_columns(self) -> None:
        """As other programs rely on them."""
        columns = (
            "scan,class_id,class,voxels,volume_ml,height_anterior_mm,height_middle_mm,height_posterior_mm,width_mm,"
            "centroid_x_mm,centroid_y_mm,centroid_z_mm,tilt_degrees,components,confidence,flag"
        )
        assert structures_csv({"a": report("a")}).splitlines() == [columns, "a,3,L4,7,,,,,33.1,,,,,,,"]
        assert ",".join(COLUMNS) == columns

    def test_scans(self) -> None:
        text = scans_csv({"a": report("a"), "b": report("b", None)})
        head = "scan,verdict,reasons,lordosis_degrees,levels_posterior"
        assert text.splitlines() == [head, 'a,ok,"One, two. Three.",41.5,0.98', 'b,ok,"One, two. Three.",,0.98']
        assert "Doe" not in text

    def test_reports_of_earlier_versions(self) -> None:
        old = {key: value for key, value in report("a").items() if key != "spine"}
        assert scans_csv({"a": old}) == 'scan,verdict,reasons\na,ok,"One, two. Three."\n'


class TestFinishFolder:
    def test_of_all_reports_that_the_manifest_names(self, tmp_path: Path) -> None:
        """Those of earlier runs too; not what somebody else laid there, nor what was taken away."""
        write(tmp_path, "b", "gone")
        finish_folder(OutputFolder(tmp_path))
        write(tmp_path, "a")
        (tmp_path / "gone_levels.json").unlink()
        (tmp_path / "foreign_levels.json").write_text(json.dumps(report("foreign")), encoding="utf-8")
        finish_folder(OutputFolder(tmp_path))
        for name in ("structures.csv", "scans.csv"):
            assert [row["scan"] for row in rows(tmp_path / name)] == ["a", "b"]

    def test_nothing_to_tell(self, tmp_path: Path) -> None:
        finish_folder(OutputFolder(tmp_path))
        assert list(tmp_path.iterdir()) == []

    def test_a_table_by_hand_is_kept(self, tmp_path: Path) -> None:
        write(tmp_path, "a")
        (tmp_path / "scans.csv").write_text("mine", encoding="utf-8")
        with pytest.raises(DataError, match=r"scans.csv was not written by this program"):
            finish_folder(OutputFolder(tmp_path))
        assert (tmp_path / "scans.csv").read_text(encoding="utf-8") == "mine"

    def test_damaged_report(self, tmp_path: Path) -> None:
        write(tmp_path, "a")
        (tmp_path / "a_levels.json").write_text("{}", encoding="utf-8")
        with pytest.raises(DataError, match=r"a_levels.json is damaged; remove it, and label"):
            finish_folder(OutputFolder(tmp_path))

    def test_writers_at_the_same_time(self, tmp_path: Path) -> None:
        """Whoever ends last, the tables have the scans of all."""

        def work(part: int) -> None:
            write(tmp_path, *(f"s{part}{n}" for n in range(5)))
            finish_folder(OutputFolder(tmp_path))

        workers = [threading.Thread(target=work, args=(part,)) for part in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert [row["scan"] for row in rows(tmp_path / "scans.csv")] == [f"s{p}{n}" for p in range(4) for n in range(5)]
