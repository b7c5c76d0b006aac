from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scripts.tools import demo
from scripts.tools.demo import METHODS, NAMES, Demo, scores_table, seconds_table
from scripts.tools.results.document import markdown


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


def test_the_best_method_is_bold() -> None:
    scores = dict(zip(METHODS, (0.4, 0.6, 0.5), strict=True))
    table = scores_table({m: {"mdice": dice, "miou": dice - 0.1, "n_cases": 16} for m, dice in scores.items()})
    assert f"| {NAMES['cps4']}" in markdown(table)
    lines = [line.split("|")[2:-1] for line in markdown(table).splitlines() if "60.00" in line]
    assert [cell.strip() for cell in lines[0]] == ["**60.00**", "**50.00**", "**16**"]


def test_seconds_are_added_up() -> None:
    assert seconds_table({"phantoms": 1.25, "training": 10}).cells["seconds"].tolist() == ["1.2", "10.0", "11.2"]
