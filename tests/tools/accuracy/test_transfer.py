from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from scripts.data.datalist import load_datalist
from scripts.tools.accuracy import transfer
from scripts.tools.accuracy.transfer import HEAD, row_of, write_table

SUMMARY: dict[str, Any] = {
    "mdice": 0.5, "n_cases": 2, "missed": 1, "spurious": 2, "wrong_level": 2,
    "per_class": {"L5": {"n": 7}, "L4": {"n": 6}, "S": {"n": 0}},
    "level_agnostic_dice": {"vertebra": 0.8, "disc": 0.7}, "decoded": {"mdice": 0.6},
}  # fmt: skip


def parse(*line: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    transfer.add_arguments(parser)
    return parser.parse_args(["--model", "m", *line])


class TestRowOf:
    def test_value(self) -> None:
        row = row_of("a", SUMMARY, levels=True)
        assert (row["structures"], row["mdice"], row["mdice_decoded"]) == (11, 0.5, 0.6)
        assert row["breaks"] == ["levels"]  # 2 of 11, and 1 of 11 is missed

    def test_what_breaks(self) -> None:
        poor = {**SUMMARY, "missed": 2, "wrong_level": 1, "level_agnostic_dice": {"vertebra": 0.9, "disc": None}}
        assert row_of("a", poor, levels=True)["breaks"] == ["finding", "outlines"]

    def test_unknown_levels(self) -> None:
        row = row_of("a", {**SUMMARY, "missed": 9}, levels=False)
        assert {k: row[k] for k in ("mdice", "wrong_level", "structures")} == dict.fromkeys(
            ("mdice", "wrong_level", "structures")
        )
        assert (row["vertebra"], row["disc"], row["breaks"]) == (0.8, 0.7, [])


class TestWriteTable:
    def test_value(self, tmp_path: Path) -> None:
        rows = [row_of("a", SUMMARY, levels=True), row_of("b", SUMMARY, levels=False)]
        page = write_table(rows, tmp_path).read_text(encoding="utf-8")
        cells = [[c.strip() for c in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
        assert cells[0] == HEAD
        assert cells[2] == ["a", "2", "50.00", "60.00", "80.00", "70.00", "11", "1", "2", "2", "levels"]
        assert cells[3] == ["b", "2", "–", "–", "80.00", "70.00", "–", "–", "–", "–", "nothing"]
        assert json.loads((tmp_path / "transfer.json").read_text(encoding="utf-8")) == rows
        assert "levels" in (tmp_path / "transfer.csv").read_text(encoding="utf-8").splitlines()[1]


class TestRun:
    def test_sets(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Which runs are asked for, and where their scores are looked for, without a network."""
        seen: dict[str, dict[str, Any]] = {}

        def score(runs: list[Any], log: Path) -> None:
            for _, _, overrides in runs:
                seen[overrides["output_dir"].name] = overrides
                overrides["output_dir"].mkdir(parents=True)
                (overrides["output_dir"] / "summary.json").write_text(json.dumps(SUMMARY), encoding="utf-8")

        monkeypatch.setattr(transfer, "bundle_runs", score)
        drawing = ["--phantoms", "1", "--shape", "24", "24", "--pixel-mm", "12", "--leave-out", "S"]
        args = parse("--out", str(tmp_path), "--sets", "crop=D.json", "--unknown-levels", "crop", *drawing)
        assert transfer.run(args) == 0
        assert list(seen) == ["crop", "phantoms__T2_like", "phantoms__T1_like"]
        assert seen["crop"]["datalist"] == Path("D.json").absolute()
        (phantom,) = load_datalist(seen["phantoms__T1_like"]["datalist"]).sections["test"]
        assert phantom["unlabelled_classes"] == (1,)
        assert Path(phantom["label"]).is_file()
        rows = json.loads((tmp_path / "transfer.json").read_text(encoding="utf-8"))
        assert [row["mdice"] for row in rows] == [None, 0.5, 0.5]

    def test_exception(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="--unknown-levels b: no such set was named"):
            transfer.run(parse("--out", str(tmp_path), "--sets", "a=D.json", "--unknown-levels", "b"))
        with pytest.raises(ValueError, match="there is nothing to score"):
            transfer.run(parse("--out", str(tmp_path), "--phantoms", "0"))
