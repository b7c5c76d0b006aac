from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.bundle import launch as bundle_runs
from scripts.phantom.write import write_phantoms
from scripts.tools.accuracy import accuracy
from scripts.tools.accuracy import grid as training
from scripts.tools.accuracy.accuracy import FIELDS, check_settings, collect, listed
from scripts.tools.accuracy.jobs import Job

SMALL = ["--labelled", "1", "--seeds", "0", "--warm", "2", "--epochs", "2", "--stage1-epochs", "2", "--iters", "2"]
SMALL += ["--image-size", "32", "16", "--overlays", "smoke.yaml"]
SMALL += ["--stage1-overlays", "offline_encoders.yaml", "smoke.yaml"]


def parse(*line: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    accuracy.add_arguments(parser)
    return parser.parse_args(line)


@pytest.fixture(scope="module")
def datalist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    counts = {"labelled": 2, "unlabelled": 1, "validation": 1, "test": 1}
    return write_phantoms(folder, **counts, shape_hw=(40, 32), pixel_mm=7.0)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Runs happen in this process; (run id, last part of the output folder) of each."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # a run takes it over
    seen: list[tuple[str, str]] = []

    def run(run_id: str, configs: Any, overrides: dict[str, Any], log: Path | None = None, show: bool = False) -> None:
        seen.append((run_id, Path(overrides["output_dir"]).name))
        bundle_runs.runs_here((run_id, configs, {**overrides, "logging_file": False}))

    monkeypatch.setattr(training, "bundle_run", run)
    monkeypatch.setattr(training, "bundle_runs", lambda given, log: [run(*one) for one in given])
    return seen


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class TestRun:
    def test_grid(self, datalist: Path, runs: list[tuple[str, str]], tmp_path: Path) -> None:
        out = tmp_path / "grid"
        given = ["--datalist", str(datalist), "--out", str(out), *SMALL, "--methods"]
        assert accuracy.run(parse(*given, "cps4", "full", "--variant", "gate", "prompt_map#gate=$0.1")) == 0
        trained = ["warm_1_0", "stage1_1_0", "cps4_1_0", "gate_1_0", "warm_3_0", "full_3_0"]
        assert [folder for run_id, folder in runs if run_id != "evaluating"] == trained
        rows = rows_of(out / "results.csv")
        cps4, gate, full = rows
        assert list(cps4) == list(FIELDS)
        assert [(r["method"], r["labelled"]) for r in rows] == [("cps4", "1"), ("gate", "1"), ("full", "3")]
        assert [(r["steps"], r["stage1_steps"]) for r in rows] == [("8", "4"), ("8", "4"), ("8", "0")]
        assert all(0 <= float(r["mdice"]) <= 1 for r in rows)
        assert full["unlabelled_mdice"] == full["map_mdice"] == gate["pseudo_label_mdice"] == ""
        assert cps4["map_mdice"] == gate["map_mdice"] != ""
        assert cps4["unlabelled_mdice"] != "" != cps4["pseudo_label_mdice"]
        assert (out / "cps4_1_0/network_test/per_case.csv").is_file()

        # finished runs stay; one whose row is gone is scored anew, and not trained
        runs.clear()
        (out / "gate_1_0/row.json").unlink()
        assert accuracy.run(parse(*given, "cps4", "full", "--variant", "gate", "prompt_map#gate=$0.1")) == 0
        assert runs == [("evaluating", "network_test"), ("evaluating", "network_unlabelled")]
        assert rows_of(out / "results.csv") == rows

    def test_a_stage_1_that_follows_a_run(self, datalist: Path, runs: list[tuple[str, str]], tmp_path: Path) -> None:
        given = ["--datalist", str(datalist), "--out", str(tmp_path / "grid"), *SMALL, "--methods", "refreshed"]
        assert accuracy.run(parse(*given)) == 0
        trained = ["warm_1_0", "stage1_1_0", "cps4_1_0", "stage1_refreshed_1_0", "refreshed_1_0"]
        assert [folder for run_id, folder in runs if run_id != "evaluating"] == trained
        assert [row["method"] for row in rows_of(tmp_path / "grid/results.csv")] == ["cps4", "refreshed"]

    def test_a_failing_run_stops_no_other(
        self, datalist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "grid"

        def run(run_id: str, configs: list[str], overrides: dict[str, Any], log: Path, show: bool) -> None:
            folder = Path(overrides["output_dir"])
            if "methods/mean_teacher.yaml" in configs:
                raise RuntimeError("training failed, see log\nError: what the log says last")
            (folder / "models").mkdir(parents=True)
            (folder / "models/model.pt").touch()
            (folder / "metrics.csv").write_text("epoch,step,name,value\n2,4,val_mean_dice,0.5\n", encoding="utf-8")

        def score(given: list[Any], log: Path) -> None:
            for _, _, overrides in given:
                overrides["output_dir"].mkdir()
                (overrides["output_dir"] / "summary.json").write_text('{"mdice": 0.4, "miou": 0.3}', encoding="utf-8")

        monkeypatch.setattr(training, "bundle_run", run)
        monkeypatch.setattr(training, "bundle_runs", score)
        methods = ["mean_teacher", "supervised", "mean_teacher_mse"]
        assert accuracy.run(parse("--datalist", str(datalist), "--out", str(out), *SMALL, "--methods", *methods)) == 1
        assert [row["method"] for row in rows_of(out / "results.csv")] == ["mean_teacher_mse", "supervised"]
        assert "failed: mean_teacher_1_0: Error: what the log says last" in capsys.readouterr().out

    def test_list(self, datalist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        given = ["--datalist", str(datalist), "--out", str(tmp_path), *SMALL, "--methods", "supervised", "token"]
        assert accuracy.run(parse(*given, "--share", "2/2", "--list")) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines[:-1]] == ["warm_1_0", "stage1_token_1_0", "token_1_0"]
        assert lines[-1] == "0 of 1 rows are done; 12 steps in the list"
        assert not (tmp_path / "settings.json").exists()

    def test_one_source(self, capsys: pytest.CaptureFixture[str]) -> None:
        for given in (["--out", "x"], ["--out", "x", "--data", "a", "--datalist", "b"]):
            with pytest.raises(SystemExit):
                parse(*given)
            capsys.readouterr()


class TestShare:
    def test_torchrun(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "environ", {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "1"})
        assert accuracy._share(None) == (3, 4)
        assert os.environ == {"CUDA_VISIBLE_DEVICES": "1"}  # a run of the grid is no process of a group

    def test_words(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "environ", {})
        assert accuracy._share(None) == (1, 1)
        assert accuracy._share("2/3") == (2, 3)
        with pytest.raises(ValueError, match="a share is written I/N, 1/3 for example, got half"):
            accuracy._share("half")


class TestCheckSettings:
    def check(self, folder: Path, *line: str) -> dict[str, Any]:
        check_settings(folder / "settings.json", parse("--out", str(folder), *line))
        return json.loads((folder / "settings.json").read_text(encoding="utf-8"))

    def test_methods_are_added(self, tmp_path: Path) -> None:
        self.check(tmp_path, "--data", "scans", "--methods", "cps4", "--labelled", "1", "--seeds", "0")
        line = ["--methods", "full", "cps4", "--labelled", "1", "2", "--seeds", "1", "--jobs", "2"]
        after = self.check(tmp_path, "--data", "elsewhere/scans", *line)
        assert (after["methods"], after["labelled"], after["seeds"]) == (["cps4", "full"], [1, 2], [0, 1])
        assert (after["source"], after["jobs"]) == ("scans", 2)
        assert "elsewhere" not in json.dumps(after)

    def test_other_settings_are_refused(self, tmp_path: Path) -> None:
        self.check(tmp_path, "--data", "scans", "--epochs", "6")
        with pytest.raises(ValueError, match=r"holds runs of other settings \(epochs: 6, now 8\); give another --out"):
            self.check(tmp_path, "--data", "scans", "--epochs", "8")

    def test_folder_of_before(self, tmp_path: Path) -> None:
        """A folder whose settings do not name the source goes on."""
        (tmp_path / "settings.json").write_text(
            '{"layout": "auto", "device": "cpu", "methods": ["a"]}', encoding="utf-8"
        )
        assert self.check(tmp_path, "--data", "scans")["source"] == "scans"


class TestCollect:
    def test_value(self, tmp_path: Path) -> None:
        for method, labelled, score in (("b", 2, 0.25), ("b", 1, None), ("a", 2, 1 / 3)):
            folder = tmp_path / f"{method}_{labelled}_0"
            folder.mkdir()
            row = {"method": method, "labelled": labelled, "seed": 0, "mdice": score}
            (folder / "row.json").write_text(json.dumps(row), encoding="utf-8")
        found = [(r["method"], r["labelled"], r["mdice"]) for r in rows_of(collect(tmp_path))]
        assert found == [("b", "1", ""), ("a", "2", "0.3333"), ("b", "2", "0.2500")]
        assert [path.name for path in tmp_path.glob(".*")] == []


class TestListed:
    def test_value(self) -> None:
        done, left = (
            Job(name, "a", 5, lambda state=state: state, lambda: None)
            for name, state in (("x", "done"), ("y", "scores"))
        )
        assert listed([left], [done, left]).splitlines()[-1] == "1 of 2 rows are done; 5 steps in the list"
