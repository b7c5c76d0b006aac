"""`label` and `evaluate` give what the runs give that they stand for, byte by byte."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts.__main__ import main
from scripts.commands.label import hidden
from scripts.data.datalist import load_datalist
from tests.integration.test_exports import sentence

ROOT = Path(__file__).resolve().parents[2]
SAME = ("*_seg.nii.gz", "*_levels.json", "labels.json", "colours.ctbl")


def results(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for pattern in SAME for path in folder.glob(pattern)}


@pytest.fixture
def scans(datalist: Path, tmp_path: Path) -> Path:
    sections = load_datalist(datalist).sections
    (tmp_path / "scans").mkdir()
    for section in ("validation", "test"):
        for entry in sections[section]:
            shutil.copy(entry["image"], tmp_path / "scans")
    return tmp_path / "scans"


class TestLabel:
    def test_same_as_the_long_command(
        self,
        scans: Path,
        trained: SimpleNamespace,
        infer: Callable[[Path, Path], list[Path]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        infer(scans, tmp_path / "long")
        monkeypatch.chdir(tmp_path)  # any folder
        line = ["label", "scans", "--out", "short", "--ckpt_dir", str(trained.models), "--device", "cpu"]
        assert main(line) == 0
        assert results(tmp_path / "short") == results(tmp_path / "long")
        assert len(results(tmp_path / "short")) == 2 * 2 + 2
        said = capsys.readouterr().out
        assert "2 x *_seg.nii.gz" in said
        assert "verdicts: " in said
        assert sorted(path.name for path in tmp_path.iterdir()) == ["long", "scans", "short"]

    def test_settings_and_one_file(
        self, scans: Path, trained: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        scan = next(scans.iterdir())
        line = ["label", str(scan), "--out", str(tmp_path / "out"), "--ckpt_dir", str(trained.models)]
        assert main([*line, "--levels", "raw", "device=cpu", "batch_size=1"]) == 0
        assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == [
            scan.name.replace(".nii.gz", "_seg.nii.gz")
        ]
        assert not list((tmp_path / "out").glob("*_levels.json"))
        assert "--levels raw --device cpu --batch_size 1" in capsys.readouterr().out

    def test_fast_without_its_package(
        self,
        scans: Path,
        trained: SimpleNamespace,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        shutil.copytree(trained.models, tmp_path / "models")
        line = ["label", str(scans), "--out", str(tmp_path / "out"), "--ckpt_dir", str(tmp_path / "models"), "--fast"]
        with pytest.raises(RuntimeError) as caught:  # noqa: PT011 - MONAI's words around ours; ours are compared
            main(line)
        assert "model.xml; make one with `python -m scripts quantise SCANS`" in sentence(caught.value)
        (tmp_path / "models" / "model.xml").write_text("any")
        monkeypatch.setitem(sys.modules, "openvino", None)
        with pytest.raises(RuntimeError) as caught:  # noqa: PT011 - as above
            main(line)
        assert sentence(caught.value) == "openvino is not installed; pip install -r requirements-openvino.txt"
        assert "inference_openvino.yaml" in capsys.readouterr().out

    @pytest.mark.slow
    def test_in_a_shell(self, scans: Path, trained: SimpleNamespace, tmp_path: Path) -> None:
        """A faulty scan beside good ones: these are labelled, exit code 1; the printed command gives the same files."""
        (scans / "broken.nii.gz").write_bytes(b"no scan")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        call = [sys.executable, "-m", "scripts", "label", "scans", "--out", "short", "--ckpt_dir", str(trained.models)]
        done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "Error: 1 scan not labelled, all others are:" in done.stderr
        assert "Traceback" not in done.stderr
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("in long: ")]
        words = shlex.split(line.removeprefix("in long: ").replace("short", "long"))
        done = subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 1
        assert results(tmp_path / "short") == results(tmp_path / "long")

    def test_with_what_labelling_needs_alone(self, scans: Path, trained: SimpleNamespace, tmp_path: Path) -> None:
        """In a process that cannot import what requirements.txt names and requirements-inference.txt does not."""
        every, needed = (
            dict(line.split("==") for line in (ROOT / name).read_text().splitlines() if "==" in line and line[0] != "#")
            for name in ("requirements.txt", "requirements-inference.txt")
        )
        assert needed.items() <= every.items()
        others = sorted(every.keys() - needed)
        assert others == ["pandas", "tabulate", "tensorboard", "transformers"]
        line = ["label", str(next(scans.iterdir())), "--out", str(tmp_path / "out"), "--ckpt_dir", str(trained.models)]
        program = (
            "import sys; sys.modules.update(dict.fromkeys(sys.argv[1].split()))\n"
            "from scripts.__main__ import main; sys.exit(main(sys.argv[2:]))"
        )
        call = [sys.executable, "-W", "ignore", "-c", program, " ".join(others), *line]
        done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert (tmp_path / "out/index.html").is_file()

    def test_what_it_has_no_use_of_is_hidden_as_long_as_it_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "sklearn", raising=False)
        with hidden(["sklearn", "json"]):
            with pytest.raises(ImportError, match="sklearn"):
                importlib.import_module("sklearn")
            assert sys.modules["json"] is json
        assert "sklearn" not in sys.modules

    def test_unknown_setting(
        self, scans: Path, trained: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = ["label", str(scans), "--out", str(tmp_path / "out"), "--ckpt_dir", str(trained.models), "batch_sice=1"]
        with pytest.raises(RuntimeError, match="start_inference") as raised:  # in a shell one sentence
            main(line)
        assert "did you mean --batch_size?" in str(raised.value.__cause__)
        with pytest.raises(SystemExit):
            main(["info", "batch_size=1"])
        assert "unrecognized arguments: batch_size=1" in capsys.readouterr().err


class TestEvaluate:
    def test_same_as_an_evaluation(
        self, run_bundle: Callable[..., None], datalist: Path, trained: SimpleNamespace, tmp_path: Path
    ) -> None:
        run_bundle(
            "evaluating",
            ["inference.yaml", "evaluate.yaml"],
            datalist=datalist,
            ckpt_dir=trained.models,
            output_dir=tmp_path / "long",
            levels="raw",
        )
        (entry,) = load_datalist(datalist).sections["test"]
        shutil.copytree(tmp_path / "long", tmp_path / "pred", ignore=shutil.ignore_patterns("*.json", "*.csv"))
        line = ["evaluate", str(tmp_path / "pred"), entry["label"], "--out", str(tmp_path / "short")]
        (tmp_path / "truth").mkdir()
        shutil.copy(entry["label"], tmp_path / "truth")
        line[2] = str(tmp_path / "truth")
        assert main(line) == 0
        long, short = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("long", "short"))
        assert short == long
