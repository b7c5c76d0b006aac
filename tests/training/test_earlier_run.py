from __future__ import annotations

import logging
import shlex
from pathlib import Path

import pytest

from scripts.bundle.run_record import record_run
from scripts.data.datalist import DataError
from scripts.training.earlier_run import forget_checkpoints, refuse_earlier_results, tell_inference_command
from scripts.weights import write_model_files


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def left(folder: Path, name: str = "checkpoint.pt") -> Path:
    """A file that a run left."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x")
    return folder / name


def refused(run: Path, models: Path, resume: bool = False, overwrite: bool = False) -> str:
    """The sentence of the refusal; "" if there is none."""
    try:
        refuse_earlier_results(run, models, "ckpt_dir", resume, overwrite)
    except DataError as error:
        return str(error)
    return ""


class TestRefuseEarlierResults:
    @pytest.mark.parametrize("resume", [False, True])
    def test_nothing_there(self, run: Path, resume: bool) -> None:
        assert refused(run, run / "models", resume) == ""
        left(run, "run.json")  # of a run that failed before its first epoch
        assert refused(run, run / "models", resume) == ""

    @pytest.mark.parametrize("name", ["checkpoint.pt", "models/model.pt", "models/model.json"])
    def test_three_ways_out(self, run: Path, name: str) -> None:
        path = left(run, name)
        assert refused(run, run / "models") == (
            f"{path} is of an earlier run; go on with that run by --resume True, replace what it left by "
            "--overwrite True, or name another --output_dir"
        )
        assert refused(run, run / "models", resume=True) == ""
        assert refused(run, run / "models", overwrite=True) == ""
        assert path.is_file()

    def test_network_elsewhere(self, run: Path, tmp_path: Path) -> None:
        path = left(tmp_path / "models", "model.pt")
        assert refused(run, tmp_path / "models").startswith(f"{path} is of an earlier run; ")
        assert refused(run, tmp_path / "models").endswith(", or name another --output_dir and --ckpt_dir")
        assert refused(run, tmp_path / "other") == ""

    def test_resumed_run_replaces_its_own_network_alone(self, run: Path, tmp_path: Path) -> None:
        """With `--resume True` from the first time on, as recommended, and the network in a folder of its own."""
        record_run(run, None, [], None, tmp_path / "models")
        path = left(tmp_path / "models", "model.pt")
        assert refused(run, tmp_path / "models", resume=True) == ""
        other = tmp_path / "other"
        assert refused(other, tmp_path / "models", resume=True) == (
            f"{path} is not of this run, which --resume True goes on with; name another --ckpt_dir, or give "
            "--overwrite True to replace it"
        )
        record_run(other, None, [], None, other / "models")
        assert "is not of this run" in refused(other, tmp_path / "models", resume=True)
        (tmp_path / "models").rename(tmp_path / "moved models")  # of this run, but not where it left it
        assert "is not of this run" in refused(run, tmp_path / "moved models", resume=True)

    def test_run_that_was_moved_with_its_network(self, run: Path, tmp_path: Path) -> None:
        record_run(run, None, [], None, tmp_path / "models")
        left(tmp_path / "models", "model.pt")
        (tmp_path / "new").mkdir()
        for name in ("run", "models"):
            (tmp_path / name).rename(tmp_path / "new" / name)
        assert refused(tmp_path / "new/run", tmp_path / "new/models", resume=True) == ""

    def test_relative_paths(self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        record_run(Path("run"), None, [], None, "models")
        left(tmp_path / "models", "model.pt")
        assert refused(Path("run"), Path("models"), resume=True) == ""
        assert refused(run, tmp_path / "models", resume=True) == ""
        assert "earlier run" in refused(Path("run"), Path("models"))


class TestForgetCheckpoints:
    def test_value(self, run: Path) -> None:
        """Else a run that replaces another and is killed would go on with the other's checkpoint."""
        gone, other = left(run), left(run, "models/model.pt")
        forget_checkpoints(run)
        assert not gone.exists()
        assert other.exists()
        forget_checkpoints(run)


class TestTellInferenceCommand:
    def command(self, caplog: pytest.LogCaptureFixture, models: Path, root: Path) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            tell_inference_command(models, root)
        (message,) = caplog.messages
        return shlex.split(message.splitlines()[-1])

    def test_in_the_bundle(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write_model_files(tmp_path / "my runs/models", b"x", {})
        assert self.command(caplog, Path("my runs/models"), Path()) == [
            *("python", "-m", "monai.bundle", "run", "inference", "--config_file", "configs/inference.yaml"),
            *("--ckpt_dir", "my runs/models", "--input_dir", "SCANS", "--output_dir", "OUT"),
        ]

    def test_elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        write_model_files(tmp_path / "run/models", b"x", {})
        bundle = tmp_path / "bundle"
        line = self.command(caplog, tmp_path / "run/models", bundle)
        assert line[line.index("--config_file") + 1] == str(bundle / "configs/inference.yaml")
        assert line[line.index("--bundle_root") + 1] == str(bundle)
        assert line[line.index("--ckpt_dir") + 1] == str(tmp_path / "run/models")

    def test_no_network(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """No validation had a score to keep one by."""
        with caplog.at_level(logging.INFO):
            tell_inference_command(tmp_path, tmp_path)
        assert caplog.messages == []
