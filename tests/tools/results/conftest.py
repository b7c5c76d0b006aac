from __future__ import annotations

import pytest

from scripts.tools.results.benchmark_folder import Results, read_results
from tests.tools.results.synthetic import MANY, write_benchmark

FEW = {m: MANY[m] for m in ("supervised", "mean_teacher", "cps4")}


@pytest.fixture(scope="session")
def many(tmp_path_factory) -> Results:
    """Fifteen methods, an upper bound and three ablations, two numbers of labelled patients, three seeds."""
    return read_results(write_benchmark(tmp_path_factory.mktemp("many"), full=22))


@pytest.fixture(scope="session")
def few(tmp_path_factory) -> Results:
    """Three methods, one number of labelled patients, one seed, no decoded levels."""
    return read_results(write_benchmark(tmp_path_factory.mktemp("few"), FEW, (1,), (0,), decoded=False))


@pytest.fixture(scope="session")
def alone(tmp_path_factory) -> Results:
    """Two methods, CPS4 not among them."""
    levels = {"supervised": 0.4, "bcp": 0.3}
    return read_results(write_benchmark(tmp_path_factory.mktemp("alone"), levels, (2,), (0, 1)))
