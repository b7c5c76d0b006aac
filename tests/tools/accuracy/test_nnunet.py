from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from scripts.bundle import launch as bundle_runs
from scripts.bundle.model_file import write_model
from scripts.data.datalist import load_datalist
from scripts.data.prepare.nnunet import DATASET
from scripts.inference.inferers import SlicewiseInferer
from scripts.networks.resunet import ResUNet2d
from scripts.phantom.write import write_phantoms
from scripts.tools.accuracy import nnunet
from scripts.tools.accuracy.nnunet import (
    environment,
    final_checkpoint,
    plans_file,
    predicting,
    set_batch_size,
    trained,
    trained_s,
    training,
    write_slices,
    write_trainer,
)
from scripts.tools.accuracy.subsets import Cell, Source, cell

SIZE = [32, 16]
OVERLAYS = ["smoke.yaml"]
PIXEL_MM = 8.0
INSTALLED = os.environ.get("NNUNET_ENVIRONMENT")


def parse(*line: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    nnunet.add_arguments(parser)
    return parser.parse_args(line)


@pytest.fixture(scope="module")
def datalist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms higher than a training slice, in other axes than ours; the sacrum is shown and not labelled."""
    folder = tmp_path_factory.mktemp("phantoms")
    counts = {"labelled": 2, "unlabelled": 0, "validation": 1, "test": 1}
    return write_phantoms(folder, **counts, shape_hw=(60, 40), pixel_mm=7.0)


@pytest.fixture(scope="module")
def written(datalist: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Cell]:
    """The raw dataset of a cell with one labelled patient: (the row's folder, the cell)."""
    folder = tmp_path_factory.mktemp("row")
    c = cell(Source(None, "auto", datalist), 1, 0, folder)
    write_slices(folder, c, ["test", "unlabelled"], OVERLAYS, SIZE, folder / "cache")
    return folder, c


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Any], Path], None]:
    """What bundle_runs does, in this process."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # a run takes it over

    def run(runs: list[Any], log: Path) -> None:
        for run_id, configs, overrides in runs:
            bundle_runs.runs_here((run_id, configs, {**overrides, "logging_file": False}))

    return run


def slices_of(path: Path) -> np.ndarray:
    """(S, H, W) as nnU-Net's reader gives them."""
    return np.asarray(nibabel.load(path).dataobj).transpose(2, 1, 0)


