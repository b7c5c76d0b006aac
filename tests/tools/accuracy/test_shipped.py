"""The page of the shipped network: what it says of scores that are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.report.tables import write_block
from scripts.tools.accuracy.shipped import (
    Calibration,
    calibration,
    calibration_error,
    eval_metrics,
    headline,
    page,
    scored,
)


def scores(dice: float, n: int = 2) -> dict[str, Any]:
    return {"n": n, "dice": dice, "iou": dice / 2, "hd95_mm": 1.5, "assd_mm": None if dice == 0 else 0.25}


SUMMARY = {
    "mdice": 0.8125,
    "n_cases": 5,
    "levels_right": 0.8,
    "levels_right_interval": [0.376, 0.964],
    "missed": 1,
    "spurious": 2,
    "wrong_level": 3,
    "per_class": {"L5": scores(0.9), "T9": scores(0.0, n=0), "L4/L5": scores(0.75)},
    "groups": {"vertebra": scores(0.9), "disc": scores(0.75), "sacrum": {"n": 0}},
}


def test_headline() -> None:
    lines = headline(SUMMARY).splitlines()
    assert lines[0] == (
        "5 test patients, none of them in training: every level from L5 to L1 right in 4 of 5, mean Dice of all "
        "structures 81.25 %."
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]
    assert rows == [["vertebrae", "90.00", "1.50", "0.25"], ["discs", "75.00", "1.50", "0.25"]]


def test_metadata() -> None:
    expected = {"mean_dice": 0.8125, "vertebrae_dice": 0.9, "discs_dice": 0.75, "levels_right": 0.8}
    assert eval_metrics(SUMMARY) == expected


def test_page() -> None:
    text = page(
        SUMMARY,
        {"TPTBox": {"vertebra": 0.5, "disc": None}},
        {"image_size": [256, 128]},
        Calibration(0.04, 0.01, 0.09, 73, 5),
    )
    assert "37.60 to 96.40 %" in text
    assert "Structures: 1 missed, 2 spurious, 3 of wrong level." in text
    assert "T9" not in text
    assert "own name: 0.040 (95 % interval 0.010 to 0.090; 73 structures of 5 scans, 10 bins)" in text
    assert [cell.strip() for cell in text.split("TPTBox")[1].splitlines()[0].split("|")] == ["", "50.00", "–", ""]


@pytest.mark.parametrize(
    ("summary", "expected"),
    [({"a": 0}, {"a": 0}), ({"decoded": {"a": 1}}, {"a": 1}), ({"decoded": {"a": 1}, "named": {"a": 2}}, {"a": 2})],
)
def test_the_names_that_labelling_writes(summary: dict[str, Any], expected: dict[str, Any]) -> None:
    assert scored(summary) == expected


def test_block(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("one\n<!-- shipped -->\nold\n<!-- /shipped -->\ntwo\n", encoding="utf-8")
    write_block(file, "shipped", "new")
    write_block(file, "shipped", "newer")
    assert file.read_text(encoding="utf-8") == "one\n<!-- shipped -->\nnewer\n<!-- /shipped -->\ntwo\n"
    with pytest.raises(ValueError, match="has no lines <!-- results -->"):
        write_block(file, "results", "")


def test_calibration_error_by_hand() -> None:
    """Bin .9 to 1: mean confidence .95, half right; bin .2 to .3: .25, none right."""
    rows = np.array([[0.9, 1], [1.0, 0], [0.25, 0], [0.25, 0]])
    assert calibration_error(rows) == pytest.approx((2 * 0.45 + 2 * 0.25) / 4)
    sure = np.array([[1.0, 1.0]] * 3)
    assert calibration_error(sure) == 0


def test_calibration_of_a_folder(tmp_path: Path) -> None:
    for case, confidence in (("a", 0.9), ("b", 0.6)):
        report = {"structures": [{"class_id": 2, "confidence": confidence}]}
        (tmp_path / f"{case}_levels.json").write_text(json.dumps(report), encoding="utf-8")
    head = "case,class_id,class,dice,iou,hd95_mm,assd_mm"
    (tmp_path / "per_case.csv").write_text(f"{head}\na,2,L5,0.1,,,\nb,2,L5,0.1,,,\n", encoding="utf-8")
    (tmp_path / "per_case_named.csv").write_text(f"{head}\na,2,L5,0.8,,,\nb,2,L5,0.5,,,\n", encoding="utf-8")
    found = calibration(tmp_path)
    assert (found.structures, found.scans) == (2, 2)
    assert found.error == pytest.approx((0.1 + 0.6) / 2)  # .5 is not above a half
    assert (found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.6))
