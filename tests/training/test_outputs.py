from __future__ import annotations

import csv
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from skimage.io import imsave
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scripts.training.outputs import MetricsLog, RunOutputs


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def training(outputs: RunOutputs, evaluator: Engine | None, epochs: int = 2, steps: int = 3) -> Engine:
    """Train with the outputs attached: losses are the number of the step, the score is a tenth of the epoch's."""
    losses = iter(range(1, epochs * steps + 1))
    trainer = Engine(lambda e, b: {"loss": (value := torch.tensor(float(next(losses)))), "part": value / 2})
    trainer.state.device = torch.device("cpu")

    def validate(engine: Engine) -> None:
        if evaluator is not None:
            evaluator.state.epoch = engine.state.epoch - 1  # as MONAI's evaluator does
            evaluator.run([0], max_epochs=engine.state.epoch)

    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    if evaluator is not None:
        evaluator.add_event_handler(
            Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update(val_dice=e.state.epoch / 10)
        )
    outputs.attach(trainer)
    trainer.run([0] * steps, max_epochs=epochs)
    return trainer


class TestRunOutputs:
    def test_files(self, tmp_path: Path) -> None:
        evaluator = Engine(lambda e, b: None)
        training(RunOutputs(tmp_path, "training", evaluator), evaluator)
        assert [row["value"] for row in rows(tmp_path / "metrics.csv") if row["name"] == "loss"] == ["2", "5"]
        assert (tmp_path / "curves.png").stat().st_size > 0
        events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        assert scalars == {
            "train_loss": [(step, step) for step in range(1, 7)],
            "train_loss/part": [(step, step / 2) for step in range(1, 7)],
            "val_dice": [(1, pytest.approx(0.1)), (2, pytest.approx(0.2))],
        }
        assert not (tmp_path / "pictures").exists()  # no volume was given

    def test_learning_rate_of_the_steps(self, tmp_path: Path) -> None:
        """Not the one to which a schedule has moved at the end of the epoch."""
        trainer = Engine(lambda e, b: {"loss": torch.tensor(1.0)})
        trainer.state.device = torch.device("cpu")
        trainer.optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)

        def halve(engine: Engine) -> None:
            trainer.optimizer.param_groups[0]["lr"] /= 2

        trainer.add_event_handler(Events.EPOCH_COMPLETED, halve)
        RunOutputs(tmp_path, "training").attach(trainer)
        trainer.run([0] * 2, max_epochs=2)
        assert [r["value"] for r in rows(tmp_path / "metrics.csv") if r["name"] == "learning_rate"] == ["0.4", "0.2"]
        events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("learning_rate")
        assert [(e.step, e.value) for e in events] == [
            (n, pytest.approx(v)) for n, v in enumerate([0.4] * 2 + [0.2] * 2, 1)
        ]

    def test_a_picture_of_each_validation(self, tmp_path: Path) -> None:
        def draw(image: torch.Tensor, label: torch.Tensor, folder: Path) -> None:
            imsave(folder / "overlay.png", np.full((4, 3, 3), 7, np.uint8), check_contrast=False)

        volume = {"image": torch.zeros(2, 1, 4, 3), "label": torch.zeros(2, 1, 4, 3)}
        evaluator = Engine(lambda e, b: None)
        training(RunOutputs(tmp_path, "training", evaluator, volumes=[volume], pictures=[draw]), evaluator)
        events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Images("validation/overlay")
        assert [(e.step, e.height, e.width) for e in events] == [(1, 4, 3), (2, 4, 3)]

    def test_no_loss_is_read_before_the_epoch_ends(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each would wait for the device."""
        read: list[int] = []
        outputs, trainer = RunOutputs(tmp_path, "training"), Engine(lambda e, b: {"loss": torch.tensor(1.0)})
        trainer.state.device = torch.device("cpu")
        outputs.attach(trainer)
        for look in ("__float__", "item", "tolist"):
            monkeypatch.setattr(torch.Tensor, look, lambda self: read.append(trainer.state.iteration) or 1.0)
        trainer.run([0] * 5, max_epochs=2)
        assert set(read) == {5, 10}

    def test_losses_up_to_an_error_are_written(self, tmp_path: Path) -> None:
        def step(engine: Engine, batch: Any) -> dict[str, torch.Tensor]:
            if engine.state.iteration == 3:
                raise ValueError("bad slice")
            return {"loss": torch.tensor(float(engine.state.iteration))}

        engine = Engine(step)
        engine.logger.setLevel(logging.CRITICAL)
        RunOutputs(tmp_path, "training").attach(engine)
        with pytest.raises(ValueError, match="bad slice"):
            engine.run([0] * 4)
        events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        assert [(e.step, e.value) for e in events.Scalars("train_loss")] == [(1, 1.0), (2, 2.0)]

    def test_pictures(self, tmp_path: Path) -> None:
        volume = {"image": torch.zeros(2, 1, 4, 3), "label": torch.zeros(2, 1, 4, 3)}
        drawn: list[Any] = []
        draw = lambda image, label, folder: drawn.append((tuple(image.shape), tuple(label.shape), folder))  # noqa: E731
        training(RunOutputs(tmp_path, "training", volumes=[volume], pictures=[draw, draw]), None)
        assert drawn == [((2, 1, 4, 3), (2, 4, 3), tmp_path / "pictures")] * 2

    def test_one_line_for_each_epoch(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        evaluator = Engine(lambda e, b: None)
        with caplog.at_level("INFO", logger="scripts.training.outputs"):
            training(RunOutputs(tmp_path, "stage 1", evaluator), evaluator)
        lines = [r.getMessage() for r in caplog.records if r.name == "scripts.training.outputs"]
        assert lines == [
            "stage 1, epoch 1 of 2: loss 2.000, val_dice 0.100",
            "stage 1, epoch 2 of 2: loss 5.000, val_dice 0.200",
        ]

    @pytest.mark.parametrize("terminal", [True, False])
    def test_bar_is_for_terminals(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
    ) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
        outputs = RunOutputs(tmp_path, "training", evaluator := Engine(lambda e, b: None))
        outputs.bar.tqdm_kwargs.update(mininterval=0, file=sys.stderr, ncols=100)
        training(outputs, evaluator)
        shown = capsys.readouterr().err
        if terminal:
            assert "training [2/2]: [3/3] 100%" in shown
            assert "loss=2.000, val_dice=0.100" in shown  # of the epoch before
        else:
            assert "training [" not in shown
        assert "\x1b[A" not in shown

    def test_lets_errors_through(self, tmp_path: Path) -> None:
        def fail(engine: Engine, batch: Any) -> None:
            raise ValueError("bad slice")

        engine = Engine(fail)
        engine.logger.setLevel(logging.CRITICAL)
        RunOutputs(tmp_path, "training").attach(engine)
        with pytest.raises(ValueError, match="bad slice"):
            engine.run([0])


class TestMetricsLog:
    def run(self, path: Path, epochs: int, start: int = 0, draw: Callable[[Path], Any] | None = None) -> None:
        """Losses are the step; an evaluation follows every second epoch."""
        evaluator = Engine(lambda e, b: None)

        def step(engine: Engine, value: int) -> dict[str, torch.Tensor]:
            losses = {"loss": torch.tensor(float(engine.state.iteration))}
            return {**losses, "prompt": torch.tensor(1.0)} if engine.state.iteration % 2 == 0 else losses

        def validate(engine: Engine) -> None:
            evaluator.state.metrics = {"val_dice": engine.state.epoch / 10}

        trainer = Engine(step)
        trainer.add_event_handler(Events.EPOCH_COMPLETED(every=2), validate)
        if start:
            trainer.add_event_handler(
                Events.STARTED, lambda e: (setattr(e.state, "epoch", start), setattr(e.state, "iteration", start * 2))
            )
        MetricsLog(path, evaluator, draw).attach(trainer)
        trainer.run([0, 0], max_epochs=epochs)

    def test_value(self, tmp_path: Path) -> None:
        drawn: list[Path] = []
        path = tmp_path / "new" / "metrics.csv"
        self.run(path, 2, draw=drawn.append)
        assert path.read_text(encoding="utf-8").splitlines() == [
            "epoch,step,name,value",
            "1,2,loss,1.5",
            "1,2,loss/prompt,1",
            "2,4,loss,3.5",
            "2,4,loss/prompt,1",
            "2,4,val_dice,0.2",
        ]
        assert drawn == [path]

    def test_resumed_run_repeats_no_row(self, tmp_path: Path) -> None:
        self.run(tmp_path / "whole.csv", 4)
        self.run(tmp_path / "m.csv", 3)
        self.run(tmp_path / "m.csv", 4, start=2)  # the checkpoint was of epoch 2
        assert rows(tmp_path / "m.csv") == rows(tmp_path / "whole.csv")

    @pytest.mark.parametrize("cut", ["2", "2,4,lo", "2,4,loss,3."])
    def test_half_a_row_of_a_killed_run_is_dropped(self, tmp_path: Path, cut: str) -> None:
        self.run(tmp_path / "whole.csv", 4)
        self.run(tmp_path / "m.csv", 2)
        with (tmp_path / "m.csv").open("a", encoding="utf-8") as file:
            file.write(cut)
        self.run(tmp_path / "m.csv", 4, start=2)
        assert rows(tmp_path / "m.csv") == rows(tmp_path / "whole.csv")

    def test_new_run_starts_afresh(self, tmp_path: Path) -> None:
        for _ in range(2):
            self.run(tmp_path / "m.csv", 1)
        assert len(rows(tmp_path / "m.csv")) == 2
