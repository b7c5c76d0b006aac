"""A few kinds of every sort in `make test`; the whole trial, which writes docs/results, among the slow tests."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from scripts.tools.reliability import bad_input
from scripts.tools.reliability.bad_input import NotTolerantError, try_folders, try_lists
from scripts.tools.reliability.bad_lists import FOLDERS, LISTS
from scripts.tools.reliability.bad_scans import EITHER, ODD, REFUSED


class TestKinds:
    def test_there_are_many(self) -> None:
        kinds = [*REFUSED, *ODD, *EITHER, *LISTS, *FOLDERS]
        assert len(kinds) == len(set(kinds)) > 100

    def test_scans_are_a_function_of_the_seed(self, tmp_path: Path) -> None:
        def written(name: str) -> list[bytes]:
            rows = bad_input.write_scans(tmp_path / name, 2, 3, ["text", "NIfTI cut off", "header with damaged bytes"])
            return [row["path"].read_bytes() for row in rows]

        assert written("a") == written("b")
        assert len(written("c")) == 6


class TestCommands:
    @pytest.mark.parametrize("kind", list(LISTS)[::4])
    def test_check(self, kind: str, tmp_path: Path) -> None:
        (row,) = try_lists(tmp_path, 0, [kind])
        assert row["outcome"] == "refused"
        assert ": " in row["check"][0]

    @pytest.mark.parametrize("kind", list(FOLDERS)[::4])
    def test_prepare(self, kind: str, tmp_path: Path) -> None:
        (row,) = try_folders(tmp_path, 0, [kind])
        assert row["prepare"][0].startswith("error: ")


class TestTold:
    LOG = "WARNING /a/x.nii: is bad\nlabelled\n"

    def test_value(self) -> None:
        told = bad_input._told(f"{self.LOG}\nError: 1 scan:\n/a/x.nii: is bad\n", 1, ["/a/x.nii", "/a/y.nii"])
        assert told["/a/x.nii"] == [("error", "is bad"), ("warning", "is bad")]
        assert told["/a/y.nii"] == []

    def test_exception(self) -> None:
        with pytest.raises(NotTolerantError, match="exit code 0"):
            bad_input._told(self.LOG, 0, ["/a/x.nii"])
        with pytest.raises(NotTolerantError, match="named at the end, but not at the beginning"):
            bad_input._told("\nError: 1 scan:\n/a/x.nii: is bad\n", 1, ["/a/x.nii"])

    def test_a_command_that_raises(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("scripts.__main__.main", lambda arguments: 1 / 0)
        with pytest.raises(NotTolerantError, match="check x raised ZeroDivisionError"):
            bad_input.quiet(["check", "x"])


class TestMarkdown:
    def test_value(self) -> None:
        rows = [
            {"kind": "text", "outcome": "refused", "inference": ["cannot be read"], "check": []},
            {"kind": "text", "outcome": "refused", "inference": ["is | odd"], "check": []},
            {"kind": "oblique", "outcome": "labelled", "inference": [], "check": ["warning: see /home/me/a.nii: odd"]},
        ]
        text = bad_input.markdown(rows, [{"axes": "RAS", "off_voxels": 0.25}])
        assert "3 inputs of 2 kinds. 1 orientations in 1 orders" in text
        assert "| text | 2 | 2 | 0 | cannot be read |" in text
        assert "| oblique | 1 | 0 | 1 | warning: see a.nii: odd |" in text


@pytest.mark.slow
class TestWhole:
    def test_run(self, tmp_path: Path) -> None:
        (tmp_path / "r.json").write_text('{"kills_survived": 20}', encoding="utf-8")
        parser = argparse.ArgumentParser()
        bad_input.add_arguments(parser)
        assert bad_input.run(parser.parse_args(["--out", str(tmp_path / "r.json"), "--repeats", "3"])) == 0
        content = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
        assert content["kills_survived"] == 20  # what others wrote stays
        assert content["bad_inputs"] >= 200
        assert content["bad_input_kinds"] >= 30
        assert content["orientations"] == 576
