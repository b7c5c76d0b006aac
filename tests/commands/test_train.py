"""What `train` chooses for data and machine, the hours it tells, and the command it stands for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.bundle.model_file import load_weights
from scripts.commands import estimate as estimate_module
from scripts.commands import train as module
from scripts.commands.estimate import composed, pretraining_seconds, training_seconds
from scripts.commands.train import estimate, make_plan
from scripts.data.datalist import DataError
from scripts.files import FileError
from scripts.networks.resunet import ResUNet2d
from scripts.phantom.write import write_phantoms
from scripts.weights import mark_unfinished, write_model_files

SMALL = {"image_size": [32, 16], "channels": [4, 8, 8], "batch_size": 2, "unlabelled_batch_size": 2}


@pytest.fixture(scope="module")
def datalist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms of 280 x 224 mm, 7 mm a pixel."""
    folder = tmp_path_factory.mktemp("phantoms")
    return write_phantoms(folder, labelled=1, unlabelled=2, validation=1, test=0, shape_hw=(40, 32), pixel_mm=7.0)


@pytest.fixture
def supervised(datalist: Path, tmp_path: Path) -> Path:
    content = json.loads(datalist.read_text(encoding="utf-8"))
    for section in ("training", "validation"):
        for entry in content[section]:
            entry |= {key: str(datalist.parent / entry[key]) for key in ("image", "label")}
    path = tmp_path / "D.json"
    path.write_text(json.dumps({**content, "unlabelled": []}), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without a GPU, whatever it is."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


class TestMakePlan:
    def test_on_a_cpu(self, datalist: Path, tmp_path: Path) -> None:
        plan = make_plan(datalist, tmp_path / "run")
        assert plan.configs == ["train.yaml", "narrow.yaml"]
        assert plan.stage1 == ["pretrain.yaml", "offline_encoders.yaml"]
        assert [run_id for run_id, _, _ in plan.runs] == ["pretraining", "training"]
        shared = ("datalist", "prompt_model_dir", "cache_dir", "image_size", "pixel_mm")
        assert {key: plan.stage1_settings[key] for key in shared} == {key: plan.settings[key] for key in shared}
        assert plan.stage1_settings["output_dir"] == tmp_path / "run/pretrain"
        assert plan.settings["pixel_mm"] == 7.0
        assert all(side % 16 == 0 for side in plan.settings["image_size"])
        assert plan.settings["prompt_model_dir"] == tmp_path / "run/models/prompt"
        assert plan.settings["cache_dir"] == Path("cache")

    @pytest.mark.parametrize("hub", [True, False])
    def test_on_a_gpu(self, datalist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: bool) -> None:
        def require(names: list[str]) -> None:
            assert len(names) == 2
            if not hub:
                raise FileError("no hub")

        monkeypatch.setattr(module, "require_pretrained", require)
        plan = make_plan(datalist, tmp_path / "run", device="cuda:0")
        assert plan.configs == ["train.yaml"]
        assert plan.stage1 == ["pretrain.yaml", *([] if hub else ["offline_encoders.yaml"])]
        assert plan.settings["device"] == "cuda:0"

    def test_without_unlabelled_scans(self, supervised: Path, tmp_path: Path) -> None:
        plan = make_plan(supervised, tmp_path / "run")
        assert plan.stage1 == []
        assert [run_id for run_id, _, _ in plan.runs] == ["training"]

    def test_settings_go_before(self, datalist: Path, tmp_path: Path) -> None:
        plan = make_plan(datalist, tmp_path / "run", image_size=[64, 32], max_epochs=3, **{"stage1#max_epochs": 2})
        assert (plan.settings["image_size"], plan.settings["max_epochs"]) == ([64, 32], 3)
        assert (plan.stage1_settings["image_size"], plan.stage1_settings["max_epochs"]) == ([64, 32], 2)

    def test_going_on_passes_over_a_stage_1_that_has_ended(self, datalist: Path, tmp_path: Path) -> None:
        plan = make_plan(datalist, tmp_path / "run", resume=True)
        assert len(plan.runs) == 2
        write_model_files(plan.settings["prompt_model_dir"], b"weights", {})
        assert len(plan.runs) == 1
        mark_unfinished(plan.settings["prompt_model_dir"], True)
        assert len(plan.runs) == 2

    def test_weights_decide(self, datalist: Path, tmp_path: Path) -> None:
        beside = {
            "image_size": [192, 96],
            "pixel_mm": 1.55,
            "channels": [4, 8],
            "norm": "group",
            "statistics": "running",
        }
        write_model_files(tmp_path, b"weights", beside)
        plan = make_plan(datalist, tmp_path / "run", warm_start=tmp_path / "model.pt")
        assert {key: plan.settings[key] for key in beside} == beside
        with pytest.raises(DataError, match=r"there are no weights .*none\.pt"):
            make_plan(datalist, tmp_path / "run", warm_start=tmp_path / "none.pt")

    def test_keys_exist(self, datalist: Path, tmp_path: Path) -> None:
        """The run itself refuses keys that are none."""
        plan = make_plan(datalist, tmp_path / "run", resume=True)
        for _, configs, settings in plan.runs:
            parser = composed(configs, {})
            assert [key for key in settings if key not in parser] == []


class TestEstimate:
    def test_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a second for everything: half the steps supervised; validations and rounds count volumes."""
        monkeypatch.setattr(estimate_module, "_seconds", lambda action, device: len([action()]) * 1.0)
        settings: dict[str, Any] = {**SMALL, "max_epochs": 4, "iters_per_epoch": 10, "val_interval": 2, "device": "cpu"}
        assert training_seconds(["train.yaml"], settings, unlabelled=0, validation=3) == (40, 40.0 + 3 * 2)
        views = 13
        assert training_seconds(["train.yaml"], settings, unlabelled=5, validation=0) == (40, 40.0 + 5 * (views + 1))

    def test_stage1(self) -> None:
        configs = ["pretrain.yaml", "offline_encoders.yaml"]
        settings = {"image_size": [32, 16], "batch_size": 2, "max_epochs": 2, "iters_per_epoch": 3, "device": "cpu"}
        steps, seconds = pretraining_seconds(configs, settings)
        assert steps == 6
        assert 0 < seconds < 600

    def test_line(self, datalist: Path, tmp_path: Path) -> None:
        plan = make_plan(datalist, tmp_path / "run", **SMALL, **{"stage1#max_epochs": 2})
        line = estimate(plan)
        assert re.match(r"time: about [\d.]+ (h|min) \(40 steps in .*, then 6000 steps in .*\), an estimate", line)


class TestWarmStart:
    @pytest.fixture
    def weights(self, tmp_path: Path) -> Path:
        network = ResUNet2d(1, 20, [4, 8])
        from scripts.bundle.model_file import write_model

        write_model(network, tmp_path, {"channels": [4, 8], "norm": "batch", "image_size": [192, 96], "pixel_mm": 1.55})
        return tmp_path / "model.pt"

    def workflow(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        class Running:
            parser = composed(["train.yaml"], settings)

        monkeypatch.setattr("scripts.bundle.model_file.running_workflow", Running)

    def test_another_width_names_the_keys(self, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workflow(monkeypatch, norm="group")
        with pytest.raises(ValueError, match="are of another network") as raised:
            load_weights(weights, [])
        assert str(raised.value).endswith('add --channels "[4,8]" --norm "batch"')

    def test_another_grid_is_warned_of(
        self, weights: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.workflow(monkeypatch, channels=[4, 8])
        load_weights(weights, [ResUNet2d(1, 20, [4, 8])])
        assert '--image_size "[192,96]" --pixel_mm "1.55"' in caplog.text
        caplog.clear()
        self.workflow(monkeypatch, channels=[4, 8], image_size=[192, 96], pixel_mm=1.55)
        load_weights(weights, [ResUNet2d(1, 20, [4, 8])])
        assert caplog.text == ""
