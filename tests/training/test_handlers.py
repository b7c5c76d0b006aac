from __future__ import annotations

import contextlib
import copy
import csv
import errno
import logging
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from torch import nn

from scripts.data.cache import SliceDataset
from scripts.data.datalist import DataError
from scripts.data.loaders import TwoStreamLoader
from scripts.files import FileError, StorageError
from scripts.methods.mean_teacher import MeanTeacher
from scripts.ops.ema import update_ema_
from scripts.ops.losses import PartialLabelCrossEntropy
from scripts.training.handlers import EMATeacher, ModelFile, On, TrainingCheckpoint
from scripts.training.outputs import MetricsLog
from scripts.training.step import OptimizationStep
from scripts.weights import is_unfinished, mark_unfinished
from tests.tiny import CLASSES, cache, network, volumes

EPOCH = 3
"""Steps."""


class NoLoader:
    def start_at(self, step: int) -> None:
        self.step = step


class Run:
    """A Mean Teacher run as train.yaml builds it, of tiny parts; dropout draws from the global random state."""

    def __init__(self, folder: Path, entries: list[dict[str, Any]], epochs: int, resume: bool, seed: int = 0) -> None:
        self.student = network(seed=seed, dropout=0.3)
        self.teacher = copy.deepcopy(self.student)
        self.optimizer = torch.optim.Adam(self.student.parameters(), 0.01)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [1], 0.2)
        slices = cache(folder / "cache")
        labelled, unlabelled = SliceDataset(entries[:1], slices, CLASSES), SliceDataset(entries[1:], slices, CLASSES)
        loader = TwoStreamLoader(labelled, unlabelled, 2, 2)
        self.best = ModelFile(lambda: None, "score")
        self.objective = MeanTeacher(
            self.student,
            self.teacher,
            PartialLabelCrossEntropy(),
            {"supervised": 1.0, "consistency": 1.0},
            lambda progress: 1.0,
            teacher_mode="running",
        )
        objects = {"student": self.student, "teacher": self.teacher, "optimizer": self.optimizer}
        checkpoint = {**objects, "lr_scheduler": scheduler, "best": self.best}
        self.losses: list[float] = []
        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=epochs,
            epoch_length=EPOCH,
            train_data_loader=loader,
            network=self.student,
            optimizer=self.optimizer,
            loss_function=self.objective,
            iteration_update=OptimizationStep(self.objective, self.optimizer),
            decollate=False,
            train_handlers=[
                EMATeacher(self.student, self.teacher, 0.9, "copy"),
                LrScheduleHandler(scheduler, print_lr=False),
                TrainingCheckpoint(folder / "run" / "checkpoint.pt", checkpoint, loader, resume),
                MetricsLog(folder / "run" / "metrics.csv"),
            ],
        )
        self.trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda engine: self.losses.append(float(engine.state.output["loss"]))
        )

    def __call__(self) -> Run:
        torch.manual_seed(7)
        self.trainer.run()
        return self


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class TestEMATeacher:
    def test_twin(self) -> None:
        student, teacher = nn.Linear(2, 2), nn.Linear(2, 2)
        expected = teacher.weight.detach().clone()
        engine = Engine(lambda e, b: student.weight.data.mul_(1.5))
        EMATeacher(student, teacher, decay=0.7).attach(engine)
        own = student.weight.detach().clone()
        for decay in (1 / 2, 2 / 3, 0.7, 0.7):  # 1 - 1 / (step + 1) until that reaches 0.7
            own = own * 1.5
            expected = decay * expected + (1 - decay) * own
        engine.run([0] * 4)
        torch.testing.assert_close(teacher.weight.detach(), expected)
        torch.testing.assert_close(student.weight.detach(), own)

    def test_first_step(self) -> None:
        """A teacher of trained weights begins with the decay of its fourth step, 1 - 1 / 5."""
        student, teacher = nn.Linear(1, 1), nn.Linear(1, 1)
        nn.init.zeros_(student.weight), nn.init.ones_(teacher.weight)
        engine = Engine(lambda e, b: None)
        EMATeacher(student, teacher, decay=0.9, first_step=3).attach(engine)
        engine.run([0])
        assert teacher.weight.item() == pytest.approx(0.8)

    def test_decay_by_default(self) -> None:
        """Once warmed up, the teacher takes a hundredth of the student."""
        student, teacher = nn.Linear(1, 1), nn.Linear(1, 1)
        nn.init.zeros_(student.weight), nn.init.ones_(teacher.weight)
        EMATeacher(student, teacher, first_step=1000)(Engine(lambda e, b: None))
        assert teacher.weight.item() == pytest.approx(0.99)

    @pytest.mark.parametrize("buffers", ["batch", "copy"])
    def test_buffers(self, buffers: str) -> None:
        student, teacher = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
        student.running_mean.fill_(5.0)
        engine = Engine(lambda e, b: None)
        EMATeacher(student, teacher, 0.5, buffers).attach(engine)
        engine.run([0])
        assert teacher.running_mean.tolist() == [5.0 * (buffers == "copy")] * 2


