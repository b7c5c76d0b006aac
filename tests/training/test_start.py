"""What runs refuse before their first step, through `monai.bundle.run` in this process."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from scripts.data.datalist import DataError
from scripts.training import start as runs
from scripts.training.start import prepare_prompt_maps, start
from scripts.weights import mark_unfinished
from tests.small_bundle import refused, run, write_config
from tests.tiny import write_volume


@pytest.fixture(autouse=True)
def same_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs set how errors are shown; put it back."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


@pytest.fixture
def config(tmp_path: Path) -> str:
    return write_config(tmp_path)


class TestStart:
    def test_no_data(self, config: str) -> None:
        assert refused(config, **{"train#data": []}).startswith("no datalist was given; add --datalist D.json")

    def test_all_problems_at_once(self, tmp_path: Path) -> None:
        image = write_volume(tmp_path / "a.nii.gz", np.ones((6, 5, 4), dtype=np.int16))
        small = write_volume(tmp_path / "b.nii.gz", np.zeros((6, 5, 3), dtype=np.uint8))
        odd = write_volume(tmp_path / "c.nii.gz", np.full((6, 5, 4), 77, dtype=np.uint8))
        sections = {
            "training": [{"image": image, "label": small, "case": "1"}, {"image": image, "label": odd, "case": "2"}],
            "unlabelled": [{"image": str(tmp_path / "gone.nii.gz")}],
            "validation": [],
        }
        datalist = tmp_path / "d.json"
        datalist.write_text(json.dumps(sections), encoding="utf-8")
        with pytest.raises(DataError) as caught:  # noqa: PT011
            start(tmp_path / "run", datalist, dict.fromkeys(sections, ""))
        message = str(caught.value)
        assert all(str(tmp_path / name) in message for name in ("b.nii.gz", "c.nii.gz", "gone.nii.gz"))
        assert "problems with the data:" in message.splitlines()[0]
        assert not (tmp_path / "run").exists()

    def test_entries_without_a_datalist(self, config: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """As under MONAI Label: what the datastore gives is checked and counted like a datalist's entries."""
        good = yaml.safe_load(Path(config).read_text(encoding="utf-8"))["train#data"]
        with caplog.at_level("INFO"):
            run(config)
        assert "scans: 1 labelled" in caplog.text
        odd = write_volume(tmp_path / "odd.nii.gz", np.full((5, 4, 3), 77, dtype=np.uint8))
        message = refused(config, **{"train#data": [*good, {**good[0], "label": odd}]})
        assert "odd.nii.gz: holds the label value 77, which the label map 'identity' does not know" in message

    def test_pretrained_encoders_come_first(self, config: str, tmp_path: Path) -> None:
        """Before the data are opened; those that are built from a `config` are not asked for."""
        asked: list[list[str]] = []

        def require(names: list[str]) -> None:
            asked.append(names)
            raise DataError("no network")

        content = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        content.update(encoder="hub/vit", vision={"pretrained": "@encoder"})
        content["text"] = {"pretrained": "hub/bert", "config": {"hidden_size": 8}}
        assert runs._pretrained_names(ConfigParser(content)) == ["hub/vit"]
        content["text"] = {"pretrained": None}
        assert runs._pretrained_names(ConfigParser(content)) == ["hub/vit"]
        content["text"] = {"pretrained": "hub/bert"}
        assert runs._pretrained_names(ConfigParser(content)) == ["hub/vit", "hub/bert"]
        content["training"][0]["pretrained"] = None
        content["datalist"] = str(tmp_path / "missing.json")
        Path(config).write_text(yaml.safe_dump(content), encoding="utf-8")
        assert refused(config, **{"training#0#pretrained": require}) == "no network"
        assert asked == [["hub/vit", "hub/bert"]]

    def test_resumed_with_another_network(self, config: str, tmp_path: Path) -> None:
        run(config, resume=True)
        (tmp_path / "run" / "checkpoint.pt").write_bytes(b"x")
        before = (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")
        content = {**yaml.safe_load(Path(config).read_text(encoding="utf-8")), "channels": [4, 8]}
        Path(config).write_text(yaml.safe_dump(content), encoding="utf-8")
        assert "cannot go on with these: channels#0 4 (before: not given)" in refused(config, resume=True)
        assert (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8") == before
        run(config, overwrite=True)  # a new run may

    def test_folders_are_named_by_their_keys(self, config: str, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("", encoding="utf-8")
        content = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        for other, key in ((None, "prompt_model_dir"), ("ckpt_dir", "ckpt_dir")):
            given = {**content, "prompt_model_dir": str(tmp_path / "file/models")}
            if other:  # stage 2 reads the stage-1 model, perhaps from where it may not write
                given[other] = str(tmp_path / "file/models")
            Path(config).write_text(yaml.safe_dump(given), encoding="utf-8")
            assert refused(config).endswith(f"name another folder with --{key}")

    @pytest.mark.parametrize("listed", [True, False], ids=["datalist", "entries"])
    def test_labels_outside_of_the_window_are_warned_of(
        self, config: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, listed: bool
    ) -> None:
        """For each case, and training goes on."""
        content = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        content["training"][0]["window"] = {"image_size": [6, 4], "pixel_mm": 0.5}
        entries = [{**content["train#data"][0], "case": "a"}]
        if listed:
            (tmp_path / "d.json").write_text(json.dumps({"training": entries}), encoding="utf-8")
            content["datalist"] = str(tmp_path / "d.json")
        content["train#data"] = entries
        Path(config).write_text(yaml.safe_dump(content), encoding="utf-8")
        run(config)
        words = r"b\.nii\.gz: has [\d.]+% of its labelled voxels outside of the window of 3 x 2 mm .* \(case a\)"
        assert len(re.findall(words, caplog.text)) == 1
        assert (tmp_path / "run/config.yaml").is_file()

    def test_from_python(self, tmp_path: Path) -> None:
        """Without a workflow there are no overrides to refuse and no config to write."""
        image = write_volume(tmp_path / "a.nii.gz", np.arange(8000, dtype=np.int16).reshape(20, 20, 20))
        (tmp_path / "d.json").write_text(json.dumps({"unlabelled": [{"image": image}]}), encoding="utf-8")
        start(tmp_path / "run", tmp_path / "d.json", {"unlabelled": ""})
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", "run.json"]


class Maps:
    """Stands for `PromptMaps`; remembers what was built."""

    def __init__(self, checkpoint: Path, fault: Exception | None = None) -> None:
        self.checkpoint, self.model_dir, self.fault = checkpoint, checkpoint.parent, fault
        self.built: list[Any] = []

    def load_model(self, folder: Path) -> None:
        if self.fault is not None:
            raise self.fault

    def build(self, dataset: Any) -> None:
        self.built.append(dataset)


class TestPreparePromptMaps:
    DATASET = SimpleNamespace(data=[{"image": "a"}])

    def test_there_is_a_checkpoint(self, tmp_path: Path) -> None:
        (tmp_path / "model.pt").write_bytes(b"x")
        for when in ("error", "pretrain", "supervised"):
            maps = Maps(tmp_path / "model.pt")
            prepare_prompt_maps(maps, self.DATASET, when)
            assert maps.built == [self.DATASET]

    def test_error(self, tmp_path: Path) -> None:
        maps = Maps(tmp_path / "model.pt")
        with pytest.raises(
            DataError, match=r"no stage-1 checkpoint .*model.pt; make one with python -m monai.bundle run"
        ):
            prepare_prompt_maps(maps, self.DATASET, "error")
        assert maps.built == []

    def test_supervised(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        maps = Maps(tmp_path / "model.pt")
        prepare_prompt_maps(maps, self.DATASET, "supervised")
        assert maps.built == []
        assert "training without class prompts" in caplog.text

    def test_pretrain(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        maps, order = Maps(tmp_path / "model.pt"), []
        monkeypatch.setattr(runs, "pretrain", lambda **settings: order.append((settings, list(maps.built))))
        prepare_prompt_maps(maps, self.DATASET, "pretrain", {"bundle_root": "b", "seed": 3})
        assert order == [({"bundle_root": "b", "seed": 3}, [])]
        assert maps.built == [self.DATASET]

    @pytest.mark.parametrize("when", ["pretrain", "error", "supervised"])
    def test_stage_1_that_was_killed_goes_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, when: str
    ) -> None:
        """Its best network so far lies there and must not be taken for its last."""
        (tmp_path / "model.pt").write_bytes(b"x")
        mark_unfinished(tmp_path, True)
        maps, begun = Maps(tmp_path / "model.pt"), []
        monkeypatch.setattr(runs, "pretrain", lambda **settings: begun.append(settings))
        prepare_prompt_maps(maps, self.DATASET, when, {"resume": True})
        assert begun == ([{"resume": True}] if when == "pretrain" else [])
        assert ("has not come to its end" in caplog.text) == (when != "pretrain")
        assert maps.built == [self.DATASET]

    def test_no_unlabelled(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        maps = Maps(tmp_path / "model.pt")
        prepare_prompt_maps(maps, SimpleNamespace(data=[]), "error")
        assert maps.built == []
        assert "no unlabelled volumes" in caplog.text

    def test_method_without_prompts(self) -> None:
        prepare_prompt_maps(None, self.DATASET, "error")

    @pytest.mark.parametrize("fault", [ValueError("for other classes"), FileNotFoundError("model.json is missing")])
    def test_checkpoint_that_cannot_be_used(self, tmp_path: Path, fault: Exception) -> None:
        (tmp_path / "model.pt").write_bytes(b"x")
        maps = Maps(tmp_path / "model.pt", fault)
        with pytest.raises(DataError, match=str(fault)):
            prepare_prompt_maps(maps, self.DATASET, "error")
        assert maps.built == []

    def test_another_grid(self, tmp_path: Path) -> None:
        (tmp_path / "model.pt").write_bytes(b"x")
        maps = Maps(tmp_path / "model.pt")
        maps.load_model = lambda folder: SimpleNamespace(info={"image_size": [96, 48], "pixel_mm": 2.4})  # type: ignore
        prepare_prompt_maps(maps, self.DATASET, "error", grid={"image_size": [96, 48], "pixel_mm": 2.4})
        told = (
            f"stage 1 in {tmp_path} was trained with image_size [96, 48], this run has [192, 96]; give both stages the "
            'same grid (--image_size "[96, 48]"), or this one another --prompt_model_dir'
        )
        with pytest.raises(DataError, match=re.escape(told)):
            prepare_prompt_maps(maps, self.DATASET, "error", grid={"image_size": [192, 96], "pixel_mm": 2.4})
        with pytest.raises(DataError, match=r"with pixel_mm 2\.4, this run has 1.2"):
            prepare_prompt_maps(maps, self.DATASET, "error", grid={"image_size": [96, 48], "pixel_mm": 1.2})
        assert len(maps.built) == 1
        maps.load_model = lambda folder: SimpleNamespace(info={})  # type: ignore[method-assign]
        prepare_prompt_maps(maps, self.DATASET, "error", grid={"pixel_mm": 1.2})  # of a checkpoint that does not say it

    def test_exception(self) -> None:
        with pytest.raises(DataError, match="when_no_prompt_model must be error, pretrain or supervised, got 'skip'"):
            prepare_prompt_maps(None, self.DATASET, "skip")


class TestRunIds:
    """`training` refuses without a stage-1 checkpoint, `run` makes one, and the key says otherwise to both."""

    @pytest.mark.parametrize(("run_id", "default"), [("training", "error"), ("run", "pretrain")])
    @pytest.mark.parametrize("given", ["", "error", "pretrain", "supervised"])
    def test_value(self, bundle_root: Path, run_id: str, default: str, given: str) -> None:
        parser = ConfigParser(ConfigParser.load_config_files([str(bundle_root / "configs" / "train.yaml")]))
        parser["when_no_prompt_model"] = given
        parser["prepare_prompts"] = "$lambda when_missing: when_missing"
        parser.parse()
        items = parser[run_id]
        assert items[0]["_target_"] == "scripts.training.start.start"
        numbers = [i for i, item in enumerate(items) if isinstance(item, str) and "@prepare_prompts" in item]
        assert len(numbers) == 1
        assert parser.get_parsed_content(f"{run_id}#{numbers[0]}") == (given or default)


class TestPretrain:
    def test_runs_the_bundles_own_stage_1(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "configs").mkdir()
        steps = ["$print('stage 1', @seed, @device, @train#data)", "$monai.utils.set_determinism(seed=9)"]
        content = {"seed": 0, "device": "cpu", "pretraining": steps, "train": {"data": []}}
        (tmp_path / "configs" / "pretrain.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        (tmp_path / "configs" / "small.yaml").write_text("device: meta\n", encoding="utf-8")
        entries, state = ({"image": "a"},), torch.get_rng_state()
        runs.pretrain(bundle_root=tmp_path, seed=4, device=None, **{"train#data": list(entries)})
        runs.pretrain(bundle_root=tmp_path, configs=["pretrain.yaml", "small.yaml"])
        assert capsys.readouterr().out == f"stage 1 4 cpu {entries}\nstage 1 0 meta []\n"
        assert torch.equal(torch.get_rng_state(), state)  # stage 2 goes on as if nothing had been drawn


class TestStage1Configs:
    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            (None, ["pretrain.yaml"]),
            ("{}", ["pretrain.yaml"]),
            (
                '{"models": "x", "stage1": "offline_encoders.yaml, narrow.yaml"}',
                ["pretrain.yaml", "offline_encoders.yaml", "narrow.yaml"],
            ),
        ],
    )
    def test_value(self, settings: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(runs.LABEL_SERVER_CONF, raising=False)
        if settings is not None:
            monkeypatch.setenv(runs.LABEL_SERVER_CONF, settings)
        assert runs.stage1_configs() == expected

    def test_exception(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv(runs.LABEL_SERVER_CONF, "[1]")
        with pytest.raises(DataError, match="MONAI_LABEL_APP_CONF must be a JSON table"):
            runs.stage1_configs()
        with pytest.raises(DataError, match=r"^stage 1: there is no config .*gone.yaml; correct its name"):
            runs.pretrain(tmp_path, ["gone.yaml"])
