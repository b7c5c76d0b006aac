from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scripts.tools import demo
from scripts.tools.demo import Demo


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each training found a checkpoint of an earlier one; none is trained."""
    found: list[bool] = []

    def bundle_run(run_id: str, configs: list[str], overrides: dict[str, Any], log: Path) -> None:
        checkpoint = overrides["output_dir"] / "checkpoint.pt"
        found.append(checkpoint.is_file())
        checkpoint.write_text("weights", encoding="utf-8")

    monkeypatch.setattr(demo, "bundle_run", bundle_run)
    return found


def train(folder: Path, **settings: Any) -> None:
    Demo(folder, 0).train("cps4", "training", ["train.yaml"], **settings)


def test_a_finished_phase_is_reused(runs: list[bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        train(tmp_path, max_epochs=2)
    assert runs == [False]
    assert "reused from an earlier run" in capsys.readouterr().out


def test_a_killed_training_goes_on(runs: list[bool], tmp_path: Path) -> None:
    train(tmp_path, max_epochs=2)
    (tmp_path / "phases/cps4.json").unlink()
    train(tmp_path, max_epochs=2)
    assert runs == [False, True]


def test_other_settings_start_over(runs: list[bool], tmp_path: Path) -> None:
    train(tmp_path, max_epochs=2)
    train(tmp_path, max_epochs=2, statistics="running")
    assert runs == [False, False]
