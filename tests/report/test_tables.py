from __future__ import annotations

import json
import math

import pytest

from scripts.report.tables import format_table, percent, summary_table


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
        "levels_right": 0.25,
        **counts,
    }


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


class TestFormatTable:
    def test_plain(self):
        assert format_table(["name", "x"], [["a", "1.00"], ["bcdef", "22.00"]]) == (
            "name        x\n------  -----\na        1.00\nbcdef   22.00"
        )

    def test_markdown(self):
        lines = format_table(["name", "x"], [["a|b", "1"]], markdown=True).splitlines()
        assert lines == ["| name   |   x |", "|:-------|----:|", "| a\\|b   |   1 |"]

    @pytest.mark.parametrize(("value", "text"), [(0.12345, "12.35"), (None, "–"), (math.nan, "–"), (1.0, "100.00")])
    def test_percent(self, value, text):
        assert percent(value) == text