def scores_in(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class TestWriteSlices:
    def test_training_slices_are_ours(self, written: tuple[Path, Cell]) -> None:
        """Image and label of the labelled patient equal what the slice cache holds."""
        folder, c = written
        (entry,) = load_datalist(c.datalist).sections["training"]
        root = folder / "nnUNet_raw" / DATASET
        (cached,) = [path.parent for path in (folder / "cache").rglob("label.npy")]
        label = slices_of(root / "labelsTr" / f"{entry['case']}.nii.gz")
        assert label.shape[1:] == tuple(SIZE)
        np.testing.assert_array_equal(label, np.load(cached / "label.npy"))
        image = slices_of(root / "imagesTr" / f"{entry['case']}_0000.nii.gz")
        np.testing.assert_array_equal(image, np.load(cached / "image.npy").astype(np.float32))

    def test_scans_to_predict(self, written: tuple[Path, Cell]) -> None:
        """Test and unlabelled patients, their plane whole."""
        folder, c = written
        root = folder / "nnUNet_raw" / DATASET
        sections = load_datalist(c.datalist).sections
        cases = sorted(e["case"] for s in ("test", "unlabelled") for e in sections[s])
        files = sorted((root / "imagesTs").iterdir())
        assert [path.name.removesuffix("_0000.nii.gz") for path in files] == cases
        assert min(slices_of(path).shape[2] for path in files) >= SIZE[1]
        assert min(slices_of(path).shape[1] for path in files) > SIZE[0]


class TestRoundTrip:
    def test_same_as_our_own_inference(
        self, written: tuple[Path, Cell], in_process: Callable[[list[Any], Path], None], tmp_path: Path
    ) -> None:
        """A network's probabilities on the written slices, kept as nnU-Net keeps them, score as the network itself.

        The oracle is the path of our own predictions: the same network run by inference.yaml.
        """
        folder, c = written
        settings = json.loads((folder / "slices/model.json").read_text(encoding="utf-8"))
        torch.manual_seed(0)
        network = ResUNet2d(out_channels=20, channels=(4, 8)).eval()
        with torch.no_grad():
            network.head.weight.mul_(50.0)  # sure of its classes: no ties that rounding could turn
        own = {**settings, "channels": [4, 8], "norm": "batch", "statistics": "volume"}
        write_model(network, tmp_path / "models", own)
        inferer = SlicewiseInferer(
            roi_size=SIZE, spatial_dim=2, sw_batch_size=32, overlap=0.5, mode="gaussian", progress=False,
            statistics="volume", labelled=settings["labelled_classes"],
        )  # fmt: skip
        (tmp_path / "kept").mkdir()
        for path in (folder / "nnUNet_raw" / DATASET / "imagesTs").iterdir():
            image = torch.from_numpy(slices_of(path)).movedim(0, -1)[None, None]
            with torch.no_grad():
                probs = inferer(MetaTensor(image), network)[0].softmax(0).as_tensor()
            name = path.name.removesuffix("_0000.nii.gz")
            np.savez_compressed(tmp_path / "kept" / f"{name}.npz", probabilities=probs.movedim(-1, 1).numpy())
        ours = nnunet.evaluation(tmp_path, c, "test", tmp_path / "ours")
        given = {"ckpt_dir": folder / "slices", "probabilities_dir": tmp_path / "kept"}
        kept = nnunet.evaluation(tmp_path, c, "test", tmp_path / "theirs", given, ["evaluate_kept.yaml"])
        in_process([ours, kept], tmp_path / "log.txt")
        for name in ("per_case.csv", "per_case_decoded.csv"):
            first, second = (scores_in(tmp_path / side / name) for side in ("ours", "theirs"))
            assert [row["class"] for row in first] == [row["class"] for row in second]
            dice = [[float(row["dice"] or "nan") for row in rows] for rows in (first, second)]
            np.testing.assert_allclose(dice[0], dice[1], atol=2e-3)
        (label,) = (tmp_path / "ours").glob("*_seg.nii.gz")
        one, other = (nibabel.load(tmp_path / side / label.name) for side in ("ours", "theirs"))
        np.testing.assert_array_equal(one.affine, other.affine)
        # A rounding of the kept probabilities may cut a thread of voxels, and with it a part that is off the spine.
        assert (np.asarray(one.dataobj) == np.asarray(other.dataobj)).mean() > 0.98
        assert len(np.unique(np.asarray(one.dataobj))) > 2  # the comparison is of something


class TestCommands:
    def test_value(self, tmp_path: Path) -> None:
        assert training("cpu") == [
            "nnUNetv2_train", "1", "2d", "all", "-tr", "ShortTrainer", "-device", "cpu", "--c",
        ]  # fmt: skip
        line = predicting(tmp_path / "in", tmp_path / "out", "cpu")
        assert line[:5] == ["nnUNetv2_predict", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
        assert "--save_probabilities" in line

    def test_environment(self, tmp_path: Path) -> None:
        found = environment(tmp_path, "nnUNetv2_train", {"PATH": "/bin", "PYTHONPATH": "ours"})
        assert found["PATH"] == "/bin"
        assert "PYTHONPATH" not in found  # our modules are none of nnU-Net's
        assert found["nnUNet_results"] == str(tmp_path / "nnUNet_results")
        assert found["nnUNet_extTrainer"] == str(tmp_path / "trainer")
        assert found["nnUNet_n_proc_DA"] == "0"
        assert environment(tmp_path, "nnUNetv2_predict", {})["nnUNet_n_proc_DA"] == "1"

    def test_trainer(self, tmp_path: Path) -> None:
        text = write_trainer(tmp_path, 720, 20, seed=3, mirror=False).read_text(encoding="utf-8")
        compile(text, "trainer", "exec")
        assert "class ShortTrainer(nnUNetTrainerNoMirroring):" in text
        assert "self.num_epochs, self.num_iterations_per_epoch = 36, 20" in text
        assert "seed(3)" in text
        mirrored = write_trainer(tmp_path, 720, 20, seed=3, mirror=True).read_text(encoding="utf-8")
        assert "class ShortTrainer(nnUNetTrainer):" in mirrored

    def test_batch_size(self, tmp_path: Path) -> None:
        plans_file(tmp_path).parent.mkdir(parents=True)
        content = {"configurations": {"2d": {"batch_size": 12, "patch_size": [96, 48]}}}
        plans_file(tmp_path).write_text(json.dumps(content), encoding="utf-8")
        set_batch_size(tmp_path, None)
        assert json.loads(plans_file(tmp_path).read_text(encoding="utf-8")) == content
        set_batch_size(tmp_path, 6)
        found = json.loads(plans_file(tmp_path).read_text(encoding="utf-8"))
        assert found == {"configurations": {"2d": {"batch_size": 6, "patch_size": [96, 48]}}}

    def test_trained_s(self, tmp_path: Path) -> None:
        trained(tmp_path).mkdir(parents=True)
        for number, seconds in enumerate(("1.5", "2.25")):
            log = trained(tmp_path) / f"training_log_{number}.txt"
            log.write_text(f"2026: Epoch 0\n2026: Epoch time: {seconds} s\n", encoding="utf-8")
        assert trained_s(tmp_path) == 3.75


FAKE = """#!{python}
import json, os, sys
from pathlib import Path

import nibabel
import numpy as np

name, words = Path(sys.argv[0]).name, sys.argv[1:]
raw = Path(os.environ["nnUNet_raw"]) / "Dataset001_spine"
with (raw.parent.parent / "calls.txt").open("a") as file:
    print(name, file=file)
if name == "nnUNetv2_plan_and_preprocess":
    folder = Path(os.environ["nnUNet_preprocessed"]) / "Dataset001_spine"
    folder.mkdir(parents=True)
    widths = {{"arch_kwargs": {{"features_per_stage": [32]}}}}
    plan = {{"batch_size": 2, "patch_size": [32, 16], "architecture": widths}}
    (folder / "nnUNetPlans.json").write_text(json.dumps({{"configurations": {{"2d": plan}}}}))
if name == "nnUNetv2_train":
    assert list(Path(os.environ["nnUNet_extTrainer"]).glob("*.py"))
    folder = Path(os.environ["nnUNet_results"]) / "Dataset001_spine/ShortTrainer__nnUNetPlans__2d/fold_all"
    folder.mkdir(parents=True)
    (folder / "checkpoint_final.pth").touch()
if name == "nnUNetv2_predict":
    images, out = Path(words[words.index("-i") + 1]), Path(words[words.index("-o") + 1])
    out.mkdir()
    for path in images.iterdir():
        shape = nibabel.load(path).shape[::-1]
        probabilities = np.zeros((20, *shape), dtype=np.float32)
        probabilities[4] = 1.0
        np.savez(out / path.name.replace("_0000.nii.gz", ".npz"), probabilities=probabilities)
        (out / path.name.replace("_0000", "")).touch()
"""


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """An environment whose commands leave the files that nnU-Net's would, and call everything class 4."""
    folder = tmp_path / "environment"
    (folder / "bin").mkdir(parents=True)
    for name in nnunet.COMMANDS:
        path = folder / "bin" / name
        path.write_text(FAKE.format(python=sys.executable), encoding="utf-8")
        path.chmod(0o755)
    return folder


class TestRun:
    def test_rows(
        self,
        datalist: Path,
        fake: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        in_process: Callable[[list[Any], Path], None],
    ) -> None:
        monkeypatch.setattr(nnunet, "bundle_runs", in_process)
        out = tmp_path / "out"
        line = ["--datalist", str(datalist), "--out", str(out), "--nnunet", str(fake), "--labelled", "1"]
        line += ["--seeds", "0", "--overlays", *OVERLAYS, "--image-size", "32", "16", "--batch-size", "6"]
        line += ["--methods", "nnunet", "nnunet_full", "--steps", "40"]
        assert nnunet.run(parse(*line)) == 0
        rows = scores_in(out / "results.csv")
        assert [(r["method"], r["labelled"], r["steps"]) for r in rows] == [
            ("nnunet", "1", "40"), ("nnunet_full", "2", "40"),
        ]  # fmt: skip
        assert rows[0]["unlabelled_mdice"] != "" == rows[1]["unlabelled_mdice"]
        assert rows[0]["mdice_decoded"] != ""
        assert rows[0]["mdice_named"] != "" != rows[1]["mdice_named"]
        kept = [
            json.loads((out / name / "slices/model.json").read_text()) for name in ("nnunet_1_0", "nnunet_full_2_0")
        ]
        assert all(np.shape(settings["chain_geometry"]["mean"]) == (10, 4) for settings in kept)
        schedule = json.loads((out / "nnunet_1_0/schedule.json").read_text(encoding="utf-8"))
        assert (schedule["steps"], schedule["batch_size"], schedule["patch_size"]) == (40, 6, [32, 16])
        calls = out / "nnunet_1_0/calls.txt"
        assert calls.read_text(encoding="utf-8").split() == list(nnunet.COMMANDS)
        # a row that is gone is scored anew; nnU-Net is not called again
        (out / "nnunet_1_0/row.json").unlink()
        assert final_checkpoint(out / "nnunet_1_0").is_file()
        assert nnunet.run(parse(*line)) == 0
        assert calls.read_text(encoding="utf-8").split() == list(nnunet.COMMANDS)
        assert scores_in(out / "results.csv") == rows
        with pytest.raises(ValueError, match="nnunet_steps: 40, now 60"):
            nnunet.run(parse(*line, "--steps", "60"))

    def test_exceptions(self, tmp_path: Path, fake: Path) -> None:
        line = ["--datalist", "D.json", "--out", str(tmp_path / "out")]
        with pytest.raises(ValueError, match="there is no bin/nnUNetv2_plan_and_preprocess; make an environment"):
            nnunet.run(parse(*line, "--nnunet", str(tmp_path)))
        with pytest.raises(ValueError, match="--steps 30 is no multiple of --steps-per-epoch 20"):
            nnunet.run(parse(*line, "--nnunet", str(fake), "--steps", "30"))
        (fake / "bin/nnUNetv2_train").write_text("#!/bin/sh\necho no such luck; exit 3\n", encoding="utf-8")
        row = nnunet.NnunetRows(parse(*line, "--nnunet", str(fake)), tmp_path)
        with pytest.raises(RuntimeError, match=r"nnUNetv2_train failed, see .*log\.txt\nno such luck"):
            row._call(tmp_path, training("cpu"), "log.txt")


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="NNUNET_ENVIRONMENT names no environment in which nnU-Net is installed")
class TestInstalled:
    def test_run(self, datalist: Path, tmp_path: Path) -> None:
        """nnU-Net itself takes what we write and leaves what we read."""
        line = ["--datalist", str(datalist), "--out", str(tmp_path), "--nnunet", str(INSTALLED), "--labelled", "1"]
        line += ["--seeds", "0", "--overlays", *OVERLAYS, "--image-size", "32", "16", "--batch-size", "2"]
        assert nnunet.run(parse(*line, "--steps", "4", "--steps-per-epoch", "2")) == 0
        (row,) = scores_in(tmp_path / "results.csv")
        assert 0 <= float(row["mdice"]) <= 1
        assert json.loads((tmp_path / "nnunet_1_0/schedule.json").read_text(encoding="utf-8"))["batch_size"] == 2
