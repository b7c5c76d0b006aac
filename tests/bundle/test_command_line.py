"""Overrides that a run refuses, through `monai.bundle.run` in this process."""

from __future__ import annotations

import json
import multiprocessing
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import monai.bundle
import pytest
import torch
import yaml

from scripts.bundle import command_line as faults
from scripts.bundle.command_line import check_overrides, refuse_overrides, running_workflow
from scripts.data.datalist import DataError
from scripts.files import StorageError
from tests.small_bundle import CONFIG, cause, refused, run, write_config


@pytest.fixture(autouse=True)
def same_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs set how errors are shown; put it back."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


@pytest.fixture
def config(tmp_path: Path) -> str:
    return write_config(tmp_path)


class TestCheckOverrides:
    @pytest.mark.parametrize(
        ("override", "near"),
        [
            ("max_epoch", "max_epochs"),
            ("train#dat", "train#data"),
            ("train::dat", "train#data"),
            ("train#limits", "train#limit"),
            ("train#handlers#0#intervall", "train#handlers#0#interval"),
        ],
    )
    def test_misspelt(self, config: str, tmp_path: Path, override: str, near: str) -> None:
        name = override.replace("::", "#")
        assert (
            refused(config, **{override: 5}) == f"--{name} is not a key of this configuration; did you mean --{near}?"
        )
        assert not (tmp_path / "run").exists()

    def test_poorly_spelt(self, config: str) -> None:
        """Half of the letters are enough to be told the key, less are not."""
        message = "--max_iter is not a key of this configuration; did you mean --max_epochs?"
        assert refused(config, max_iter=5) == message
        assert refused(config, maxit=5).endswith("; see docs/configs.md for the keys")

    def test_nothing_near(self, config: str) -> None:
        message = refused(config, qqqqqqqqqqq=5)
        assert message == "--qqqqqqqqqqq is not a key of this configuration; see docs/configs.md for the keys"

    def test_misspelt_in_an_args_file(self, config: str, tmp_path: Path) -> None:
        arguments = {"config_file": config, "run_id": "training", "max_epoch": 5}
        (tmp_path / "args.json").write_text(json.dumps(arguments), encoding="utf-8")
        with pytest.raises(RuntimeError) as caught:  # noqa: PT011
            monai.bundle.run(args_file=str(tmp_path / "args.json"), logging_file=False)
        assert str(cause(caught.value)).endswith("did you mean --max_epochs?")

    def test_known(self, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run(config, max_epochs=5, **{"train#limit": 1})
        assert "trained for 5" in capsys.readouterr().out
        effective = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
        assert effective["max_epochs"] == 5
        assert effective["train"].pop("data")[0]["image"] == str(tmp_path / "a.nii.gz")
        assert effective["train"] == {"handlers": CONFIG["train"]["handlers"], "limit": 1}

    def test_keys_of_trackers_and_of_monai_label(self, config: str, tmp_path: Path) -> None:
        run(
            config, bundle_root=str(tmp_path), dataset_dir="", displayable_configs={}, experiment_name="e", run_name="r"
        )
        assert (tmp_path / "run" / "config.yaml").is_file()

    def test_key_of_an_overlay(self, config: str, tmp_path: Path) -> None:
        overlay = tmp_path / "overlay.yaml"
        overlay.write_text("section: test\n'+train': {more: 1}\n", encoding="utf-8")
        monai.bundle.run(
            "training", config_file=[config, str(overlay)], logging_file=False, section="x", **{"train#more": 2}
        )
        message = refused(config, section="x")  # without the overlay there is no such key
        assert message.startswith("--section is not a key of this configuration")

    @pytest.mark.parametrize("word", ["false", "true", "no", ""])
    def test_word_for_a_boolean(self, config: str, tmp_path: Path, word: str) -> None:
        assert refused(config, resume=word) == f"--resume must be True or False, got {word!r}"
        assert not (tmp_path / "run").exists()

    def test_word_for_a_boolean_in_an_args_file(self, config: str, tmp_path: Path) -> None:
        arguments = {"config_file": config, "run_id": "training", "resume": "false"}
        (tmp_path / "args.json").write_text(json.dumps(arguments), encoding="utf-8")
        with pytest.raises(RuntimeError) as caught:  # noqa: PT011
            monai.bundle.run(args_file=str(tmp_path / "args.json"), logging_file=False)
        assert str(cause(caught.value)) == "--resume must be True or False, got 'false'"

    def test_none(self, config: str, tmp_path: Path) -> None:
        message = "--max_epochs None would be passed over: MONAI drops an override that is None; write '$None'"
        assert refused(config, max_epochs=None) == message
        assert not (tmp_path / "run").exists()

    def test_none_where_the_file_has_none(self, tmp_path: Path) -> None:
        file = tmp_path / "some.yaml"
        file.write_text("weights: null\nsteps: 3\n", encoding="utf-8")
        refuse_overrides({"weights": None}, [file])
        with pytest.raises(DataError, match="--steps None would be passed over"):
            refuse_overrides({"steps": None}, [file])

    def test_none_as_an_expression(self, config: str, capsys: pytest.CaptureFixture[str]) -> None:
        run(config, note="$None")
        assert "noted None" in capsys.readouterr().out

    @pytest.mark.parametrize("value", [True, False, 1, "$1 > 2", "@datalist", "%datalist"])
    def test_values_for_a_boolean(self, config: str, tmp_path: Path, value: bool | int | str) -> None:
        run(config, resume=value)
        assert (tmp_path / "run" / "config.yaml").is_file()

    def test_words_elsewhere(self, config: str, capsys: pytest.CaptureFixture[str]) -> None:
        run(config, note="false")
        assert "noted false" in capsys.readouterr().out

    def test_command_line_overrides_an_args_file(self, config: str, tmp_path: Path) -> None:
        arguments = {"config_file": config, "run_id": "training", "resume": "false"}
        (tmp_path / "args.json").write_text(json.dumps(arguments), encoding="utf-8")
        monai.bundle.run(args_file=str(tmp_path / "args.json"), logging_file=False, resume=False)
        assert (tmp_path / "run" / "config.yaml").is_file()

    @pytest.mark.parametrize(
        ("key", "value"), [("_disabled_", True), ("_requires_", "$None"), ("_mode_", "callable"), ("_desc_", "words")]
    )
    @pytest.mark.parametrize("component", ["train#handlers#0", "training#0"])
    def test_what_every_component_takes(self, config: str, component: str, key: str, value: bool | str) -> None:
        if component != "training#0":
            content = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
            content["train"]["handlers"] = [{"_target_": "builtins.dict", "interval": 1}]
            Path(config).write_text(yaml.safe_dump(content), encoding="utf-8")
        refuse_overrides({f"{component}#{key}": value}, [config])
        with pytest.raises(DataError, match="is not a key of this configuration"):
            refuse_overrides({f"train#{key}": value}, [config])  # a table that makes nothing

    def test_a_switch_that_is_a_word(self, config: str) -> None:
        with pytest.raises(DataError, match="--training#0#_disabled_ must be True or False, got 'no'"):
            refuse_overrides({"training#0#_disabled_": "no"}, [config])

    def test_text_of_another_file(self, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "other.yaml").write_text("epochs: {short: 7}\n", encoding="utf-8")
        run(config, max_epochs=f"%{tmp_path / 'other.yaml'}#epochs#short")
        assert "trained for 7" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "changed", [lambda config_file, args_file: None, lambda config, args_file, **override: None]
    )
    def test_another_monai_is_said(self, monkeypatch: pytest.MonkeyPatch, changed: Any) -> None:
        """Instead of a check that switches itself off."""
        monkeypatch.setattr(monai.bundle, "run", changed)
        monkeypatch.setattr(faults, "arguments_of", lambda function: {})
        with pytest.raises(RuntimeError, match=r"so that overrides cannot be checked; install a version that"):
            check_overrides()

    def test_a_run_that_is_not_found_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        main = SimpleNamespace(__spec__=SimpleNamespace(name="monai.bundle.__main__"))
        monkeypatch.setitem(sys.modules, "__main__", main)  # type: ignore[arg-type]
        monkeypatch.setattr(sys, "argv", ["python -m monai.bundle", "run", "training"])
        with pytest.raises(RuntimeError, match="overrides cannot be checked"):
            check_overrides()

    def test_outside_a_run(self) -> None:
        check_overrides()
        assert running_workflow() is None


