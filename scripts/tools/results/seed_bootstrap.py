"""How far two rows of a benchmark are apart: a bootstrap over seeds and patients, corrected for the number of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .benchmark_folder import Benchmark, Readout
from .row_names import REFERENCE

DRAWS = 5000
CONFIDENCE = 0.95


class Comparison(NamedTuple):
    """How much better one row is than another, over the seeds and patients that both have.

    Attributes:
        seeds: that both rows have.
        patients: that both scored.
        mean: of the differences, a fraction.
        low: lower end of its interval at `CONFIDENCE`; NaN with a single seed or patient.
        high: upper end.
        wins: patients whose difference, averaged over seeds, is above 0.
        losses: patients below 0.
        p: two-sided; NaN with a single seed or patient. `comparisons` corrects it for the number of rows.
    """

    seeds: int
    patients: int
    mean: float
    low: float
    high: float
    wins: int
    losses: int
    p: float


@cache
def comparisons(benchmark: Benchmark, labelled: int, readout: Readout, measure: str = "dice") -> dict[str, Comparison]:
    """CPS4 minus every other row, p corrected for their number (Holm), ablations apart from all others.

    Args:
        benchmark: the runs.
        labelled: number of labelled patients.
        readout: which patients, which form of the prediction.
        measure: "dice" or "iou", mean over the classes of a patient.

    Returns:
        Row -> comparison, for those that share a patient of a seed with CPS4.
    """
    ours = benchmark.patient_means(REFERENCE, labelled, readout, measure)
    found = {}
    for method in benchmark.names:
        theirs = benchmark.patient_means(method, labelled, readout, measure)
        differences = (ours - theirs).dropna(how="all").dropna(axis="columns", how="all")
        if method != REFERENCE and not differences.empty:
            found[method] = compare(differences.to_numpy(float))
    for ablations in (True, False):
        family = [m for m in found if (benchmark.names[m].group == "Ablations") is ablations]
        tested = [m for m in family if not math.isnan(found[m].p)]
        for method, p in zip(tested, holm([found[m].p for m in tested]), strict=True):
            found[method] = found[method]._replace(p=p)
    return found


def compare(differences: NDArray[np.float64]) -> Comparison:
    """Interval and p of a mean difference that seeds and patients share.

    Seeds are drawn with replacement, and patients, the same for all drawn seeds: most patients are scored in every
    seed, and one that is easy for a row is so in each of them. The deviation of the drawn means is the standard error.
    With three seeds quantiles of the drawn means would cover the truth in seven of ten cases; so the interval is
    Student's, with one degree of freedom less than there are seeds or patients, whichever are fewer, and the error
    multiplied by the root of n / (n - 1), which a bootstrap of n lacks.

    Args:
        differences: (seeds, patients), a score minus the other; NaN where one is missing.

    References: Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1(2), 2007.
    """
    seeds, patients = differences.shape
    of_patients = np.nanmean(differences, axis=0)
    wins, losses = int((of_patients > 0).sum()), int((of_patients < 0).sum())
    mean, n = float(np.nanmean(differences)), min(seeds, patients)
    if n < 2:
        return Comparison(seeds, patients, mean, math.nan, math.nan, wins, losses, math.nan)
    error = math.sqrt(n / (n - 1)) * float(drawn_means(differences).std())
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, n - 1)) if error > 0 else float(mean == 0)
    return Comparison(seeds, patients, mean, mean - reach, mean + reach, wins, losses, p)


def drawn_means(differences: NDArray[np.float64], draws: int = DRAWS) -> NDArray[np.float64]:
    """(draws,) means of drawn seeds and patients, see :func:`compare`; the same for the same differences."""
    rng = np.random.default_rng(0)
    scored = ~np.isnan(differences)
    times = [rng.multinomial(n, np.full(n, 1 / n), draws) for n in differences.shape]
    sums, counts = (
        ((times[0] @ values) * times[1]).sum(1) for values in (np.where(scored, differences, 0.0), scored.astype(float))
    )
    return np.asarray(sums[counts > 0] / counts[counts > 0])


def holm(p: Sequence[float]) -> list[float]:
    """P values corrected for their number, in their order.

    References: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics, 1979.
    """
    order = np.argsort(p)
    rising = np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1))
    return np.minimum(rising, 1.0)[np.argsort(order)].tolist() if len(p) else []
