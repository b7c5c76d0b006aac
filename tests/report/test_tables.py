from __future__ import annotations

import itertools
import json
import math
import random

import pytest

from scripts.report.tables import (
    case_means,
    comparison_table,
    format_table,
    paired_comparison,
    percent,
    pool_runs,
    read_per_case,
    spider_table,
    summary_table,
)

HEAD = (
    "method,labelled,seed,mdice,miou,mdice_decoded,miou_decoded,unlabelled_mdice,unlabelled_mdice_decoded,"
    "steps,stage1_steps,resolution,device,date"
)


def scores(dice: float | None, n: int = 2) -> dict:
    return {"dice": dice, "iou": dice, "hd95_mm": None, "assd_mm": 1.5, "n": n}


def summary() -> dict:
    counts = {"missed": 1, "spurious": 0, "wrong_level": 2}
    return {
        "mdice": 0.5,
        "miou": 0.4,
        "n_cases": 2,
        "per_class": {"L5": scores(0.25) | counts, "T9": scores(None, n=0) | counts},
        "groups": {"vertebra": scores(0.5), "disc": scores(None, n=0)},
        "level_agnostic_dice": {"vertebra": 0.75, "disc": None},
        **counts,
    }


class TestReadPerCase:
    def test_value(self, tmp_path):
        path = tmp_path / "per_case.csv"
        path.write_text(
            "case,class_id,class,dice,iou,hd95_mm,assd_mm\na,2,L5,0.5,0.4,1,2\na,3,L4,1,1,nan,nan\nb,2,L5,,,,\n",
            encoding="utf-8",
        )
        rows = read_per_case(path)
        assert rows[0] == {
            "case": "a",
            "class_id": 2,
            "class": "L5",
            "dice": 0.5,
            "iou": 0.4,
            "hd95_mm": 1,
            "assd_mm": 2,
        }
        assert math.isnan(rows[2]["dice"])
        assert case_means(rows) == {"a": 0.75}
        assert case_means(rows, "hd95_mm") == {"a": 1.0}


class TestPairedComparison:
    def test_twin(self):
        generator = random.Random(1)
        first = {str(i): generator.random() for i in range(6)}
        second = {str(i): generator.random() for i in range(1, 8)}  # five in common
        differences = [first[str(i)] - second[str(i)] for i in range(1, 6)]
        sums = [
            abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
            for signs in itertools.product((1, -1), repeat=5)
        ]
        result = paired_comparison(first, second)
        assert result["n"] == 5
        assert result["mean"] == pytest.approx(sum(differences) / 5)
        assert result["p"] == pytest.approx(sum(s >= abs(sum(differences)) - 1e-9 for s in sums) / 32)

    def test_all_better(self):
        first = {str(i): 0.5 + 0.01 * i for i in range(5)}
        result = paired_comparison(first, dict.fromkeys(first, 0.4))
        assert (result["wins"], result["losses"], result["p"]) == (5, 0, 2 / 32)

    def test_equal_results(self):
        assert paired_comparison({"a": 0.5, "b": 0.2}, {"a": 0.5, "b": 0.2})["p"] == 1.0

    def test_many_cases_are_sampled_alike_each_time(self):
        generator = random.Random(0)
        first = {str(i): generator.gauss(0.02, 0.05) for i in range(20)}
        second = dict.fromkeys(first, 0.0)
        result = paired_comparison(first, second)
        assert 0 < result["p"] < 0.5
        assert paired_comparison(first, second) == result

    def test_exception(self):
        with pytest.raises(ValueError, match="no case in common"):
            paired_comparison({"a": 1.0}, {"b": 1.0})

    def test_pool_runs(self):
        assert pool_runs([{"a": 0.2, "b": 1.0}, {"a": 0.4}]) == {"a": pytest.approx(0.3), "b": 1.0}

    def test_table(self):
        text = comparison_table({"cps4 - supervised": paired_comparison({"a": 0.5, "b": 0.7}, {"a": 0.4, "b": 0.5})})
        assert "+15.00 ± 7.07" in text
        assert "0.500" in text


class TestSummaryTable:
    def test_value(self):
        text = summary_table(summary())
        assert "mDice 50.00 %, mIoU 40.00 %, n = 2 cases" in text
        assert "structures: 1 missed, 0 spurious, 2 of wrong level" in text
        assert "vertebra 75.00, disc –" in text
        assert "L5" in text
        assert "T9" not in text  # no case has it
        assert "decoded" not in text

    def test_decoded(self):
        assert "with decoded levels: mDice 50.00 %" in summary_table(summary() | {"decoded": summary()})

    def test_as_read_from_json(self):
        assert summary_table(json.loads(json.dumps(summary()))) == summary_table(summary())


class TestSpiderTable:
    def test_value(self, tmp_path):
        path = tmp_path / "spider_space.csv"
        runs = [
            "supervised,2,0,0.50,0.40,0.55,0.45,,,800,,320x256,cpu,2025-01-01",
            "supervised,2,1,0.60,0.50,0.65,0.55,,,800,,320x256,cpu,2025-01-01",
            "cps4,2,0,0.70,0.60,,,,,800,400,320x256,cpu,2025-01-01",
            "supervised,1,0,0.10,0.05,,,,,800,,320x256,cpu,2025-01-01",
            "supervised,1,0,0.30,0.20,,,,,800,,320x256,cpu,2025-01-02",
        ]
        path.write_text("\n".join([HEAD, *runs]) + "\n", encoding="utf-8")
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in spider_table(path).splitlines()]
        assert lines[0][:4] == ["labelled patients", "method", "seeds (n)", "mDice %"]
        assert not any("unlabelled" in head or "map" in head for head in lines[0])  # empty and absent columns
        assert lines[2][:4] == ["1", "supervised", "1", "30.00"]  # the seed's last run, and no sd of one run
        assert lines[3][:4] == ["2", "supervised", "2", "55.00 ± 7.07"]
        assert lines[4][:6] == ["2", "cps4", "1", "70.00", "60.00", "–"]
        assert lines[4][-2] == "400"

    def test_other_steps_are_another_row(self, tmp_path):
        path = tmp_path / "spider_space.csv"
        runs = [f"cps4,2,{seed},0.5,0.4,,,,,{steps},,320x256,cpu,d,0.25" for seed, steps in ((0, 800), (1, 1600))]
        path.write_text("\n".join([HEAD + ",map_mdice", *runs]) + "\n", encoding="utf-8")
        text = spider_table(path)
        assert len(text.splitlines()) == 4
        assert "prompt-guided map %" in text

    def test_exception(self, tmp_path):
        (tmp_path / "s.csv").write_text(HEAD + "\n", encoding="utf-8")
        with pytest.raises(ValueError, match="holds no run yet"):
            spider_table(tmp_path / "s.csv")


class TestFormatTable:
    def test_plain(self):
        assert format_table(["name", "x"], [["a", "1.00"], ["bcdef", "22.00"]]) == (
            "name       x\n-----  -----\na       1.00\nbcdef  22.00"
        )

    def test_markdown(self):
        lines = format_table(["name", "x"], [["a|b", "1"]], markdown=True).splitlines()
        assert lines == ["| name |   x |", "| ---- | --: |", "| a\\|b |   1 |"]

    @pytest.mark.parametrize(("value", "text"), [(0.12345, "12.35"), (None, "–"), (math.nan, "–"), (1.0, "100.00")])
    def test_percent(self, value, text):
        assert percent(value) == text
