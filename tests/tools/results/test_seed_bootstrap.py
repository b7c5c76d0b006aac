from __future__ import annotations

import itertools
import math
import random
import statistics

import numpy as np
import pytest

from scripts.tools.results.benchmark_folder import TEST, UNLABELLED
from scripts.tools.results.seed_bootstrap import compare, comparisons, drawn_means, holm

NAN = math.nan


class TestCompare:
    def test_value(self):
        """Two seeds of one mean each: the bootstrap's deviation is 0.1 / sqrt(2), Student's t with one degree."""
        result = compare(np.array([[0.1, 0.1], [0.3, 0.3]]))
        assert result[:3] == (2, 2, pytest.approx(0.2))
        error = math.sqrt(2) * 0.1 / math.sqrt(2)
        assert result.high - result.mean == pytest.approx(12.706 * error, rel=0.03)
        assert result.mean - result.low == pytest.approx(result.high - result.mean)
        assert result.p == pytest.approx(1 - 2 / math.pi * math.atan(0.2 / error), rel=0.03)  # Cauchy

    def test_wins_of_patients_over_seeds(self):
        result = compare(np.array([[0.3, -0.1, 0.0], [-0.1, -0.1, NAN]]))
        assert (result.wins, result.losses) == (1, 1)
        assert result.mean == pytest.approx(0.0)

    @pytest.mark.parametrize("shape", [(1, 4), (4, 1)])
    def test_one_seed_or_patient_says_nothing(self, shape):
        result = compare(np.arange(4.0).reshape(shape))
        assert result.mean == 1.5
        assert all(map(math.isnan, (result.low, result.high, result.p)))

    def test_equal_everywhere(self):
        assert compare(np.full((3, 4), 0.5))[3:5] == (0.5, 0.5)
        assert compare(np.full((3, 4), 0.5)).p == 0.0
        assert compare(np.zeros((3, 4))).p == 1.0

    def test_a_seed_apart_widens_the_interval(self):
        """What three seeds do not agree on is no finding, however many patients there are."""
        alike = np.tile([[0.10], [0.11], [0.12]], (1, 40))
        apart = np.tile([[0.30], [0.02], [0.01]], (1, 40))
        assert alike.mean() == pytest.approx(apart.mean())
        assert compare(alike).p < 0.01
        assert compare(apart).p > 0.3

    def test_the_same_each_time(self):
        values = np.random.default_rng(3).normal(0.02, 0.05, (3, 20))
        assert compare(values) == compare(values)

    @pytest.mark.parametrize("shape", [(3, 5), (3, 21), (6, 5)])
    @pytest.mark.parametrize("spreads", [(1, 0, 0.3), (0, 1, 0.3), (1, 1, 0.5), (0, 0, 1)])
    def test_coverage(self, shape, spreads):
        """Whether seeds, patients or neither differ: 95 % intervals hold the truth, here 0, at least so often."""
        rng, (seeds, patients), (of_seed, of_patient, other) = np.random.default_rng(0), shape, spreads
        runs = 120
        held = sum(
            c.low <= 0 <= c.high and c.p >= 0.05
            for _ in range(runs)
            for c in [
                compare(
                    rng.normal(0, of_seed, (seeds, 1))
                    + rng.normal(0, of_patient, (1, patients))
                    + rng.normal(0, other, shape)
                )
            ]
        )
        assert held / runs >= 0.91  # 0.95 less two deviations of a share of 120


class TestDrawnMeans:
    @pytest.mark.parametrize("missing", [False, True])
    def test_twin(self, missing):
        """All draws of two seeds and three patients, counted one by one."""
        values = np.array([[0.1, 0.5, -0.2], [0.3, 0.2, NAN if missing else 0.9]])
        means = []
        for seeds in itertools.product(range(2), repeat=2):
            for patients in itertools.product(range(3), repeat=3):
                drawn = [values[s, p] for s in seeds for p in patients if not math.isnan(values[s, p])]
                means += [statistics.fmean(drawn)] if drawn else []
        found = drawn_means(values, 40_000)
        assert found.mean() == pytest.approx(statistics.fmean(means), abs=0.005)
        assert found.std() == pytest.approx(statistics.pstdev(means), rel=0.03)
        assert {round(m, 9) for m in found} <= {round(m, 9) for m in means}


class TestHolm:
    def test_value(self):
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
        assert holm([0.5, 0.9]) == [1.0, 1.0]
        assert holm([]) == []

    def test_twin(self):
        generator = random.Random(1)
        p = [generator.random() ** 3 for _ in range(9)]
        corrected = holm(p)
        for i, mine in enumerate(p):
            smaller = [q for q in p if q <= mine]
            steps = [(len(p) - sum(o < q for o in p)) * q for q in smaller]
            assert corrected[i] == pytest.approx(min(1.0, max(steps)))


class TestComparisons:
    def test_over_shared_seeds(self, small):
        compared = comparisons(small, 1, TEST)
        assert list(compared) == ["bcp"]
        assert compared["bcp"].mean == pytest.approx((0.3 - 0.1) / 2)
        assert compared["bcp"][:2] == (1, 2)
        assert (compared["bcp"].wins, compared["bcp"].losses) == (1, 1)
        assert math.isnan(compared["bcp"].p)
        assert comparisons(small, 1, UNLABELLED) == {}

    def test_differences_of_seed_and_patient(self, many):
        ours, theirs = (many.patient_means(m, 1, TEST) for m in ("cps4", "bcp"))
        assert ours.shape == theirs.shape == (3, 5)
        compared = comparisons(many, 1, TEST)
        assert compared["bcp"].mean == pytest.approx((ours - theirs).to_numpy().mean())
        assert compared["bcp"][:2] == (3, 5)

    def test_p_is_corrected_for_the_rows(self, many):
        alone = {
            m: compare((many.patient_means("cps4", 1, TEST) - many.patient_means(m, 1, TEST)).to_numpy()).p
            for m in many.names
            if m not in ("cps4", "full")
        }
        compared = comparisons(many, 1, TEST)
        assert math.isnan(compared["full"].p)  # of one seed: not among those that count
        for ablations in (True, False):
            family = [m for m in alone if (many.names[m].group == "Ablations") is ablations]
            smallest = min(family, key=alone.get)
            assert compared[smallest].p == pytest.approx(min(1, len(family) * alone[smallest]))
        assert all(compared[m].p >= p for m, p in alone.items())
