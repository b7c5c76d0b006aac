from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import pytest
import torch
import yaml

from scripts.data.datalist import DataError
from scripts.data.output_folder import OutputFolder
from scripts.data.prepare.label_names import slicer_or_snap
from scripts.inference import start as labelling_runs
from tests.small_bundle import cause
from tests.tiny import write_volume


@pytest.fixture(autouse=True)
def same_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs set how errors are shown; put it back."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


class TestStartInference:
    @pytest.fixture
    def workflow(self, tmp_path: Path) -> Any:
        """Call `start_inference` as a bundle does, with these scans."""

        def call(scans: list[str]) -> None:
            path = tmp_path / "inference.yaml"
            outputs = {"_target_": "scripts.data.output_folder.OutputFolder", "folder": str(tmp_path / "out")}
            component = {"_target_": "scripts.inference.start.start_inference", "outputs": outputs}
            component |= {"ckpt_path": str(tmp_path / "model.pt"), "data": "scans"}
            content = {"scans": [{"image": scan} for scan in scans], "run": [component]}
            path.write_text(yaml.safe_dump(content), encoding="utf-8")
            try:
                monai.bundle.run("run", config_file=str(path), logging_file=False)
            except RuntimeError as error:
                raise cause(error) from None

        return call

    def test_files(self, workflow: Any, tmp_path: Path) -> None:
        torch.save({}, tmp_path / "model.pt")
        workflow([write_volume(tmp_path / "a.nii.gz", np.arange(8000, dtype=np.int16).reshape(20, 20, 20))])
        names = json.loads((tmp_path / "out" / "labels.json").read_text(encoding="utf-8"))
        assert (names["0"], names["2"], len(names)) == ("background", "L5", 20)
        rows = [row.split() for row in (tmp_path / "out" / "colours.ctbl").read_text(encoding="utf-8").splitlines()]
        assert [row[0] for row in rows] == [str(i) for i in range(20)]
        assert all(len(row) == 6 and all(0 <= int(value) <= 255 for value in row[2:]) for row in rows)
        assert (rows[0][-1], rows[2][1], rows[2][-1]) == ("0", "L5", "255")
        snap = slicer_or_snap(tmp_path / "out" / "itksnap_labels.txt")
        assert {str(value): name for value, name in snap.items()} == {**names, "0": "Clear Label"}
        assert '2 230 159 0 1 1 1 "L5"' in (tmp_path / "out" / "itksnap_labels.txt").read_text(encoding="utf-8")

    def test_exception(self, workflow: Any, tmp_path: Path) -> None:
        with pytest.raises(
            DataError, match=r"there is no trained network .*model.pt; train one with configs/train.yaml"
        ):
            workflow(["a.nii.gz"])
        (tmp_path / "model.pt").write_bytes(b"x")
        with pytest.raises(DataError, match=r"model.pt cannot be read, it is damaged or holds more than weights"):
            workflow(["a.nii.gz"])
        torch.save({}, tmp_path / "model.pt")
        with pytest.raises(DataError, match="no scans were given; add --input_dir FOLDER"):
            workflow([])
        with pytest.raises(DataError, match=r"2 problems with the data:\n.*a.nii.gz: .*\n.*b.nii.gz: "):
            workflow([str(tmp_path / "a.nii.gz"), str(tmp_path / "b.nii.gz")])
        assert not (tmp_path / "out").exists()

    def test_bad_scans_are_put_aside(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        good = write_volume(tmp_path / "a.nii.gz", np.arange(8000, dtype=np.int16).reshape(20, 20, 20))
        (tmp_path / "b.nii").touch()
        entries = [{"image": str(tmp_path / "b.nii"), "case": "b"}, {"image": good, "case": "a"}]
        entries.append({"image": good, "case": "n" * 240})
        excluded = labelling_runs._exclude_faulty(entries, keep_on=False)
        assert entries == [{"image": good, "case": "a"}]
        assert excluded[0].message == "the file is empty; copy it again"
        assert "has too long a name" in excluded[1].message
        assert "2 scans of 3 cannot be labelled:" in caplog.text
        with pytest.raises(DataError, match=r"^2 scans not labelled, all others are:\n.*b.nii: the file is empty"):
            labelling_runs.finish_inference(excluded, OutputFolder(tmp_path / "out"))
        labelling_runs.finish_inference([], OutputFolder(tmp_path / "out"))
        with pytest.raises(DataError, match=r"b.nii: the file is empty"):
            labelling_runs._exclude_faulty([{"image": str(tmp_path / "b.nii"), "case": "b"}], keep_on=False)
        share = [{"image": str(tmp_path / "b.nii"), "case": "b"}]
        assert len(labelling_runs._exclude_faulty(share, keep_on=True)) == 1
        assert share == []

    def test_weights_for_other_classes(self, workflow: Any, tmp_path: Path) -> None:
        (tmp_path / "model.pt").write_bytes(b"x")
        (tmp_path / "model.json").write_text(json.dumps({"classes": ["background", "cord"]}), encoding="utf-8")
        with pytest.raises(DataError, match="was trained for the classes background, cord, the class table has"):
            workflow(["a.nii.gz"])
