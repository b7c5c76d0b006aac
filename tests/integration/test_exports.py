"""A trained bundle in TorchScript, ONNX Runtime and OpenVINO: exported, run by overlays, compared by the benchmark."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest

from scripts.__main__ import main
from scripts.tools.speed import exports as benchmark

OVERLAYS = ["inference.yaml", "inference_onnx.yaml"]


@pytest.fixture
def with_packages() -> None:
    for name in ("onnxruntime", "onnx", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed (requirements-onnx.txt)")


@pytest.fixture
def models(trained: SimpleNamespace, tmp_path: Path) -> Path:
    """A copy of the smoke-trained bundle's models; exports may lie in it."""
    shutil.copytree(trained.models, tmp_path / "models")
    return tmp_path / "models"


def label_map(folder: Path) -> np.ndarray:
    return np.asarray(nibabel.load(folder / "phantom_0002_seg.nii.gz").dataobj)


def sentence(error: BaseException) -> str:
    while error.__cause__ is not None and type(error).__name__ != "DataError":
        error = error.__cause__
    assert type(error).__name__ == "DataError", error
    return str(error)


class TestOverlay:
    @pytest.mark.filterwarnings("ignore")  # PyTorch's exporter warns of its own inside
    @pytest.mark.usefixtures("with_packages")
    def test_same_label_map(
        self, run_bundle: Callable[..., None], models: Path, datalist: Path, tmp_path: Path
    ) -> None:
        settings = json.loads((models / "model.json").read_text(encoding="utf-8"))
        benchmark.export(models, settings["image_size"], settings["statistics"])
        scan = datalist.parent / "images/phantom_0002.nii.gz"
        for name, files in (("torch", OVERLAYS[:1]), ("onnx", OVERLAYS)):
            run_bundle("inference", files, input_dir=scan, output_dir=tmp_path / name, ckpt_dir=models)
        ours, reference = (label_map(tmp_path / name) for name in ("onnx", "torch"))
        assert (ours == reference).mean() > 0.999

    def test_same_label_map_from_torchscript(
        self, run_bundle: Callable[..., None], models: Path, datalist: Path, tmp_path: Path
    ) -> None:
        benchmark.export_script(models, "volume")
        scan = datalist.parent / "images/phantom_0002.nii.gz"
        for name, files in (("torch", OVERLAYS[:1]), ("script", [OVERLAYS[0], "inference_torchscript.yaml"])):
            run_bundle("inference", files, input_dir=scan, output_dir=tmp_path / name, ckpt_dir=models)
        assert np.array_equal(label_map(tmp_path / "script"), label_map(tmp_path / "torch"))

    @pytest.mark.filterwarnings("ignore")  # of OpenVINO's packages, about their own inside
    def test_nearly_the_same_in_integers(
        self,
        run_bundle: Callable[..., None],
        models: Path,
        datalist: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        for name in ("openvino", "nncf"):
            pytest.importorskip(name, reason=f"{name} is not installed (requirements-openvino.txt)")
        line = ["quantise", str(datalist), "--ckpt_dir", str(models)]
        assert main(line) == 0
        made = (models / "model.xml").stat().st_ino
        assert main(line) == 1
        assert "give --overwrite to replace it" in capsys.readouterr().err
        assert (models / "model.xml").stat().st_ino == made
        assert main([*line, "--overwrite"]) == 0
        assert (models / "model.xml").stat().st_ino != made
        assert {path.name for path in models.iterdir()} == {"model.bin", "model.json", "model.pt", "model.xml"}
        scan = datalist.parent / "images/phantom_0002.nii.gz"
        given = {"input_dir": scan, "ckpt_dir": models, "levels": "raw"}
        run_bundle("inference", OVERLAYS[:1], output_dir=tmp_path / "torch", **given)
        run_bundle("inference", [OVERLAYS[0], "inference_openvino.yaml"], output_dir=tmp_path / "openvino", **given)
        assert (
            label_map(tmp_path / "openvino") == label_map(tmp_path / "torch")
        ).mean() > 0.5  # it was trained for four steps

    def test_without_an_export(
        self, run_bundle: Callable[..., None], models: Path, datalist: Path, tmp_path: Path
    ) -> None:
        given: dict[str, Any] = {"input_dir": datalist.parent / "images", "output_dir": tmp_path, "ckpt_dir": models}
        with pytest.raises(RuntimeError) as caught:  # noqa: PT011 - MONAI's words around ours; ours are compared
            run_bundle("inference", OVERLAYS, **given)
        assert sentence(caught.value) == (
            f"there is no trained network {models}/model.onnx; export one as docs/exports.md says "
            "or name its folder with --ckpt_dir"
        )

    def test_without_the_packages(
        self,
        run_bundle: Callable[..., None],
        models: Path,
        datalist: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        (models / "model.onnx").write_bytes(b"any")
        given: dict[str, Any] = {"input_dir": datalist.parent / "images", "output_dir": tmp_path, "ckpt_dir": models}
        with pytest.raises(RuntimeError) as caught:  # noqa: PT011 - as above
            run_bundle("inference", OVERLAYS, **given)
        assert sentence(caught.value) == "ONNX Runtime is not installed; pip install -r requirements-onnx.txt"


class TestBenchmark:
    def test_models_of_stage_2_are_needed(self, tmp_path: Path) -> None:
        parser = argparse.ArgumentParser()
        benchmark.add_arguments(parser)
        line = ["--model", str(tmp_path), "--datalist", "D.json", "--out", str(tmp_path / "out")]
        with pytest.raises(ValueError, match=r"must hold model\.pt and model\.json"):
            benchmark.run(parser.parse_args(line))

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.usefixtures("with_packages")
    def test_table(self, models: Path, datalist: Path, tmp_path: Path) -> None:
        parser = argparse.ArgumentParser()
        benchmark.add_arguments(parser)
        out = tmp_path / "out"
        line = ["--model", str(models), "--datalist", str(datalist), "--out", str(out), "--pairs", "2"]
        line += ["--exports", "TorchScript", "ONNX Runtime"]
        assert benchmark.run(parser.parse_args(line)) == 0
        rows = json.loads((out / "exports.json").read_text(encoding="utf-8"))["rows"]
        assert [(row["network"], row["statistics"]) for row in rows] == [
            *(
                (network, statistics)
                for statistics in ("volume", "running")
                for network in ("PyTorch", "TorchScript", "ONNX Runtime")
            ),
            (benchmark.REFERENCE, "running"),
        ]
        assert max(abs(row["raw_difference"]) for row in rows[:-1]) < 0.002
        assert rows[0]["raw_difference"] == rows[3]["raw_difference"] == 0
        for name in ("network", "labelling"):
            assert all(row[f"{name}_low"] <= row[f"{name}_ratio"] <= row[f"{name}_high"] for row in rows)
            assert rows[-1][f"{name}_ratio"] == 1
