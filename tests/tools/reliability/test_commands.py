"""`benchmark bad_input` and `benchmark kills`: the tests they run, and the tables they write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.__main__ import main
from scripts.tools.reliability import bad_input, kills, pytest_report


def refused(kind: str, message: str) -> dict[str, Any]:
    return {"part": "scans", "kind": kind, "input": "a", "outcome": "refused", "inference": [message], "check": []}


def orientation(axes: str, off: float) -> dict[str, Any]:
    return {"axes": axes, "spacing_mm": [1.0] * 3, "turned_degrees": [0] * 3, "off_voxels": off, "same_grid": True}


def kill(chain: int, survived: bool) -> dict[str, Any]:
    return {"stage": "stage 1", "seed": 0, "chain": chain, "phase": "slices", "survived": survived}


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the commands read in place of the report of a run of pytest; `line` is what they gave to pytest."""
    report: dict[str, Any] = {"failed": 0, "bad_input": [], "orientation": [], "kill": []}

    def run_tests(line: list[str]) -> tuple[dict[str, int], dict[str, Any]]:
        report["line"] = line
        return {"failed": report["failed"], "passed": 7}, {k: v for k, v in report.items() if isinstance(v, list)}

    for module in (bad_input, kills):
        monkeypatch.setattr(module, "run_tests", run_tests)
    return report


def figures(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


class TestBadInput:
    def test_only_replaces_rows_of_its_kinds(self, report: dict[str, Any], tmp_path: Path) -> None:
        out = tmp_path / "r.json"
        out.write_text('{"kills_survived": 20}', encoding="utf-8")
        report["bad_input"] = [refused("text", "old"), refused("text", "old"), refused("pipe", "is a pipe")]
        report["orientation"] = [orientation("RAS", 0.25), orientation("LPI", 0.5)]
        assert main(["benchmark", "bad_input", "--out", str(out), "--cases", "2", "--seed", "5"]) == 0
        assert report["line"][-4:] == ["--cases", "2", "--seed", "5"]
        report["bad_input"], report["orientation"] = [refused("text", "new")], [orientation("LPI", 0.0)]
        assert main(["benchmark", "bad_input", "--out", str(out), "--only", "text or LPI"]) == 0
        assert report["line"][-2:] == ["-k", "text or LPI"]
        made = figures(out)
        assert [row["inference"] for row in made["bad_input_rows"]] == [["new"], ["is a pipe"]]
        assert made["orientation_rows"] == [orientation("RAS", 0.25), orientation("LPI", 0.0)]
        assert [made[k] for k in ("kills_survived", "bad_inputs", "bad_input_kinds", "orientations")] == [20, 2, 2, 2]
        assert "| text | 1 | 1 | 0 | new |" in (tmp_path / "bad_input.md").read_text(encoding="utf-8")

    def test_nothing_is_written_after_a_failure(self, report: dict[str, Any], tmp_path: Path) -> None:
        report |= {"failed": 1, "bad_input": [refused("text", "a")]}
        assert main(["benchmark", "bad_input", "--out", str(tmp_path / "r.json")]) == 1
        assert not (tmp_path / "r.json").exists()

    def test_markdown(self) -> None:
        rows = [
            refused("text", "cannot be read"),
            refused("text", "is | odd"),
            {"kind": "oblique", "outcome": "labelled", "inference": [], "check": ["warning: see /home/me/a.nii: odd"]},
        ]
        text = bad_input.markdown(rows, [orientation("RAS", 0.25)])
        assert "3 inputs of 2 kinds. 1 orientations in 1 orders" in text
        assert "| text | 2 | 2 | 0 | cannot be read |" in text
        assert "| oblique | 1 | 0 | 1 | warning: see a.nii: odd |" in text

    @pytest.mark.slow
    def test_real_run(self, tmp_path: Path) -> None:
        line = ["benchmark", "bad_input", "--out", str(tmp_path / "r.json"), "--cases", "2"]
        assert main([*line, "--only", "colours or 64-bit or no_training or empty or RAS"]) == 0
        made = figures(tmp_path / "r.json")
        parts = {row["part"] for row in made["bad_input_rows"]}
        assert (parts, made["orientations"]) == ({"scans", "lists", "folders"}, 12)
        assert (made["bad_inputs"], made["bad_input_kinds"]) == (10, 6)


class TestKills:
    def test_rows_of_other_chains_stay(self, report: dict[str, Any], tmp_path: Path) -> None:
        out = tmp_path / "r.json"
        out.write_text(json.dumps({"volumes": 7, "kills": [kill(0, False), kill(1, True)]}), encoding="utf-8")
        report["kill"] = [kill(0, True), kill(0, True)]
        assert main(["benchmark", "kills", "--out", str(out), "--only", "stage1-0"]) == 0
        made = figures(out)
        assert made["kills"] == [kill(0, True), kill(0, True), kill(1, True)]
        assert made["kills_survived_by_phase"] == {"stage 1, slices": 3}
        assert (made["volumes"], made["kills_survived"]) == (7, 3)

    def test_a_lost_run_is_written(self, report: dict[str, Any], tmp_path: Path) -> None:
        report |= {"failed": 1, "kill": [kill(0, False)]}
        assert main(["benchmark", "kills", "--out", str(tmp_path / "r.json")]) == 1
        assert figures(tmp_path / "r.json")["kills_survived"] == 0


class TestRunTests:
    def test_rows_that_tests_record(self, tmp_path: Path) -> None:
        test = tmp_path / "test_some.py"
        test.write_text("def test_a(record_property): record_property('kill', '{\"a\": [1, \"\\\\u00e4\\\\u0000\"]}')")
        counts, rows = pytest_report.run_tests([str(test)])
        assert (counts["passed"], counts["failed"], counts["skipped"]) == (1, 0, 0)
        assert rows == {"kill": [{"a": [1, "ä\0"]}]}

    def test_a_copy_without_tests(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pytest_report, "TESTS", Path("/nowhere/tests"))
        for kind in ("bad_input", "kills"):
            assert main(["benchmark", kind]) == 1
            error = capsys.readouterr().err
            assert error.startswith("Error: /nowhere/tests is missing: this benchmark runs the tests of the repository")
            assert len(error.splitlines()) == 1
