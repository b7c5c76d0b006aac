"""A run that is killed after an epoch and resumed ends as the run that was never killed, bit for bit on the CPU."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine

from scripts.training.step import OptimizationStep
from tests.reliability.kill_chain import differences


class KilledError(RuntimeError):
    """Stands for a kill: nothing after it runs."""


@pytest.fixture
def kill_in_second_epoch(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and runs die in the second epoch, until `monkeypatch.undo()`."""
    step = OptimizationStep.__call__

    def step_or_die(self: OptimizationStep, engine: Engine, batch: dict[str, Any]) -> Any:
        if engine.state.iteration == 4:
            raise KilledError
        return step(self, engine, batch)

    return lambda: monkeypatch.setattr(OptimizationStep, "__call__", step_or_die)


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def expect_kill(run: Callable[..., Any], **overrides: Any) -> None:
    with pytest.raises(RuntimeError, match="Failed to evaluate") as caught:
        run(**overrides)
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, KilledError):
        error = error.__cause__
    assert isinstance(error, KilledError), caught.value


@pytest.fixture(scope="module")
def masked_images(run_bundle: Callable[..., None], stage1: SimpleNamespace) -> Callable[..., SimpleNamespace]:
    """`masked_images(root, key=value)`: a smoke run of stage 1 below `root` that begins with masked images."""

    def pretrain(root: Path, **overrides: Any) -> SimpleNamespace:
        made = SimpleNamespace(folder=root / "run", models=root / "models")
        run_bundle(
            "pretraining",
            ["pretrain.yaml", "offline_encoders.yaml", "masked_images.yaml", "smoke.yaml"],
            datalist=stage1.datalist,
            output_dir=made.folder,
            prompt_model_dir=made.models,
            cache_dir=stage1.cache,
            **overrides,
        )
        return made

    return pretrain


