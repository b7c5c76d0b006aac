from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.__main__ import main
from scripts.tools import demo
from scripts.tools.demo import (
    EXAMPLE,
    METHODS,
    NAMES,
    SHIPPED,
    Demo,
    block,
    example_chapters,
    scores_table,
    seconds_table,
)
from scripts.tools.results.document import Picture, Table, markdown, write_html


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each training found a checkpoint of an earlier one; none is trained."""
    found: list[bool] = []

    def bundle_run(run_id: str, configs: list[str], overrides: dict[str, Any], log: Path) -> None:
        checkpoint = overrides["output_dir"] / "checkpoint.pt"
        found.append(checkpoint.is_file())
        checkpoint.write_text("weights", encoding="utf-8")

    monkeypatch.setattr(demo, "bundle_run", bundle_run)
    return found


def train(folder: Path, **settings: Any) -> None:
    Demo(folder, 0).train("cps4", "training", ["train.yaml"], **settings)


def test_a_finished_phase_is_reused(runs: list[bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        train(tmp_path, max_epochs=2)
    assert runs == [False]
    assert "reused from an earlier run" in capsys.readouterr().out


def test_a_killed_training_goes_on(runs: list[bool], tmp_path: Path) -> None:
    train(tmp_path, max_epochs=2)
    (tmp_path / "phases/cps4.json").unlink()
    train(tmp_path, max_epochs=2)
    assert runs == [False, True]


def test_other_settings_start_over(runs: list[bool], tmp_path: Path) -> None:
    train(tmp_path, max_epochs=2)
    train(tmp_path, max_epochs=2, statistics="running")
    assert runs == [False, False]


def test_the_best_method_is_bold() -> None:
    scores = dict(zip(METHODS, (0.4, 0.6, 0.5), strict=True))
    more = {"levels_right": 0.875, "n_cases": 16}
    table = scores_table({m: {"mdice": dice, "miou": dice - 0.1, **more} for m, dice in scores.items()})
    assert f"| {NAMES['cps4']}" in markdown(table)
    lines = [line.split("|")[2:-1] for line in markdown(table).splitlines() if "60.00" in line]
    assert [cell.strip() for cell in lines[0]] == ["**60.00**", "**50.00**", "**87.50**", "**16**"]


def test_scores_are_of_the_names_that_label_maps_have(tmp_path: Path) -> None:
    folder = tmp_path / "cps4" / "test"
    folder.mkdir(parents=True)
    read_outs = {"mdice": 0.4, "decoded": {"mdice": 0.5}, "named": {"mdice": 0.6}}
    for gone, best in (("", 0.6), ("named", 0.5), ("decoded", 0.4)):
        read_outs.pop(gone, None)
        (folder / "summary.json").write_text(json.dumps(read_outs))
        assert Demo(tmp_path, 0).scores("cps4")["mdice"] == best


def test_seconds_are_added_up() -> None:
    assert seconds_table({"phantoms": 1.25, "training": 10}).cells["seconds"].tolist() == ["1.2", "10.0", "11.2"]


def test_block_of_a_page_holds_scores_seed_time_and_machine() -> None:
    scores = {m: {"mdice": 0.5, "miou": 0.4, "levels_right": 0.875, "n_cases": 16} for m in METHODS}
    more = {"settings": {"seed": 3}, "seconds": {"phantoms": 1.4, "training": 600}, "conditions": ["A 2 cores", "B"]}
    text = block({**scores, **more})
    assert sum(line.startswith(f"| {name}") for line in text.splitlines() for name in NAMES.values()) == len(METHODS)
    assert "Seed 3; 601 s for all phases." in text
    assert text.endswith("A 2 cores. B.")


def test_a_reused_phase_keeps_the_machine_that_did_it(
    runs: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "conditions_in_words", lambda made: "a fast machine")
    train(tmp_path, max_epochs=2)
    monkeypatch.setattr(demo, "conditions_in_words", lambda made: "another")
    again = Demo(tmp_path, 0)
    again.train("cps4", "training", ["train.yaml"], max_epochs=2)
    again.train("next", "training", ["train.yaml"], max_epochs=2)
    assert list(again.conditions) == ["a fast machine", "another"]
    assert len(runs) == 2


def test_a_page_without_a_block_is_refused_before_any_phase(
    runs: list[bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.md").write_text("nothing")
    assert main(["demo", "--out", str(tmp_path / "demo"), "--into", str(tmp_path / "page.md")]) == 1
    assert "has no lines <!-- demo -->" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
    assert runs == []


def labelled(folder: Path) -> Path:
    """What labelling the example scan leaves, as far as the report reads it."""
    name = EXAMPLE.name.removesuffix(".nii.gz")
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / f"{name}.jpg").write_bytes(b"picture")
    report = {"verdict": "check levels", "reasons": ["L4/L5 is missing."], "structures": []}
    (folder / f"{name}_levels.json").write_text(json.dumps(report), encoding="utf-8")
    head = "scan,class,volume_ml,height_anterior_mm,height_middle_mm,height_posterior_mm,confidence"
    rows = [f"{name},L5/S,,,,,0.999", f"{name},L5,,29.24,23.5,22.4,0.988"]
    (folder / "structures.csv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return folder


class TestExample:
    def test_scan_and_network_come_with_the_bundle(self) -> None:
        assert EXAMPLE.is_file()
        assert (SHIPPED / "model.pt").is_file()

    def test_the_shipped_network_labels_it(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        calls: list[tuple[str, list[str], dict[str, Any]]] = []
        monkeypatch.setattr(
            demo, "bundle_run", lambda run_id, configs, given, _: calls.append((run_id, configs, given))
        )
        Demo(tmp_path, 0).label()
        given = {
            "input_dir": EXAMPLE,
            "output_dir": tmp_path / "example",
        }  # inference reads models/ unless told otherwise
        assert calls == [("inference", ["inference.yaml"], given)]
        assert str(tmp_path / "example" / "index.html") in capsys.readouterr().out

    def test_verdict_picture_and_measurements(self, tmp_path: Path) -> None:
        (chapter,) = example_chapters(labelled(tmp_path / "example"))
        words, picture, table = chapter.parts
        assert isinstance(words, str)
        assert "Verdict on the levels: check levels. L4/L5 is missing. " in words
        assert isinstance(picture, Picture)
        assert "CC BY 4.0" in picture.caption
        assert isinstance(table, Table)
        assert table.cells.index.tolist() == ["L5", "L5/S"]  # from the head down
        assert list(table.cells.columns) == ["confidence", "front", "middle", "back"]  # no volume at all
        assert table.cells.loc["L5"].tolist() == ["0.99", "29.2", "23.5", "22.4"]
        assert table.cells.loc["L5/S"].tolist() == ["1.00", "", "", ""]

    def test_the_picture_is_a_jpeg_in_the_page(self, tmp_path: Path) -> None:
        chapters = example_chapters(labelled(tmp_path / "example"))
        text = write_html(tmp_path / "report.html", "title", ["lead"], chapters).read_text(encoding="utf-8")
        assert '<img src="data:image/jpeg;base64,' in text

    def test_without_labels_there_is_no_chapter(self, tmp_path: Path) -> None:
        assert example_chapters(tmp_path / "example") == []
