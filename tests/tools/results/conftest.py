from __future__ import annotations

import pytest

from scripts.tools.results.benchmark_folder import Benchmark, read_benchmark
from tests.tools.results.synthetic import HEAD, MANY, write_benchmark

FEW = {m: MANY[m] for m in ("supervised", "mean_teacher", "cps4")}


@pytest.fixture(scope="session")
def many(tmp_path_factory) -> Benchmark:
    """Fifteen methods, an upper bound and three ablations, two numbers of labelled patients, three seeds."""
    return read_benchmark(write_benchmark(tmp_path_factory.mktemp("many"), full=22))


@pytest.fixture(scope="session")
def few(tmp_path_factory) -> Benchmark:
    """Three methods, one number of labelled patients, one seed, no decoded levels."""
    return read_benchmark(write_benchmark(tmp_path_factory.mktemp("few"), FEW, (1,), (0,), decoded=False))


@pytest.fixture(scope="session")
def alone(tmp_path_factory) -> Benchmark:
    """Two methods, CPS4 not among them."""
    levels = {"supervised": 0.4, "bcp": 0.3}
    return read_benchmark(write_benchmark(tmp_path_factory.mktemp("alone"), levels, (2,), (0, 1)))


@pytest.fixture
def small(tmp_path):
    """Two methods, two seeds each; the second seed of the second method left its line alone."""
    lines = ["bcp,1,0,0.5,0.4", "bcp,1,1,0.7,", "cps4,1,0,0.6,0.5", "cps4,1,0,0.8,0.7"]
    (tmp_path / "results.csv").write_text("\n".join([HEAD, *(line + 12 * "," for line in lines)]) + "\n")
    for name, dice in (("bcp_1_0", (0.2, 0.4)), ("cps4_1_0", (0.5, 0.3))):
        out = tmp_path / name / "network_test"
        out.mkdir(parents=True)
        rows = [f'"a, b",2,L5,{dice[0]},0.1,3,1', f"c,2,L5,{dice[1]},0.2,,", "c,3,L4,,,,"]
        (out / "per_case.csv").write_text("\n".join(["case,class_id,class,dice,iou,hd95_mm,assd_mm", *rows]) + "\n")
    (tmp_path / "bcp_1_0" / "network_test" / "summary.json").write_text('{"mdice": 0.25, "decoded": {"mdice": 0.75}}')
    return read_benchmark(tmp_path)