class TestOn:
    def test_teacher_starts_as_the_student(self) -> None:
        student, teacher = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
        engine = Engine(lambda e, b: None)
        # what MONAI Label puts in front of a bundle's handlers
        engine.add_event_handler(
            Events.STARTED, lambda: (student.weight.data.fill_(3.0), student.running_mean.fill_(5))
        )
        # as train.yaml has it
        On("STARTED", partial(update_ema_, teacher=teacher, student=student, decay=0.0, buffers="copy")).attach(engine)
        engine.run([0])
        assert teacher.weight.tolist() == [3.0, 3.0]
        assert teacher.running_mean.tolist() == [5.0, 5.0]
        student.weight.data.fill_(4.0)
        assert teacher.weight.tolist() == [3.0, 3.0]

    def test_calls_with_and_without_the_engine(self) -> None:
        seen: list[Any] = []
        engine = Engine(lambda e, b: None)
        On("EPOCH_STARTED", lambda engine: seen.append(engine.state.epoch)).attach(engine)
        On("COMPLETED", lambda: seen.append("end")).attach(engine)
        engine.run([0, 0], max_epochs=3)
        assert seen == [1, 2, 3, "end"]

    def test_exception(self) -> None:
        with pytest.raises(KeyError, match="STARTET"):
            On("STARTET", print)

    @pytest.mark.parametrize("breaks_off", [False, True])
    def test_marks_a_model_from_the_first_step_to_the_last(self, tmp_path: Path, breaks_off: bool) -> None:
        """As pretrain.yaml has it."""
        seen = []

        def step(engine: Engine, batch: Any) -> None:
            seen.append(is_unfinished(tmp_path))
            if breaks_off:
                raise KeyboardInterrupt

        engine = Engine(step)
        engine.logger.setLevel(logging.CRITICAL)
        On("STARTED", partial(mark_unfinished, folder=tmp_path, unfinished=True)).attach(engine)
        On("COMPLETED", partial(mark_unfinished, folder=tmp_path, unfinished=False)).attach(engine)
        with contextlib.suppress(KeyboardInterrupt):
            engine.run([0, 0])
        assert seen == ([True] if breaks_off else [True, True])
        assert is_unfinished(tmp_path) == breaks_off


