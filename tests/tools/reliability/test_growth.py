from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from scripts.__main__ import main
from scripts.tools.reliability.growth import PHASES, in_new_process, markdown, memory_ratio


def rows(peaks: dict[int, list[float]]) -> list[dict[str, object]]:
    return [
        {"phase": phase, "volumes": n, "seconds": 1.0 + 0.25 * n, "peak_mb": mb}
        for n, values in peaks.items()
        for phase, mb in zip(PHASES, values, strict=False)
    ]


class TestMemoryRatio:
    def test_worst_phase_of_largest_to_second_smallest(self) -> None:
        assert memory_ratio(rows({10: [10, 10], 100: [100, 200], 1000: [999, 1], 2000: [110, 200]})) == 1.1

    def test_of_two_numbers(self) -> None:
        assert memory_ratio(rows({10: [10, 10], 100: [15, 10]})) == 1.5


def test_page_says_what_a_further_volume_costs() -> None:
    page = markdown(rows({10: [10.0], 100: [20.0], 1000: [21.0]}), seed=7)
    assert re.search(r"\| prepare \| +250 \| +250 \|", page)
    assert "is 1.050:" in page
    assert "seed 7" in page


def test_peak_is_of_what_the_process_did(tmp_path: Path) -> None:
    few, many = (in_new_process(tmp_path / f"{n}.txt", hold, n)[1] for n in (1, 400))
    assert 380 < many - few < 420
    assert (tmp_path / "400.txt").read_text(encoding="utf-8") == "400\n"


def hold(megabytes: int) -> None:
    """Hold so much memory for a moment."""
    print(np.ones(megabytes << 20, np.uint8).nbytes >> 20)


@pytest.mark.parametrize("given", [["10"], ["2", "10"]])
def test_numbers_that_show_nothing_are_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "growth", "--volumes", *given]) == 1
    assert "--volumes takes two or more numbers above 2" in capsys.readouterr().err


@pytest.mark.slow
def test_every_phase_is_measured(tmp_path: Path) -> None:
    assert main(["benchmark", "growth", "--volumes", "5", "8", "--out", str(tmp_path / "r.json")]) == 0
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert {(row["phase"], row["volumes"]) for row in found["growth"]} == {(p, n) for p in PHASES for n in (5, 8)}
    assert found["volumes"] == 8
    assert all(row["seconds"] > 0 and row["peak_mb"] > 50 for row in found["growth"])
    assert (tmp_path / "growth.md").is_file()
