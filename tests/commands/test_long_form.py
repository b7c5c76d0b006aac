"""Settings of one-word commands, and the long command lines that they print."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from fire.parser import DefaultParseValue

from scripts.commands.long_form import long_command, read_settings

ROOT = Path(__file__).resolve().parents[2]


class TestReadSettings:
    def test_value(self) -> None:
        words = ["batch_size=8", "image_size=[192,96]", "loss_weights#prompt=0.5", "resume=True", "x=$None", "y=a=b"]
        assert read_settings(words) == {
            "batch_size": 8,
            "image_size": [192, 96],
            "loss_weights#prompt": 0.5,
            "resume": True,
            "x": "$None",
            "y": "a=b",
        }

    def test_spelling_of_the_long_command(self) -> None:
        assert read_settings(["--batch_size", "8", "--a#b=c", "d=1"]) == {"batch_size": 8, "a#b": "c", "d": 1}

    @pytest.mark.parametrize("words", [["word"], ["--batch_size"], ["a=1", "-x"]])
    def test_refusal(self, words: list[str]) -> None:
        with pytest.raises(ValueError, match="neither an option nor a setting KEY=VALUE"):
            read_settings(words)


class TestLongCommand:
    def test_in_the_root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(ROOT)
        line = long_command("inference", ["inference.yaml"], {"input_dir": "a b", "batch_size": 8})
        assert line == (
            "python -m monai.bundle run inference --config_file configs/inference.yaml --input_dir 'a b' --batch_size 8"
        )

    def test_elsewhere(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        words = shlex.split(long_command("training", ["train.yaml", "narrow.yaml"], {}))
        assert DefaultParseValue(words[6]) == [str(ROOT / "configs/train.yaml"), str(ROOT / "configs/narrow.yaml")]
        assert words[7:] == ["--bundle_root", str(ROOT)]

    @pytest.mark.parametrize(
        "value", ["2026", "1e5", "[a]", "True", "plain", "with space", "$HOME", Path("7"), 7, [1, 2]]
    )
    def test_values_come_back(self, value: object) -> None:
        """What Fire makes of the word that the shell hands over is the value."""
        word = shlex.split(long_command("run", ["train.yaml"], {"key": value}))[-1]
        assert DefaultParseValue(word) == (str(value) if isinstance(value, Path) else value)