class TestTrainingCheckpoint:
    def test_resume_is_as_if_nothing_had_happened(self, tmp_path: Path) -> None:
        entries = volumes(tmp_path / "data", (4, 3))
        whole = Run(tmp_path / "whole", entries, 3, resume=False)()
        first = Run(tmp_path / "parts", entries, 3, resume=False)
        first.best.best = 0.25

        def kill(engine: Engine) -> None:
            raise KeyboardInterrupt

        first.trainer.logger.setLevel(logging.CRITICAL)
        first.trainer.add_event_handler(Events.EPOCH_STARTED(once=2), kill)
        with pytest.raises(KeyboardInterrupt):
            first()
        second = Run(tmp_path / "parts", entries, 3, resume=True, seed=5)()
        assert second.best.best == 0.25
        assert (second.trainer.state.epoch, second.trainer.state.iteration) == (3, 3 * EPOCH)
        assert first.losses + second.losses == whole.losses
        for name in ("student", "teacher", "optimizer"):
            expected, found = getattr(whole, name).state_dict(), getattr(second, name).state_dict()
            torch.testing.assert_close(found, expected, atol=0, rtol=0)
        assert rows(tmp_path / "parts/run/metrics.csv") == rows(tmp_path / "whole/run/metrics.csv")

    def test_interrupted_writing_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model, engine = nn.Linear(1, 1), Engine(lambda e, b: None)
        checkpoint = TrainingCheckpoint(tmp_path / "c.pt", {"model": model}, NoLoader(), resume=False)
        engine.state.epoch = engine.state.iteration = 1
        checkpoint.save(engine)
        old = (tmp_path / "c.pt").read_bytes()

        def full_disk(state: Any, file: Any) -> None:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "no space left")

        monkeypatch.setattr(torch, "save", full_disk)
        with pytest.raises(StorageError, match=r"c\.pt cannot be written: the disk is full; free some space"):
            checkpoint.save(engine)
        assert (tmp_path / "c.pt").read_bytes() == old
        assert [f.name for f in tmp_path.iterdir()] == ["c.pt"]

    @pytest.mark.parametrize("resume", [True, False])
    def test_where_there_is_nothing_to_resume(self, tmp_path: Path, resume: bool) -> None:
        model, loader = nn.Linear(1, 1), NoLoader()
        before = model.weight.item()
        if not resume:  # there is a file, but nobody asked for it
            engine = Engine(lambda e, b: None)
            TrainingCheckpoint(tmp_path / "c.pt", {"model": nn.Linear(1, 1)}, loader, False).save(engine)
        engine = Engine(lambda e, b: None)
        TrainingCheckpoint(tmp_path / "c.pt", {"model": model}, loader, resume).attach(engine)
        engine.run([0, 0], max_epochs=2)
        assert model.weight.item() == before
        assert engine.state.iteration == 4
        assert loader.step == 0

    def test_is_behind_the_log(self, tmp_path: Path) -> None:
        """Killed between the two, a run would lose the rows of an epoch that it never repeats."""
        engine = Engine(lambda e, b: {"loss": torch.ones(())})
        TrainingCheckpoint(tmp_path / "c.pt", {}, NoLoader(), resume=False).attach(engine)
        MetricsLog(tmp_path / "m.csv").attach(engine)
        logged = []
        engine.add_event_handler(
            Events.EPOCH_COMPLETED,
            lambda e: logged.append((len(rows(tmp_path / "m.csv")), (tmp_path / "c.pt").exists())),
        )
        engine.run([0], max_epochs=1)
        assert logged == [(1, False)]
        assert (tmp_path / "c.pt").exists()

    @pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(1).item()])
    def test_all_random_states_go_on(self, tmp_path: Path, draw: Callable[[], float]) -> None:
        engine = Engine(lambda e, b: None)
        engine.state.epoch, engine.state.iteration = 1, 2
        draw()
        TrainingCheckpoint(tmp_path / "c.pt", {}, NoLoader(), resume=False).save(engine)
        expected = [draw() for _ in range(3)]
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(5)
        TrainingCheckpoint(tmp_path / "c.pt", {}, NoLoader(), resume=True).load(Engine(lambda e, b: None))
        assert [draw() for _ in range(3)] == expected

    def test_of_another_method_or_network(self, tmp_path: Path) -> None:
        engine, path = Engine(lambda e, b: None), tmp_path / "c.pt"
        TrainingCheckpoint(path, {"student": nn.Linear(2, 1)}, NoLoader(), resume=False).save(engine)
        mend = "it is of another method or network; give the config files and overrides that it was begun with"
        for objects, problem in (
            ({"student": nn.Linear(3, 1)}, "has another student than this run"),
            ({"student": nn.Linear(2, 1), "lr_scheduler": nn.Linear(1, 1)}, "holds no lr_scheduler"),
        ):
            with pytest.raises(FileError, match=rf"c\.pt {problem}: {mend}"):
                TrainingCheckpoint(path, objects, NoLoader(), resume=True).load(engine)

    def test_interval(self, tmp_path: Path) -> None:
        saved = []
        engine = Engine(lambda e, b: None)
        checkpoint = TrainingCheckpoint(tmp_path / "c.pt", {}, NoLoader(), False, interval=2)
        checkpoint.save = lambda e: saved.append(e.state.epoch)  # type: ignore[method-assign]
        checkpoint.attach(engine)
        engine.run([0], max_epochs=5)
        assert saved == [2, 4]


