from __future__ import annotations

import math
import time

import pytest

from scripts.tools.speed.pairs import Goal, in_turns, median_interval

GOAL = Goal("a step", 1.1, "another step")


class TestMedianInterval:
    # k of a table of the sign test's ranks at 95 %
    @pytest.mark.parametrize(
        ("n", "k"), [(6, 1), (8, 1), (9, 2), (10, 2), (12, 3), (15, 4), (20, 6), (25, 8), (40, 14)]
    )
    def test_value(self, n: int, k: int) -> None:
        values = [float(v) for v in range(n, 0, -1)]  # not sorted
        assert median_interval(values) == (k, n + 1 - k)

    @pytest.mark.parametrize("n", [1, 3, 5])
    def test_few_values_give_their_range(self, n: int) -> None:
        assert median_interval([float(v) for v in range(n)]) == (0, n - 1)

    def test_confidence(self) -> None:
        # five values: outside their range lies the median with probability 2 / 32 = 6.25 %
        assert median_interval([5.0, 1.0, 2.0, 4.0, 3.0], confidence=0.6) == (2.0, 4.0)
        assert median_interval([5.0, 1.0, 2.0, 4.0, 3.0], confidence=0.9) == (1.0, 5.0)

    def test_twin(self) -> None:
        for n in range(6, 60):
            low, high = (int(v) for v in median_interval([float(v) for v in range(1, n + 1)]))
            inside = sum(math.comb(n, heads) for heads in range(low, high)) / 2**n
            narrower = sum(math.comb(n, heads) for heads in range(low + 1, high - 1)) / 2**n
            assert inside >= 0.95 > narrower

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match="an interval needs values, got none"):
            median_interval([])


class TestGoal:
    def test_value(self) -> None:
        pairs = [(2.0, 2.0), (1.0, 2.0), (3.0, 1.0), (2.4, 2.0), (4.4, 4.0)]  # ratios 1, .5, 3, 1.2, 1.1
        row = GOAL.row(pairs, device="cpu")
        assert row == {
            "name": "a step", "ratio": 1.1, "low": 0.5, "high": 3.0, "goal": 1.1, "met": True,
            "reference": "another step", "pairs": 5, "ours_ms": 2400.0, "reference_ms": 2000.0, "device": "cpu",
        }  # fmt: skip

    def test_value_of_ratios_and_not_of_sums(self) -> None:
        # 10 of the sums' 13 are ours, but in two of three pairs ours is the faster
        row = GOAL.row([(1.0, 2.0), (1.0, 2.0), (10.0, 1.0)])
        assert (row["ratio"], row["met"]) == (0.5, True)

    def test_missed(self) -> None:
        assert GOAL.row([(1.11, 1.0)] * 3)["met"] is False

    def test_unit(self) -> None:
        row = Goal("memory", 1.1, "less", unit="MB").row([(660.0, 600.0)])
        assert (row["ours_MB"], row["reference_MB"], row["met"]) == (660.0, 600.0, True)

    def test_not_measured(self) -> None:
        row = GOAL.not_measured("no GPU")
        assert (row["ratio"], row["met"], row["goal"], row["reason"]) == (None, None, 1.1, "no GPU")


class TestInTurns:
    def test_order(self) -> None:
        calls: list[str] = []
        pairs = in_turns(lambda: calls.append("o"), lambda: calls.append("r"), pairs=3, warm_up=1)
        assert "".join(calls) == "or" + "or" + "ro" + "or"
        assert len(pairs) == 3

    def test_sides(self) -> None:
        for ours, reference in in_turns(lambda: time.sleep(0.02), lambda: None, pairs=2):
            assert ours >= 0.02 > reference