@pytest.fixture(scope="module")
def with_masked_images(
    masked_images: Callable[..., SimpleNamespace], tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """Such a run that was never killed."""
    return masked_images(tmp_path_factory.mktemp("masked"))


class TestResume:
    def test_training(
        self,
        train: Callable[..., SimpleNamespace],
        trained: SimpleNamespace,
        kill_in_second_epoch: Callable[[], None],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        kill_in_second_epoch()
        expect_kill(train, root=tmp_path)
        monkeypatch.undo()
        half = checkpoint(tmp_path / "run")
        assert (half["epoch"], half["iteration"]) == (1, 2)
        made = train(tmp_path, resume=True)
        whole, resumed = checkpoint(trained.folder), checkpoint(made.folder)
        assert {"student", "teacher", "optimizer", "lr_scheduler", "best"} <= whole.keys()
        assert differences(whole, resumed) == []
        assert differences(half["teacher"], resumed["teacher"]) != []  # the second epoch did something
        assert metrics(made.folder) == metrics(trained.folder)
        kept = [torch.load(run.models / "model.pt", weights_only=True) for run in (trained, made)]
        assert differences(*kept) == []

    @pytest.mark.parametrize("method", ["graphcl", "mc_net", "ss_net", "ucmt"])
    def test_method_with_networks_of_its_own(
        self,
        method: str,
        train: Callable[..., SimpleNamespace],
        trained: SimpleNamespace,
        kill_in_second_epoch: Callable[[], None],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        options: dict[str, Any] = {
            "overlays": [f"methods/{method}.yaml"],
            "warm_start": trained.models / "model.pt",
            "ramp#start": 0.0,
        }
        whole = train(tmp_path / "whole", **options)
        kill_in_second_epoch()
        expect_kill(train, root=tmp_path / "killed", **options)
        monkeypatch.undo()
        made = train(tmp_path / "killed", resume=True, **options)
        states = [checkpoint(run.folder) for run in (whole, made)]
        assert differences(*states) == []
        assert metrics(made.folder) == metrics(whole.folder)
        # what inference reads is the plain network
        assert torch.load(made.models / "model.pt", weights_only=True).keys() == states[0]["student"].keys()

    def test_trained_weights_compete_with_what_they_become(
        self, train: Callable[..., SimpleNamespace], trained: SimpleNamespace, tmp_path: Path
    ) -> None:
        """Steps that ruin the network leave the one that it started from, also behind a restart."""
        options: dict[str, Any] = {"warm_start": trained.models / "model.pt", "learning_rate": 5.0}
        made = train(tmp_path, **options)
        start, kept = (torch.load(run.models / "model.pt", weights_only=True) for run in (trained, made))
        assert differences(start, kept) == []
        assert differences(start, checkpoint(made.folder)["student"]) != []
        best = checkpoint(made.folder)["best"]["best"]
        rows = [float(row["value"]) for row in metrics(made.folder) if row["name"] == "val_mean_dice"]
        assert rows
        assert max(rows) < best
        again = train(tmp_path, resume=True, max_epochs=3, **options)
        assert differences(start, torch.load(again.models / "model.pt", weights_only=True)) == []
        assert checkpoint(again.folder)["best"]["best"] == best

    def test_pretraining(
        self,
        run_bundle: Callable[..., None],
        stage1: SimpleNamespace,
        kill_in_second_epoch: Callable[[], None],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        def pretrain(**overrides: Any) -> None:
            run_bundle(
                "pretraining",
                ["pretrain.yaml", "offline_encoders.yaml", "smoke.yaml"],
                datalist=stage1.datalist,
                output_dir=tmp_path / "run",
                prompt_model_dir=tmp_path / "models",
                cache_dir=stage1.cache,
                **overrides,
            )

        kill_in_second_epoch()
        expect_kill(pretrain)
        monkeypatch.undo()
        assert checkpoint(tmp_path / "run")["epoch"] == 1
        pretrain(resume=True)
        whole, resumed = checkpoint(stage1.folder), checkpoint(tmp_path / "run")
        assert {"network", "optimizer", "lr_scheduler", "best"} <= whole.keys()
        assert differences(whole, resumed) == []
        assert metrics(tmp_path / "run") == metrics(stage1.folder)
        kept = [torch.load(f / "model.pt", weights_only=True) for f in (stage1.models / "prompt", tmp_path / "models")]
        assert differences(*kept) == []

    @pytest.mark.parametrize("killed_at", [4, 5, 8])
    def test_masked_images(
        self,
        masked_images: Callable[..., SimpleNamespace],
        with_masked_images: SimpleNamespace,
        killed_at: int,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        """Killed with masked images, at the first step of the class prompts, and after their first epoch."""
        step, taken = OptimizationStep.__call__, []

        def step_or_die(self: OptimizationStep, engine: Engine, batch: dict[str, Any]) -> Any:
            taken.append(engine)
            if len(taken) == killed_at:
                raise KilledError
            return step(self, engine, batch)

        monkeypatch.setattr(OptimizationStep, "__call__", step_or_die)
        expect_kill(masked_images, root=tmp_path)
        monkeypatch.undo()
        resumed = masked_images(tmp_path, resume=True)
        for folder in ("", "masked_images"):
            runs = [run.folder / folder for run in (with_masked_images, resumed)]
            assert differences(*map(checkpoint, runs)) == []
            assert metrics(runs[0]) == metrics(runs[1])
        kept = [torch.load(run.models / "model.pt", weights_only=True) for run in (with_masked_images, resumed)]
        assert differences(*kept) == []

    def test_without_a_checkpoint_it_starts_anew(
        self, train: Callable[..., SimpleNamespace], trained: SimpleNamespace, tmp_path: Path
    ) -> None:
        # `trained` had to compute its attention maps, this run finds them: the first weights must not depend on it
        made = train(tmp_path, resume=True)
        assert differences(checkpoint(trained.folder), checkpoint(made.folder)) == []


class TestLoaderProcesses:
    @pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more than this machine has cores
    @pytest.mark.parametrize("number", [1, 4])
    def test_result_does_not_depend_on_them(
        self, train: Callable[..., SimpleNamespace], trained: SimpleNamespace, number: int, tmp_path: Path
    ) -> None:
        made = train(tmp_path, num_workers=number)
        assert differences(checkpoint(trained.folder), checkpoint(made.folder)) == []
        assert metrics(made.folder) == metrics(trained.folder)