class TestModelFile:
    def test_keeps_the_best(self) -> None:
        scores, written = [0.3, 0.5, 0.5, 0.4, 0.6], []
        evaluator = Engine(lambda e, b: None)
        evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update(dice=scores[len(runs)]))
        runs: list[int] = []
        handler = ModelFile(lambda: written.append(scores[len(runs)]), "dice")
        handler.attach(evaluator)
        for _ in scores:
            evaluator.run([0])
            runs.append(1)
        assert written == [0.3, 0.5, 0.6]
        assert handler.state_dict() == {"best": 0.6, "error": 0.0}

    def test_keeps_the_latest_within_the_error_of_the_best(self) -> None:
        """Volumes .4, .6 and .8: mean .6, standard error .2 / √3 = .115; .7, .8 and .9: .8 and .058."""
        volumes = [
            [0.4, 0.6, 0.8],
            [0.5, 0.5, 0.5],
            [0.4, 0.5, 0.5],
            [0.7, 0.8, 0.9],
            [0.73] * 3,
            [0.75] * 3,
            [0.79] * 3,
        ]
        written: list[int] = []
        engine: Any = Engine(lambda e, b: None)
        handler = ModelFile(lambda: written.append(number), "dice", within_error=True)
        for number, scores in enumerate(volumes):  # noqa: B007 - the handler's `write` reads it
            dice = torch.tensor([[score, float("nan"), score] for score in scores] + [[float("nan")] * 3])
            engine.state.metrics, engine.state.metric_details = {"dice": sum(scores) / 3}, {"dice": dice}
            handler(engine)
        assert written == [0, 1, 3, 5, 6]
        assert handler.best == pytest.approx(0.8)
        assert handler.error == pytest.approx(0.0577, abs=1e-4)
        again = ModelFile(lambda: None, "dice", within_error=True)
        again.load_state_dict(handler.state_dict())
        assert (again.best, again.error) == (handler.best, handler.error)

    def test_a_single_volume_has_no_error(self) -> None:
        written: list[float] = []
        engine: Any = Engine(lambda e, b: None)
        handler = ModelFile(lambda: written.append(score), "dice", within_error=True)
        for score in (0.6, 0.59, 0.7):
            engine.state.metrics, engine.state.metric_details = {"dice": score}, {"dice": torch.full((1, 4), score)}
            handler(engine)
        assert written == [0.6, 0.7]

    def test_goes_on_from_a_checkpoint(self) -> None:
        written: list[int] = []
        handler = ModelFile(lambda: written.append(1), "dice")
        handler.load_state_dict({"best": 0.7})
        engine = Engine(lambda e, b: None)
        for score in (0.6, 0.8):
            engine.state.metrics = {"dice": score}
            handler(engine)
        assert written == [1]

    def test_a_score_that_is_none_keeps_a_network(self) -> None:
        """NaN is below every score: the last network until there is one, and never in its place."""
        written: list[float] = []
        handler = ModelFile(lambda: written.append(score), "dice")
        engine = Engine(lambda e, b: None)
        for score in (nan := float("nan"), nan, 0.2, nan, 0.1):
            engine.state.metrics = {"dice": score}
            handler(engine)
        assert written == [pytest.approx(nan, nan_ok=True)] * 2 + [0.2]
        assert handler.best == 0.2

    @pytest.mark.parametrize("name", ["weight", "running_var"])
    def test_never_writes_what_is_not_finite(self, name: str) -> None:
        written: list[int] = []
        handler = ModelFile(lambda: written.append(1), "dice")
        engine: Any = Engine(lambda e, b: None)
        engine.network, engine.state.metrics = nn.BatchNorm1d(2), {"dice": 0.5}
        handler(engine)
        getattr(engine.network, name).data[1] = float("nan")
        engine.state.metrics = {"dice": 0.6}
        with pytest.raises(DataError, match=r"^the weights that were to be kept are not all finite numbers"):
            handler(engine)
        assert (written, handler.best) == ([1], 0.5)

    def test_without_validation_keeps_the_last(self) -> None:
        written: list[int] = []
        trainer = Engine(lambda e, b: None)
        ModelFile(lambda: written.append(trainer.state.epoch)).attach(trainer)
        trainer.run([0], max_epochs=3)
        assert written == [3]


class TestWriter:
    def test_best_model_is_on_disk(self, tmp_path: Path) -> None:
        """The file holds the weights of the best epoch, not of the last."""
        model, file = nn.Linear(1, 1, bias=False), tmp_path / "w.pt"
        handler = ModelFile(partial(lambda: torch.save(model.state_dict(), file)), "dice")
        engine = Engine(lambda e, b: None)
        for weight, score in ((1.0, 0.2), (2.0, 0.9), (3.0, 0.4)):
            model.weight.data.fill_(weight)
            engine.state.metrics = {"dice": score}
            handler(engine)
        assert torch.load(file, weights_only=True)["weight"].item() == 2.0
