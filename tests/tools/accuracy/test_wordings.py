from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.labels import ClassTable
from scripts.networks.prompts import class_prompts
from scripts.tools.accuracy import wordings as prompts
from scripts.tools.accuracy.systems import System
from scripts.tools.accuracy.wordings import SILENT, compare, shuffled_names, text_overlay, wording_system, write_table


def row(wording: str, seed: int, **scores: str) -> dict[str, str]:
    empty = {"map_mdice": "", "unlabelled_mdice": "", "mdice": ""}
    return {"method": wording, "labelled": "2", "seed": str(seed), **empty, **scores}


class TestShuffledNames:
    def test_nobody_keeps_a_name(self, tmp_path: Path) -> None:
        table = ClassTable.load()
        names = {c.name: c.long_name for c in table.foreground}
        shuffled = shuffled_names(table, seed=3)
        assert shuffled.keys() == names.keys()
        assert sorted(shuffled.values()) == sorted(names.values())
        assert all(shuffled[name] != names[name] for name in names)
        assert shuffled != shuffled_names(table, seed=4)

    def test_as_prompts(self, tmp_path: Path) -> None:
        table = ClassTable.load()
        made = wording_system("shuffled", 0, tmp_path, None)
        said = class_prompts(table, made.stage1_overrides["wording"])
        assert sorted(said) == sorted(class_prompts(table))
        assert said[0] == class_prompts(table)[0]


class TestWordingSystem:
    def test_value(self, tmp_path: Path) -> None:
        made = wording_system("short", 0, tmp_path, tmp_path / "text.yaml")
        files = (str(tmp_path / "text.yaml"),)
        assert made == System("short", stage1_of="short", stage1=files, stage1_overrides={"wording": "short"})

    def test_file(self, tmp_path: Path) -> None:
        (tmp_path / "plain.json").write_text("{}", encoding="utf-8")
        made = wording_system(str(tmp_path / "plain.json"), 0, tmp_path, None)
        assert (made.name, made.stage1_overrides["wording"]) == ("plain", str(tmp_path / "plain.json"))

    def test_exception(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="'longer' is neither long, short nor shuffled, nor a JSON file"):
            wording_system("longer", 0, tmp_path, None)


class TestTextOverlay:
    def test_value(self, tmp_path: Path) -> None:
        path = text_overlay(Path("/bert"), tmp_path)
        assert path.read_text(encoding="utf-8").startswith("# overlay on: pretrain\n")
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["text"]["pretrained"] == "/bert"


class TestCompare:
    def test_value(self) -> None:
        runs = [
            row("long", 0, mdice="0.5", map_mdice="0.3"), row("long", 1, mdice="0.7", map_mdice="0.3"),
            row("short", 1, mdice="0.6", map_mdice="0.4"), row("short", 2, mdice="0.2"), row("cps4", 0, mdice="1"),
        ]  # fmt: skip
        first, second = compare(runs, ["long", "short"])
        assert (first["wording"], first["seeds"], first["mdice"]) == ("long", 2, pytest.approx(0.6))
        assert (first["mdice_difference"], first["unlabelled_mdice"]) == (0, None)
        # over the seed that both have, not between the means
        assert (second["mdice"], second["mdice_difference"]) == (pytest.approx(0.4), pytest.approx(-0.1))
        assert (second["labelled"], second["map_mdice_difference"]) == (2, pytest.approx(0.1))

    def test_nothing_done_yet(self) -> None:
        assert compare([], ["long"]) == []


class TestWriteTable:
    @pytest.mark.parametrize("informed", [True, False])
    def test_value(self, informed: bool, tmp_path: Path) -> None:
        runs = [row("long", 0, mdice="0.5"), row("short", 0, mdice="0.4")]
        page = write_table(compare(runs, ["long", "short"]), tmp_path, informed).read_text(encoding="utf-8")
        cells = [[c.strip() for c in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
        assert cells[2] == ["2", "long", "1", "–", "–", "–", "–", "50.00", "–"]
        assert cells[3] == ["2", "short", "1", "–", "–", "–", "–", "40.00", "-10.00"]
        assert (SILENT in page) is not informed
        with (tmp_path / "prompts.csv").open(newline="", encoding="utf-8") as file:
            assert [r["mdice_difference"] for r in csv.DictReader(file)] == ["0.0000", "-0.1000"]


class TestRun:
    @pytest.mark.parametrize("informed", [True, False])
    def test_page(self, informed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The rows of the grid, and what the checkpoints say about words, without the training."""

        def grid(args: argparse.Namespace, rows: list[System], known: dict[str, System]) -> int:
            assert {r.name for r in rows} <= known.keys()
            assert all(bool(r.stage1) is informed for r in rows)
            for r in rows:
                (tmp_path / f"{r.name}_1_0").mkdir()
                result: dict[str, Any] = {"method": r.name, "labelled": 1, "seed": 0, "mdice": 0.5}
                (tmp_path / f"{r.name}_1_0/row.json").write_text(json.dumps(result), encoding="utf-8")
                folder = tmp_path / f"stage1_{r.name}_1_0/prompt"
                folder.mkdir(parents=True)
                (folder / "model.json").write_text(json.dumps({"maps_reflect_wording": informed}), encoding="utf-8")
            return 0

        monkeypatch.setattr(prompts, "run_grid", grid)
        parser = argparse.ArgumentParser()
        prompts.add_arguments(parser)
        line = ["--datalist", "D.json", "--out", str(tmp_path), *(["--text_encoder", "bert"] if informed else [])]
        assert prompts.run(parser.parse_args(line)) == 0
        page = (tmp_path / "prompts.md").read_text(encoding="utf-8")
        assert [w for w in ("long", "short", "shuffled") if f"| {w}" in page] == ["long", "short", "shuffled"]
        assert (SILENT in page) is not informed