class TestRefuseOverrides:
    def test_value(self, config: str) -> None:
        refuse_overrides({}, ["there is no such file.yaml"])
        refuse_overrides({"train::limit": 5, "resume": True}, [config])
        with pytest.raises(DataError, match="--resumes is not a key of this configuration; did you mean --resume"):
            refuse_overrides({"resumes": True}, [config])


class TestErrors:
    def show(self, error: BaseException) -> None:
        start_hook = faults._excepthook
        start_hook(type(error), error, error.__traceback__)

    def test_faults_of_the_user_are_excepthook(self, capsys: pytest.CaptureFixture[str]) -> None:
        try:
            try:
                raise DataError("no scans")
            except DataError as error:
                raise RuntimeError("wrapped by MONAI") from error
        except RuntimeError as error:
            self.show(error)
        assert capsys.readouterr().err == "Error: no scans\n"

    def test_errors_that_are_each_other_s_cause(self, capsys: pytest.CaptureFixture[str]) -> None:
        wrapped, inner = RuntimeError("wrapped by MONAI"), DataError("no scans")
        wrapped.__cause__, inner.__cause__ = inner, wrapped
        self.show(wrapped)
        assert capsys.readouterr().err == "Error: no scans\n"

    def test_full_disk_is_excepthook(self, capsys: pytest.CaptureFixture[str]) -> None:
        wrapped = RuntimeError("wrapped by MONAI")
        wrapped.__cause__ = StorageError("c.pt cannot be written: the disk is full")
        self.show(wrapped)
        assert capsys.readouterr().err == "Error: c.pt cannot be written: the disk is full\n"

    @pytest.mark.parametrize(
        ("error", "mend"),
        [
            (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "a smaller --num_workers"),
            (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "a smaller --num_workers"),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "smaller --batch_size"),
            (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "a smaller --batch_size"),
            (MemoryError(), "a smaller --batch_size"),
        ],
    )
    def test_machine_at_its_end(self, error: Exception, mend: str, capsys: pytest.CaptureFixture[str]) -> None:
        wrapped = RuntimeError("wrapped by MONAI")
        wrapped.__cause__ = error
        self.show(wrapped)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("Error: ")
        assert mend in line
        assert line.endswith("--resume True goes on after the last epoch that was kept")

    def test_reader_that_dies_while_it_hands_a_batch_over(self, capsys: pytest.CaptureFixture[str]) -> None:
        ours, theirs = multiprocessing.Pipe()
        theirs.close()
        try:
            ours.recv()
        except EOFError as error:
            self.show(error)
        ours.close()
        assert capsys.readouterr().err.startswith("Error: a process that reads data was killed")

    def test_faults_of_ours_keep_their_traceback(self, capsys: pytest.CaptureFixture[str]) -> None:
        try:
            raise KeyError("bug")
        except KeyError as error:
            self.show(error)
        assert "Traceback" in capsys.readouterr().err

    def test_shown_from_now_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
        faults.show_data_errors_without_traceback()
        assert sys.excepthook is faults._excepthook
