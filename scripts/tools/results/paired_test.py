"""Paired comparison of two methods over the patients that both scored: a sign-flip permutation test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.stats import permutation_test

from .benchmark_folder import Benchmark, Readout
from .row_names import REFERENCE

DRAWS = 20_000
EXACT_UP_TO = int(math.log2(DRAWS))
"""Patients up to which all sign flips are tried."""


class Comparison(NamedTuple):
    """How much better one method is than another, over `n` patients: mean and deviation of the differences, p."""

    n: int
    mean: float
    sd: float
    wins: int
    losses: int
    p: float


@cache
def compare(
    benchmark: Benchmark, other: str, labelled: int, readout: Readout, measure: str = "dice"
) -> Comparison | None:
    """CPS4 minus another row, each patient's score averaged over the seeds that both have.

    Args:
        benchmark: the runs.
        other: name of the other row.
        labelled: number of labelled patients.
        readout: which patients, which form of the prediction.
        measure: "dice" or "iou", mean over the classes of a patient.

    Returns:
        The comparison; None if the rows share no patient of a seed, and for CPS4 itself.
    """
    if other == REFERENCE:
        return None
    ours, theirs = (benchmark.patient_means(m, labelled, readout, measure) for m in (REFERENCE, other))
    seeds = ours.index.intersection(theirs.index)
    differences = (ours.loc[seeds].mean() - theirs.loc[seeds].mean()).dropna()
    return paired_test(differences.tolist()) if len(differences) else None


def paired_test(differences: Sequence[float]) -> Comparison:
    """Whether paired differences could be chance.

    Args:
        differences: a score minus the other, for each patient.

    Returns:
        p is two-sided: exact up to 14 patients (then it is at least 2 / 2^n), of 20 000 seeded draws beyond.
    """
    values = np.array(differences)
    n = len(values)
    p = 1.0
    if n > 1:
        result = permutation_test(
            (values,), _mean, permutation_type="samples", vectorized=True, n_resamples=DRAWS,
            random_state=np.random.default_rng(0),
        )  # fmt: skip
        p = float(result.pvalue)
    sd = float(values.std(ddof=1)) if n > 1 else math.nan
    return Comparison(n, float(values.mean()), sd, int((values > 0).sum()), int((values < 0).sum()), p)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean without its last digits: rounding must not tell the observed mean from itself."""
    return values.mean(axis).round(12)
