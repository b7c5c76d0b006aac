from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.tools.accuracy import grid as training
from scripts.tools.accuracy.grid import Grid, Settings, best_validation, evaluation, training_state
from scripts.tools.accuracy.jobs import Job
from scripts.tools.accuracy.subsets import Cell
from scripts.tools.accuracy.systems import System, systems

LOG = "epoch,step,name,value\n1,20,loss,0.5\n2,40,loss,0.4\n2,40,val_mean_dice,0.7\n3,60,val_mean_dice,0.6\n"


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    settings = Settings(tmp_path, [], [], 5, 3, 4, 20, 0.001, {}, {}, [96, 48])
    return Grid(settings, systems())


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return Cell(2, 1, tmp_path / "datalist_2_1.json", hidden=True)


def trained(folder: Path, log: str = LOG, kept: str = "models") -> None:
    (folder / kept).mkdir(parents=True)
    (folder / kept / "model.pt").touch()
    (folder / "metrics.csv").write_text(log, encoding="utf-8")


class TestTrainingState:
    def test_value(self, tmp_path: Path) -> None:
        assert training_state(tmp_path / "a", 3) == "to do"
        trained(tmp_path / "a")
        assert training_state(tmp_path / "a", 3) == "scores"
        assert training_state(tmp_path / "a", 4) == "goes on after epoch 3"

    def test_without_a_network(self, tmp_path: Path) -> None:
        trained(tmp_path / "a", kept="prompt")
        assert training_state(tmp_path / "a", 3) == "goes on after epoch 3"
        assert training_state(tmp_path / "a", 3, "prompt") == "scores"


class TestBestValidation:
    def test_value(self, tmp_path: Path) -> None:
        trained(tmp_path)
        assert best_validation(tmp_path) == 0.7

    def test_nobody_to_validate_on(self, tmp_path: Path) -> None:
        trained(tmp_path, "epoch,step,name,value\n1,20,loss,0.5\n")
        assert best_validation(tmp_path) is None


class TestJobs:
    def test_names_and_needs(self, grid: Grid, cell: Cell) -> None:
        def names(job: Job) -> list[str]:
            return [job.name, *(need.name for need in job.needs)]

        known = systems()
        assert names(grid.row(known["mean_teacher"], cell)) == ["mean_teacher_2_1", "warm_2_1"]
        assert names(grid.row(known["cps4"], cell)) == ["cps4_2_1", "warm_2_1", "stage1_2_1"]
        assert names(grid.row(known["live_maps"], cell)) == ["live_maps_2_1", "warm_2_1", "stage1_2_1"]
        assert names(grid.row(known["token"], cell)) == ["token_2_1", "warm_2_1", "stage1_token_2_1"]

    def test_states(self, grid: Grid, cell: Cell) -> None:
        row, warm, stage1 = grid.row(systems()["cps4"], cell), grid.warm(cell), grid.stage1(systems()["cps4"], cell)
        out = grid.settings.out
        assert [job.state() for job in (row, warm, stage1)] == ["to do"] * 3
        for job in (row, warm):
            trained(out / job.name)
        trained(out / stage1.name, kept="prompt")
        assert [job.state() for job in (row, warm, stage1)] == [
            "scores",
            "goes on after epoch 3",
            "goes on after epoch 3",
        ]
        for job in (warm, stage1):
            (out / job.name / "done").touch()
        (out / row.name / "row.json").touch()
        assert [job.state() for job in (row, warm, stage1)] == ["done", "done", "scores"]
        (out / stage1.name / "map_unlabelled").mkdir()
        (out / stage1.name / "map_unlabelled" / "summary.json").touch()
        assert stage1.state() == "done"

    def test_nothing_hidden_nothing_to_score(self, grid: Grid, cell: Cell) -> None:
        stage1 = grid.stage1(systems()["cps4"], Cell(2, 1, cell.datalist, hidden=False))
        trained(grid.settings.out / stage1.name, kept="prompt")
        (grid.settings.out / stage1.name / "done").touch()
        assert stage1.state() == "done"

    def test_configs_and_overrides(self, grid: Grid, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = {}

        def record(run_id: str, configs: list[str], overrides: dict[str, object], log: Path, show: bool) -> None:
            seen[run_id] = (configs, overrides)
            raise RuntimeError("enough")

        monkeypatch.setattr(training, "bundle_run", record)
        own = System("own", ("a.yaml",), {"k": "1"}, "own", ("b.yaml",), {"wording": "short"})
        own_grid = Grid(grid.settings, {**grid.known, "own": own})
        row = own_grid.row(own, cell)
        for job in (row, row.needs[1]):
            with pytest.raises(RuntimeError, match="enough"):
                job.do()
        configs, overrides = seen["training"]
        out = grid.settings.out
        assert configs == ["train.yaml", "a.yaml"]
        assert overrides["warm_start"] == out / "warm_2_1/models/model.pt"
        assert overrides["prompt_model_dir"] == out / "stage1_own_2_1/prompt"
        assert (overrides["k"], overrides["max_epochs"], overrides["ramp#start"]) == ("1", 3, 0.0)
        configs, overrides = seen["pretraining"]
        assert configs == ["pretrain.yaml", "b.yaml"]
        assert (overrides["wording"], overrides["max_epochs"]) == ("short", 4)

    def test_row(self, grid: Grid, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
        """A trained run is scored and not trained; decoded scores stand beside the raw ones where there are any."""
        folder = grid.settings.out / "mean_teacher_2_1"
        trained(folder)

        def score(runs: list[training.Run], log: Path) -> None:
            assert [run[2]["section"] for run in runs] == ["test", "unlabelled", "unlabelled"]
            assert runs[2][2]["ckpt_key"] == "teacher"
            for value, (_, _, overrides) in enumerate(runs):
                scores = {
                    "mdice": value / 10,
                    "miou": 0.5,
                    "decoded": {"mdice": 0.9, "miou": 0.8} if value < 2 else None,
                }
                Path(str(overrides["output_dir"])).mkdir()
                Path(str(overrides["output_dir"]), "summary.json").write_text(json.dumps(scores), encoding="utf-8")

        monkeypatch.setattr(training, "bundle_runs", score)
        job = grid.row(systems()["mean_teacher"], cell)
        job.do()
        row = json.loads((folder / "row.json").read_text(encoding="utf-8"))
        expected = {
            "method": "mean_teacher", "labelled": 2, "seed": 1, "mdice": 0.0, "miou": 0.5, "mdice_decoded": 0.9,
            "miou_decoded": 0.8, "unlabelled_mdice": 0.1, "unlabelled_mdice_decoded": 0.9, "pseudo_label_mdice": 0.2,
            "map_mdice": None, "steps": 160, "stage1_steps": 0, "resolution": "96x48", "validation_mdice": 0.7,
        }  # fmt: skip
        assert {k: row[k] for k in expected} == expected
        assert job.state() == "done"


class TestEvaluation:
    def test_distances_on_test_patients_alone(self, cell: Cell, tmp_path: Path) -> None:
        for section, thorough in (("test", True), ("unlabelled", False)):
            run_id, configs, overrides = evaluation(tmp_path, cell, section, tmp_path / "o", {"k": 1}, ["x.yaml"])
            assert (run_id, configs) == ("evaluating", ["inference.yaml", "evaluate.yaml", "x.yaml"])
            assert (overrides["distances"], overrides["k"]) == (thorough, 1)
