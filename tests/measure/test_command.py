from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from scripts.__main__ import main
from scripts.data.output_folder import OutputFolder
from scripts.files import nifti_bytes
from scripts.measure.command import find_label_maps
from tests.measure.bodies import TABLE, draw, spine
from tests.measure.test_tables import rows

LABEL, AFFINE = draw(spine(np.random.default_rng(0), ("L4", "L3/L4", "L3")), (4.0, 1.5, 1.5))


def image(array: np.ndarray) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(array, AFFINE)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A folder as labelling leaves it, whose network was sure; its scan is there."""
    grey = np.where(TABLE.id_of("L3/L4") == LABEL, 50, 100).astype(np.int16)
    (tmp_path / "scans").mkdir()
    nibabel.save(image(grey), tmp_path / "scans/anna.nii.gz")
    source, outputs = str(tmp_path / "scans/anna.nii.gz"), OutputFolder(tmp_path / "out")
    structures = [
        {"name": name, "class_id": TABLE.id_of(name), "voxels": 1, "components": 1, "confidence": 0.9, "flag": ""}
        for name in ("L4", "L3/L4", "L3")
    ]
    old = {
        "verdict": "check levels",
        "reasons": ["The network doubts."],
        "source": source,
        "structures": structures,
        "spine": {"levels_posterior": 0.77},
    }
    outputs.write("anna_levels.json", json.dumps(old).encode(), source)
    outputs.write("anna_seg.nii.gz", nifti_bytes(image(LABEL)), source)
    return tmp_path / "out"


def only(folder: Path) -> dict[str, str]:
    (row,) = rows(folder / "scans.csv")
    return row


class TestMeasure:
    def test_untouched(self, labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """What the network said of this very label map holds; measurements and signals are new."""
        assert main(["measure", str(labelled)]) == 0
        row = only(labelled)
        assert (row["verdict"], row["reasons"]) == ("check levels", "The network doubts.")
        assert (row["levels_posterior"], row["disc_signal_L3_L4"]) == ("0.77", "0.5")
        assert {row["confidence"] for row in rows(labelled / "structures.csv")} == {"0.9"}
        assert all(float(row["width_mm"]) > 30 for row in rows(labelled / "structures.csv"))
        assert f"1 measured: {labelled / 'structures.csv'}, {labelled / 'scans.csv'}" in capsys.readouterr().out
        assert 'src="pictures/anna.jpg"' in (labelled / "index.html").read_text(encoding="utf-8")
        assert (labelled / "pictures/anna.jpg").read_bytes().startswith(b"\xff\xd8")

    def test_without_its_scan_there_is_no_picture(self, labelled: Path) -> None:
        (labelled.parent / "scans/anna.nii.gz").unlink()
        assert main(["measure", str(labelled)]) == 0
        assert not (labelled / "pictures").exists()
        assert "There is no picture of this scan." in (labelled / "index.html").read_text(encoding="utf-8")

    def test_corrected(self, labelled: Path) -> None:
        """Of a label map that a person changed the network knows nothing; its scan is known still."""
        changed = LABEL.copy()
        changed[changed == TABLE.id_of("L3")] = TABLE.id_of("L2")
        nibabel.save(image(changed), labelled / "anna_seg.nii.gz")
        before = hashlib.sha256((labelled / "anna_seg.nii.gz").read_bytes()).digest()
        assert main(["measure", str(labelled)]) == 0
        assert [row["class"] for row in rows(labelled / "structures.csv")] == ["L4", "L3/L4", "L2"]
        assert {row["confidence"] for row in rows(labelled / "structures.csv")} == {""}
        row = only(labelled)
        assert row["levels_posterior"] == ""
        assert "L3 and L2/L3 are missing between L3/L4 and L2" in row["reasons"]
        assert hashlib.sha256((labelled / "anna_seg.nii.gz").read_bytes()).digest() == before
        assert main(["measure", str(labelled)]) == 0  # again: still a person's

    def test_plain_folder_with_scans(self, tmp_path: Path, labelled: Path) -> None:
        (tmp_path / "labels").mkdir()
        nibabel.save(image(LABEL), tmp_path / "labels/anna.nii.gz")
        command = [
            "measure",
            str(tmp_path / "labels"),
            "--scans",
            str(tmp_path / "scans"),
            "--out",
            str(tmp_path / "m"),
        ]
        assert main(command) == 0
        assert only(tmp_path / "m")["disc_signal_L3_L4"] == "0.5"
        report = json.loads((tmp_path / "m/anna_levels.json").read_text(encoding="utf-8"))
        assert list(report)[:4] == ["verdict", "reasons", "source", "structures"]
        assert [path.name for path in (tmp_path / "labels").iterdir()] == ["anna.nii.gz"]

    def test_other_values(self, tmp_path: Path) -> None:
        nibabel.save(image(np.where(LABEL > 0, LABEL + 100, 0).astype(np.int16)), tmp_path / "a.nii.gz")
        known: dict[str, Any] = {str(c + 100): TABLE.names[c] for c in np.unique(LABEL).tolist() if c}
        (tmp_path / "map.json").write_text(json.dumps({"map": {"0": "background", **known}}), encoding="utf-8")
        assert main(["measure", str(tmp_path / "a.nii.gz"), "--label-map", str(tmp_path / "map.json")]) == 0
        assert [row["class"] for row in rows(tmp_path / "structures.csv")] == ["L4", "L3/L4", "L3"]


class TestBadInput:
    def said(self, capsys: pytest.CaptureFixture[str], *command: str) -> str:
        assert main(["measure", *command]) == 1
        return capsys.readouterr().err

    def test_others_are_measured(self, labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
        nibabel.save(image(LABEL + 60), labelled / "bad_seg.nii.gz")
        (labelled / "empty_seg.nii.gz").touch()
        words = self.said(capsys, str(labelled))
        assert "2 not measured" in words
        assert "bad_seg.nii.gz: holds the label value 60" in words
        assert "empty_seg.nii.gz: the file is empty" in words
        assert only(labelled)["scan"] == "anna"

    def test_no_label_map(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "there is no label map here" in self.said(capsys, str(tmp_path))
        assert "there is no such folder or file" in self.said(capsys, str(tmp_path / "none"))

    def test_a_foreign_report_is_kept(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        nibabel.save(image(LABEL), tmp_path / "anna_seg.nii.gz")
        (tmp_path / "anna_levels.json").write_text("mine", encoding="utf-8")
        assert "anna_levels.json was not written by this program" in self.said(capsys, str(tmp_path))
        assert (tmp_path / "anna_levels.json").read_text(encoding="utf-8") == "mine"


def test_names(tmp_path: Path) -> None:
    for name in ("a_seg.nii.gz", "p/b_seg.nii.gz", "scan.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(find_label_maps(tmp_path)) == ["a", "p_b"]
    assert list(find_label_maps(tmp_path / "scan.nii.gz")) == ["scan"]
