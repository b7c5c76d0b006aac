from __future__ import annotations

import pytest

from scripts.tools.results.benchmark_folder import Readout, read_benchmark
from scripts.tools.results.level_tables import counted, level_table
from tests.tools.results.synthetic import HEAD

NAMED = Readout("unlabelled", "named")


class TestLevelTable:
    def test_value(self, tmp_path):
        """Three scans of two seeds: two right, of mDice 0.7 and 0.9, one not, of 0.4."""
        lines = [HEAD]
        for seed, scans in enumerate(({"a": (0.8, 0.6), "b": (0.7, 0.1)}, {"a": (0.9, 0.9)})):
            out = tmp_path / f"cps4_1_{seed}" / "network_unlabelled"
            out.mkdir(parents=True)
            rows = [
                f"{case},{i},x,{d},0.1,," for case, dice in scans.items() for i, d in zip((2, 3), dice, strict=True)
            ]
            (out / "per_case_named.csv").write_text(
                "\n".join(["case,class_id,class,dice,iou,hd95_mm,assd_mm", *rows]) + "\n"
            )
            lines.append(f"cps4,1,{seed},0.5,0.4" + 12 * ",")
        (tmp_path / "results.csv").write_text("\n".join(lines) + "\n")
        table = level_table(read_benchmark(tmp_path), NAMED)
        assert table.cells.to_numpy().tolist() == [["66.7 [20.8, 93.9] (2/3)", "80.0", "40.0"]]
        assert level_table(read_benchmark(tmp_path), Readout("test", "named")) is None

    def test_of_many_methods(self, many):
        table = level_table(many, NAMED)
        assert table.cells.shape == (len(many.names) - 1, 3 * len(many.labelled))  # all but the upper bound


@pytest.mark.parametrize(
    ("right", "text"),
    [([], "–"), ([True] * 10, "100.0 [72.2, 100.0] (10/10)"), ([True, False], "50.0 [9.5, 90.5] (1/2)")],
)
def test_counted(right, text):
    """Wilson's interval, by the formula of the textbooks."""
    assert counted(right) == text
