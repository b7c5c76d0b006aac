"""Trainings that fail, or are refused, as a whole: what is said, and what is left on the disk."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scripts.data.datalist import DataError
from scripts.files import FileError
from scripts.methods.mean_teacher import MeanTeacher
from tests.small_bundle import cause

Train = Callable[..., SimpleNamespace]
METHOD = ["methods/mean_teacher.yaml"]


def refused(train: Train, root: Path, *overlays: str, **overrides: Any) -> str:
    """The sentence with which the run stops."""
    with pytest.raises((RuntimeError, ValueError)) as caught:
        train(root, [*METHOD, *overlays], **overrides)
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, DataError | FileError):
        error = error.__cause__
    assert error is not None, cause(caught.value)
    return str(error)


@pytest.fixture
def nan_from(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`nan_from(step)`: the loss of the method is NaN from this step on."""

    def begin(first: int) -> None:
        objective, steps = MeanTeacher.__call__, []

        def broken(self: MeanTeacher, batch: dict[str, Any], progress: float) -> dict[str, torch.Tensor]:
            steps.append(progress)
            losses = objective(self, batch, progress)
            return losses if len(steps) < first else {**losses, "loss": losses["loss"] * float("nan")}

        monkeypatch.setattr(MeanTeacher, "__call__", broken)

    return begin


class TestNotANumber:
    def test_from_the_start_nothing_is_written(self, train: Train, nan_from: Any, tmp_path: Path) -> None:
        nan_from(1)
        assert refused(train, tmp_path).startswith("the loss is not a finite number from step 1 on")
        assert not (tmp_path / "models").exists()
        assert not (tmp_path / "run" / "checkpoint.pt").exists()

    def test_later_on_the_last_whole_network_stays(self, train: Train, nan_from: Any, tmp_path: Path) -> None:
        nan_from(4)
        assert refused(train, tmp_path).startswith("the loss is not a finite number from step 4 on")
        state = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
        assert all(value.isfinite().all() for value in state.values())
        assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["epoch"] == 1


class TestRefused:
    def test_another_grid_than_stage_1(self, train: Train, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError) as caught:  # noqa: PT011 - MONAI's words around ours; ours are compared
            train(tmp_path, image_size=[64, 32])
        assert "was trained with image_size [32, 16], this run has [64, 32]" in str(cause(caught.value))

    def test_resumed_with_other_channels_or_another_method(self, train: Train, tmp_path: Path) -> None:
        train(tmp_path, METHOD)
        message = refused(train, tmp_path, resume=True, channels=[4, 8, 16])
        assert "cannot go on with these: channels#2 16 (before: 8)" in message
        (tmp_path / "run" / "config.yaml").unlink()  # whatever was not compared, the checkpoint still refuses
        message = refused(train, tmp_path, resume=True, channels=[4, 8, 16])
        assert "checkpoint.pt has another student than this run: it is of another method or network" in message

    def test_checkpoint_without_a_part(self, train: Train, tmp_path: Path) -> None:
        train(tmp_path, METHOD)
        file = tmp_path / "run" / "checkpoint.pt"
        state = torch.load(file, weights_only=True)
        del state["lr_scheduler"]
        torch.save(state, file)
        message = refused(train, tmp_path, resume=True, max_epochs=3)
        assert "checkpoint.pt holds no lr_scheduler: it is of another method or network" in message


class TestLog:
    def test_a_fresh_start_does_not_resume(
        self, train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with caplog.at_level(logging.INFO):
            train(tmp_path, METHOD)
        assert "Epoch[1] Complete" in caplog.text  # the engines do speak
        assert "resuming" not in caplog.text
        said = "".join(capfd.readouterr())
        assert "\x1b[A" not in said
        assert "it/s]" not in said

    def test_a_handler_can_be_switched_off(self, train: Train, tmp_path: Path) -> None:
        train(tmp_path, METHOD, **{"train#handlers#7#_disabled_": True})
        assert not (tmp_path / "run" / "checkpoint.pt").exists()
        assert (tmp_path / "run" / "metrics.csv").is_file()
