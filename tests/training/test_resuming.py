from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.data.datalist import DataError
from scripts.training.resuming import check_resumed

BEGUN: dict[str, Any] = {
    **{"image_size": [256, 128], "channels": [32, 64], "learning_rate": 0.002, "batch_size": 8, "resume": False},
    **{"iters_per_epoch": 100, "max_epochs": 60, "output_dir": "a", "device": "cpu", "num_workers": 0},
    "method": {"_target_": "scripts.methods.cps4.CPS4", "dice": 0.5},
    "network_def": {"_target_": "ResUNet2d", "norm": "batch"},
    "train": {"dataset": {"data": [{"image": "a.nii.gz"}]}, "step": {"max_grad_norm": 1.0}},
    "class_table": "classes.json",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a run that was begun."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(BEGUN), encoding="utf-8")
    (tmp_path / "checkpoint.pt").write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"channels": [4, 8]}, ["channels#0 4 (before: 32)", "channels#1 8 (before: 64)"]),
        ({"image_size": [256, 96]}, ["image_size#1 96 (before: 128)"]),
        ({"class_table": "mine.json"}, ["class_table 'mine.json' (before: 'classes.json')"]),
        ({"method": {"_target_": "scripts.methods.bcp.BCP"}}, ["method#_target_", "method#dice not given (before"]),
        ({"network_def": {"_target_": "ResUNet2d", "norm": "group"}}, ["network_def#norm 'group' (before: 'batch')"]),
    ],
)
def test_what_makes_it_another_run_is_refused(folder: Path, changes: dict[str, Any], told: list[str]) -> None:
    with pytest.raises(DataError, match="was begun with other settings and cannot go on with these: ") as caught:
        check_resumed(folder, {**BEGUN, **changes, "batch_size": 4})
    assert all(words in str(caught.value) for words in told)
    assert "batch_size" not in str(caught.value)
    assert str(caught.value).endswith("give those that it was begun with, or another --output_dir")


@pytest.mark.parametrize("key", ["batch_size", "iters_per_epoch", "learning_rate", "train"])
def test_the_rest_is_told(folder: Path, caplog: pytest.LogCaptureFixture, key: str) -> None:
    now = {**BEGUN, key: 5} if key != "train" else {**BEGUN, "train": {**BEGUN["train"], "step": {"max_grad_norm": 5}}}
    with caplog.at_level(logging.WARNING):
        check_resumed(folder, now)
    (record,) = caplog.records
    name = "train#step#max_grad_norm" if key == "train" else key
    before = 1.0 if key == "train" else BEGUN[key]
    assert record.getMessage() == (f"the run in {folder} goes on with other settings: {name} 5 (before: {before})")


def test_many_are_cut_short(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_resumed(folder, {**BEGUN, "loss_weights": {f"w{number:02}": "x" * 100 for number in range(12)}})
    assert "; and 4 further ones" in caplog.text
    assert "w07" in caplog.text
    assert "w08" not in caplog.text
    assert "x" * 60 not in caplog.text


def test_places_machines_data_and_a_longer_training_do_not_count(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = {"resume": True, "max_epochs": 90, "device": "cuda", "num_workers": 4, "output_dir": "b"}
    with caplog.at_level(logging.WARNING):
        check_resumed(folder, BEGUN)
        check_resumed(folder, {**BEGUN, **other, "train": {**BEGUN["train"], "dataset": {"data": [{"image": "b"}]}}})
    assert caplog.records == []


@pytest.mark.parametrize("missing", ["config.yaml", "checkpoint.pt"])
def test_nothing_to_go_on_from(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    check_resumed(folder, {**BEGUN, "channels": [1]})
