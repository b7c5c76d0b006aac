"""`--tracking mlflow` on both stages, into a local store: tags, losses and scores, pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.training.tracking import run_tags

EXPECTED = {"seed": "0", "labelled": "2", "unlabelled": "2", "labelled_ratio": "0.500"}


class TestRunTags:
    @pytest.mark.parametrize(
        ("labelled", "unlabelled", "ratio"), [([1], [2, 3, 4], "0.250"), ([1], [], "1.000"), ([], [], "1.000")]
    )
    def test_value(self, labelled: list[int], unlabelled: list[int], ratio: str) -> None:
        assert run_tags({}, 3, labelled, unlabelled) == {
            "method": "dict",
            "configs": "",
            "seed": "3",
            "labelled": str(len(labelled)),
            "unlabelled": str(len(unlabelled)),
            "labelled_ratio": ratio,
        }


@pytest.mark.filterwarnings("ignore")  # of MLflow's own packages
class TestMlflow:
    def run_of(self, store: str, folder: Path) -> Any:
        """The one run of a local store, and the names of its artifacts."""
        client = pytest.importorskip("mlflow").MlflowClient(store)
        (experiment,) = [e for e in client.search_experiments() if e.name == "monai_experiment"]
        (run,) = client.search_runs([experiment.experiment_id])
        names = [a.path for where in ("", "pictures") for a in client.list_artifacts(run.info.run_id, where)]
        return run, names

    @pytest.mark.parametrize("stage", [1, 2])
    def test_both_stages(
        self,
        stage: int,
        run_bundle: Callable[..., None],
        train: Callable[..., SimpleNamespace],
        stage1: SimpleNamespace,
        tmp_path: Path,
    ) -> None:
        pytest.importorskip("mlflow", reason="mlflow is not installed (requirements-mlflow.txt)")
        store = f"sqlite:///{tmp_path}/mlruns.db"
        if stage == 1:
            run_bundle(
                "pretraining",
                ["pretrain.yaml", "offline_encoders.yaml", "smoke.yaml"],
                datalist=stage1.datalist,
                output_dir=tmp_path / "run",
                prompt_model_dir=tmp_path / "models/prompt",
                cache_dir=stage1.cache,
                tracking="mlflow",
                tracking_uri=store,
            )
        else:
            train(tmp_path, tracking="mlflow", tracking_uri=store)
        run, names = self.run_of(store, tmp_path)
        assert {name: run.data.tags[name] for name in EXPECTED} == EXPECTED
        assert run.data.tags["method"] == ("PromptPretraining" if stage == 1 else "CPS4")
        assert run.data.tags["loss_terms"].split() == (["token", "pixel"] if stage == 1 else ["supervised", "enhanced"])
        assert run.data.tags["configs"].split()[0] == ("pretrain.yaml" if stage == 1 else "train.yaml")
        assert run.info.status == "FINISHED"
        assert "train_loss" in run.data.metrics
        wanted = {"val_prompt_map_dice"} if stage == 1 else {"val_mean_dice", "val_levels_right"}
        assert wanted | {"lr_group_0"} <= set(run.data.metrics)
        assert {"curves.png", "metrics.csv", "config.yaml"} <= set(names)
        drawn = {path.name for path in (tmp_path / "run/pictures").iterdir()}
        assert drawn
        assert {f"pictures/{name}" for name in drawn} <= set(names)

    def test_without_mlflow(
        self, train: Callable[..., SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "mlflow", None)
        monkeypatch.setattr("scripts.training.start.find_spec", lambda name: None)
        with pytest.raises(RuntimeError) as caught:  # noqa: PT011 - MONAI's words around ours; ours are compared
            train(tmp_path, tracking="mlflow", tracking_uri=f"sqlite:///{tmp_path}/mlruns.db")
        error: BaseException = caught.value
        while error.__cause__ is not None and type(error).__name__ != "DataError":
            error = error.__cause__
        assert str(error) == (
            "MLflow is not installed; pip install -r requirements-mlflow.txt, or leave out --tracking"
        )
