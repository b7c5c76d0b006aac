"""Files that somebody made are not replaced: label maps by inference, results of training by another training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.phantom.volume import make_phantom
from tests.scan_files import write_dicom
from tests.small_bundle import cause

MEND = "; name another --output_dir, or give --overwrite True to replace it"


@pytest.fixture
def scans(datalist: Path, tmp_path: Path) -> Callable[..., Path]:
    """`scans("patA/S03.nii.gz", ...)`: a folder with copies of a phantom."""

    def copy(*names: str) -> Path:
        for name in names:
            (tmp_path / "scans" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(datalist.parent / "images/phantom_0001.nii.gz", tmp_path / "scans" / name)
        return tmp_path / "scans"

    return copy


@pytest.fixture
def label(run_bundle: Callable[..., None], trained: SimpleNamespace, tmp_path: Path) -> Callable[..., None]:
    """Label scans into the folder `out`."""

    def run(folder: Path, configs: Sequence[str] = (), **overrides: Any) -> None:
        given = {"input_dir": folder, "output_dir": tmp_path / "out", "ckpt_dir": trained.models, **overrides}
        run_bundle("inference", ["inference.yaml", *configs], **given)

    return run


def sentence(run: Callable[..., Any], *args: Any, **overrides: Any) -> str:
    """With which a run refuses."""
    with pytest.raises(RuntimeError) as caught:  # noqa: PT011 - MONAI's words around ours; ours are compared
        run(*args, **overrides)
    return str(cause(caught.value))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestInference:
    def test_rerun_over_its_own_files(self, label: Any, scans: Any, tmp_path: Path) -> None:
        label(scans("S03.nii.gz"))
        before = (tmp_path / "out/S03_seg.nii.gz").read_bytes()
        label(scans("S03.nii.gz"))
        assert (tmp_path / "out/S03_seg.nii.gz").read_bytes() == before
        report = json.loads((tmp_path / "out/S03_levels.json").read_text(encoding="utf-8"))
        assert report["source"] == str(tmp_path / "scans/S03.nii.gz")
        manifest = json.loads((tmp_path / "out/manifest.json").read_text(encoding="utf-8"))["files"]
        of_the_scan = {"S03_seg.nii.gz", "S03_levels.json", "pictures/S03.jpg"}
        of_all = {"structures.csv", "scans.csv", "index.html"}
        assert set(manifest) == of_the_scan | of_all | {"labels.json", "colours.ctbl", "itksnap_labels.txt"}
        assert manifest["S03_seg.nii.gz"]["source"] == str(tmp_path / "scans/S03.nii.gz")

    def test_file_made_by_hand(self, label: Any, scans: Any, tmp_path: Path) -> None:
        """Before the first scan: nothing is written at all."""
        folder = scans("S01.nii.gz", "S03.nii.gz")
        (tmp_path / "out").mkdir()
        (tmp_path / "out/S03_seg.nii.gz").write_bytes(b"by hand")
        message = f"{tmp_path / 'out/S03_seg.nii.gz'} was not written by this program{MEND}"
        assert sentence(label, folder) == message
        assert files(tmp_path / "out") == {"S03_seg.nii.gz": b"by hand"}
        label(folder, overwrite=True)
        assert (tmp_path / "out/S03_seg.nii.gz").read_bytes() != b"by hand"

    def test_corrected_label_map(self, label: Any, scans: Any, tmp_path: Path) -> None:
        label(scans("S03.nii.gz"))
        (tmp_path / "out/S03_seg.nii.gz").write_bytes(b"corrected")
        before = files(tmp_path / "out")
        message = f"{tmp_path / 'out/S03_seg.nii.gz'} was changed since this program wrote it{MEND}"
        assert sentence(label, scans("S03.nii.gz")) == message
        assert files(tmp_path / "out") == before

    @pytest.mark.parametrize("configs", [(), ("label_datasets.yaml",)])
    def test_same_name_in_two_folders(self, label: Any, scans: Any, tmp_path: Path, configs: Sequence[str]) -> None:
        folder = scans("patA/S03.nii.gz", "patB/S03.nii.gz")
        label(folder / "patA", configs)
        before = files(tmp_path / "out")
        message = sentence(label, folder / "patB", configs)
        assert message.startswith(f"{tmp_path / 'out/S03_'}")
        assert message.split("; ")[0].endswith(
            f" was made from {folder / 'patA/S03.nii.gz'}, and {folder / 'patB/S03.nii.gz'} has the same name"
        )
        assert files(tmp_path / "out") == before
        label(folder, configs)  # names by their folders
        made = {path.name for path in (tmp_path / "out").glob("*_seg.nii.gz")}
        assert made == {"S03_seg.nii.gz", "patA_S03_seg.nii.gz", "patB_S03_seg.nii.gz"}
        table = (tmp_path / "out/scans.csv").read_text(encoding="utf-8").splitlines()  # of both runs
        assert [line.split(",")[0] for line in table] == ["scan", "S03", "patA_S03", "patB_S03"]

    def test_equal_names_in_one_batch(self, label: Any, scans: Any, tmp_path: Path) -> None:
        folder = scans("a/b.nii.gz", "a_b.nii.gz")
        assert sentence(label, folder).startswith(
            f"{folder / 'a/b.nii.gz'} and {folder / 'a_b.nii.gz'} have the same name, a_b; rename all but one"
        )
        assert not (tmp_path / "out").exists()

    def test_large_folder_keeps_what_was_made_by_hand(self, label: Any, scans: Any, tmp_path: Path) -> None:
        folder = scans("S01.nii.gz", "S03.nii.gz")
        (tmp_path / "out").mkdir()
        (tmp_path / "out/S03_seg.nii.gz").write_bytes(b"by hand")
        label(folder, ["label_datasets.yaml"])
        assert (tmp_path / "out/S03_seg.nii.gz").read_bytes() == b"by hand"
        assert (tmp_path / "out/S01_seg.nii.gz").is_file()

    def test_dicom_series(self, label: Any, trained: Any, tmp_path: Path) -> None:
        itk = pytest.importorskip("itk", reason="DICOM is read with itk")
        array, _, affine = make_phantom(5, 1, shape_hw=(40, 32), pixel_mm=7.0)
        (tmp_path / "scans/study").mkdir(parents=True)
        write_dicom(itk, array, affine, tmp_path / "scans/study/series")
        for _ in range(2):  # a rerun, too
            label(tmp_path / "scans")
        report = json.loads((tmp_path / "out/study_series_levels.json").read_text(encoding="utf-8"))
        assert report["source"] == str(tmp_path / "scans/study/series")


class TestEvaluating:
    def test_no_label_is_replaced_by_its_prediction(
        self, run_bundle: Any, trained: SimpleNamespace, edited: Any, datalist: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "own").mkdir()
        first, *_ = json.loads(datalist.read_text(encoding="utf-8"))["test"]
        mine = tmp_path / "own/x_seg.nii.gz"
        shutil.copy(datalist.parent / first["label"], mine)
        before = mine.read_bytes()
        path = edited(test=lambda found: [{**found[0], "label": str(mine), "case": "x"}])
        given = {"datalist": path, "output_dir": tmp_path / "own", "ckpt_dir": trained.models, "pictures": False}
        words = "is a scan or label that this run reads, or that the datalist names"
        evaluation = ["inference.yaml", "evaluate.yaml"]
        assert sentence(run_bundle, "evaluating", evaluation, **given) == f"{mine} {words}{MEND}"
        assert files(tmp_path / "own") == {"x_seg.nii.gz": before}

    def test_scores_of_another_program(
        self, run_bundle: Any, trained: SimpleNamespace, datalist: Path, tmp_path: Path
    ) -> None:
        given = {"datalist": datalist, "output_dir": tmp_path / "out", "ckpt_dir": trained.models, "pictures": False}
        evaluation = ["inference.yaml", "evaluate.yaml"]
        for _ in range(2):  # its own ones it replaces
            run_bundle("evaluating", evaluation, **given)
        (tmp_path / "out/summary.json").write_text("{}", encoding="utf-8")
        message = sentence(run_bundle, "evaluating", evaluation, **given)
        assert message == f"{tmp_path / 'out/summary.json'} was changed since this program wrote it{MEND}"

    def test_picture_that_somebody_made(
        self, run_bundle: Any, trained: SimpleNamespace, datalist: Path, tmp_path: Path
    ) -> None:
        evaluation = ["inference.yaml", "evaluate.yaml"]
        given = {"datalist": datalist, "output_dir": tmp_path / "out", "ckpt_dir": trained.models}
        for _ in range(2):  # its own ones it replaces
            run_bundle("evaluating", evaluation, **given)
        (picture,) = (tmp_path / "out/pictures").iterdir()
        manifest = json.loads((tmp_path / "out/manifest.json").read_text(encoding="utf-8"))["files"]
        source = json.loads(datalist.read_text(encoding="utf-8"))["test"][0]["image"]
        assert manifest[f"pictures/{picture.name}"]["source"] == str(datalist.parent / source)
        picture.write_bytes(b"with an arrow")
        before = files(tmp_path / "out")
        message = sentence(run_bundle, "evaluating", evaluation, **given)
        assert message == f"{picture} was changed since this program wrote it{MEND}"
        assert files(tmp_path / "out") == before


class TestTraining:
    """A second training into the folders of a finished one."""

    WAYS_OUT = "go on with that run by --resume True, replace what it left by --overwrite True, or name another"

    def test_second_one_is_refused(
        self, train: Any, trained: SimpleNamespace, stage1: SimpleNamespace, tmp_path: Path
    ) -> None:
        shutil.copytree(trained.folder, tmp_path / "run")
        shutil.copytree(trained.models, tmp_path / "models")
        before = files(tmp_path)
        for overlays in ([], ["methods/supervised.yaml"]):  # also with another method
            message = sentence(train, tmp_path, overlays)
            path = tmp_path / "models/model.pt"
            assert message == f"{path} is of an earlier run; {self.WAYS_OUT} --output_dir and --ckpt_dir"
        message = sentence(train, tmp_path, ckpt_dir=tmp_path / "new")
        assert message == f"{tmp_path / 'run/checkpoint.pt'} is of an earlier run; {self.WAYS_OUT} --output_dir"
        message = sentence(train, tmp_path, output_dir=tmp_path / "new", resume=True)
        assert message.startswith(f"{tmp_path / 'models/model.pt'} is not of this run, which --resume True")
        assert files(tmp_path) == before

    def test_replaced_or_beside(self, train: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        given: dict[str, Any] = {"max_epochs": 1, "ckpt_dir": "$@output_dir + '/models'"}
        supervised = ["methods/supervised.yaml"]
        train(tmp_path, supervised, **given)
        assert f"--ckpt_dir {tmp_path / 'run/models'} " in caplog.text  # the command that uses the result
        first = (tmp_path / "run/models/model.pt").read_bytes()
        train(tmp_path, supervised, **given, seed=1, overwrite=True)
        assert (tmp_path / "run/models/model.pt").read_bytes() != first
        train(tmp_path, supervised, **given, output_dir=tmp_path / "other")
        train(tmp_path, supervised, **given, resume=True)  # which has come to its end

    def test_second_pretraining_is_refused(
        self, run_bundle: Any, stage1: SimpleNamespace, datalist: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(stage1.models / "prompt", tmp_path / "prompt")
        before = files(tmp_path)
        given = {"datalist": datalist, "output_dir": tmp_path / "run", "prompt_model_dir": tmp_path / "prompt"}
        configs = ["pretrain.yaml", "offline_encoders.yaml", "smoke.yaml"]
        message = sentence(run_bundle, "pretraining", configs, **given)
        path = tmp_path / "prompt/model.pt"
        assert message == f"{path} is of an earlier run; {self.WAYS_OUT} --output_dir and --prompt_model_dir"
        assert files(tmp_path) == before
