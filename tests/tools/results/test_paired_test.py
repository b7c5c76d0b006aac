from __future__ import annotations

import itertools
import math
import random

import pytest

from scripts.tools.results.benchmark_folder import TEST, UNLABELLED
from scripts.tools.results.paired_test import compare, paired_test


class TestPairedTest:
    @pytest.mark.parametrize("n", [2, 5, 12])
    def test_twin(self, n):
        generator = random.Random(n)
        differences = [generator.gauss(0.1, 0.2) for _ in range(n)]
        sums = [
            abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
            for signs in itertools.product((1, -1), repeat=n)
        ]
        result = paired_test(differences)
        assert result.n == n
        assert result.mean == pytest.approx(sum(differences) / n)
        assert result.p == pytest.approx(sum(s >= abs(sum(differences)) - 1e-9 for s in sums) / 2**n, abs=1e-15)

    def test_all_better(self):
        assert paired_test([0.1 + 0.01 * i for i in range(5)])[3:] == (5, 0, 2 / 32)

    def test_equal_results(self):
        assert paired_test([0.0, 0.0]).p == 1.0

    def test_rounding_does_not_tell_equal_sums_apart(self):
        assert paired_test([0.1, 0.2, -0.3]).p == 1.0  # their sum is 0, or 6e-17 as floats add up

    def test_one_patient_says_nothing(self):
        result = paired_test([0.5])
        assert result.p == 1.0
        assert math.isnan(result.sd)

    def test_many_patients_are_sampled_alike_each_time(self):
        generator = random.Random(0)
        differences = [generator.gauss(0.02, 0.05) for _ in range(20)]
        result = paired_test(differences)
        assert 0 < result.p < 0.5
        assert paired_test(differences) == result

    def test_samples_come_near_all_flips(self):
        differences = [random.Random(i).gauss(0.02, 0.05) for i in range(16)]
        sums = [0.0]
        for d in differences:
            sums = [s + sign * d for s in sums for sign in (1, -1)]
        exact = sum(abs(s) >= abs(sum(differences)) - 1e-12 for s in sums) / 2**16
        assert paired_test(differences).p == pytest.approx(exact, abs=0.015)


class TestCompare:
    def test_over_shared_seeds(self, small):
        compared = compare(small, "bcp", 1, TEST)
        assert compared.n == 2
        assert compared.mean == pytest.approx((0.3 - 0.1) / 2)
        assert (compared.wins, compared.losses, compared.p) == (1, 1, 1.0)
        assert compare(small, "bcp", 1, UNLABELLED) is None
        assert compare(small, "nobody", 1, TEST) is None
        assert compare(small, "cps4", 1, TEST) is None

    def test_seeds_are_averaged_for_each_patient(self, many):
        ours, theirs = (many.patient_means(m, 1, TEST) for m in ("cps4", "bcp"))
        assert ours.shape == theirs.shape == (3, 5)
        assert compare(many, "bcp", 1, TEST).mean == pytest.approx((ours - theirs).to_numpy().mean())
