from __future__ import annotations

import csv
import gzip
import math

import pytest

from scripts.tools.results.benchmark_folder import READOUTS, TEST, UNLABELLED, Readout, read_results, write_cases
from tests.tools.results.synthetic import HEAD

DECODED = Readout("test", "decoded")


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
    return read_results(tmp_path)


class TestReadResults:
    def test_the_last_run_of_a_seed_counts(self, small):
        assert [(r.method, r.seed, r.row["mdice"]) for r in small.runs] == [
            ("bcp", 0, "0.5"),
            ("bcp", 1, "0.7"),
            ("cps4", 0, "0.8"),
        ]

    def test_scores_of_the_summary_win_over_the_line(self, small):
        assert small.scores("bcp", 1, TEST) == [0.25, 0.7]
        assert small.scores("bcp", 1, TEST, "miou") == [0.4]
        assert small.scores("bcp", 1, DECODED) == [0.75]
        assert small.scores("bcp", 1, UNLABELLED) == []
        assert small.has(DECODED)
        assert not small.has(UNLABELLED)

    def test_comparison_over_shared_seeds(self, small):
        compared = small.compare("bcp", 1, TEST)
        assert compared["n"] == 2
        assert compared["mean"] == pytest.approx((0.3 - 0.1) / 2)
        assert (compared["wins"], compared["losses"], compared["p"]) == (1, 1, 1.0)
        assert small.compare("bcp", 1, UNLABELLED) is None
        assert small.compare("nobody", 1, TEST) is None

    def test_classes(self, small):
        assert small.class_means("cps4", 1, TEST) == {"L5": [pytest.approx(0.4)]}
        assert small.n_cases(1, TEST) == 2

    def test_upper_bound_belongs_to_every_number(self, many):
        assert many.labelled == [1, 2]
        assert [run.labelled for run in many.of("full", 1)] == [22]

    def test_exception(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="benchmark accuracy"):
            read_results(tmp_path)
        (tmp_path / "results.csv").write_text(HEAD + "\n")
        with pytest.raises(ValueError, match="holds no run"):
            read_results(tmp_path)


class TestReadout:
    def test_names(self):
        assert [r.column("mdice") for r in READOUTS] == [
            "mdice",
            "mdice_decoded",
            "unlabelled_mdice",
            "unlabelled_mdice_decoded",
        ]
        assert READOUTS[3].file == "network_unlabelled/per_case_decoded.csv"
        assert READOUTS[3].title == "unlabelled patients, decoded levels"


class TestWriteCases:
    def test_value(self, small, tmp_path):
        with write_cases(small, tmp_path / "cases.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 4  # what was not scored has no line
        assert rows[0] == {
            "method": "bcp", "labelled": "1", "seed": "0", "section": "test", "variant": "raw", "case": "a, b",
            "class_id": "2", "class": "L5", "dice": "0.2", "iou": "0.1", "hd95_mm": "3", "assd_mm": "1",
        }  # fmt: skip
        assert rows[1]["hd95_mm"] == ""

    def test_compressed_the_same_bytes_each_time(self, small, tmp_path):
        plain = write_cases(small, tmp_path / "cases.csv").read_bytes()
        one, two = (write_cases(small, tmp_path / name).read_bytes() for name in ("one.csv.gz", "two.csv.gz"))
        assert gzip.decompress(one) == plain
        assert one == two

    def test_distances_are_left_out_of_a_large_file(self, small, tmp_path):
        text = write_cases(small, tmp_path / "cases.csv", largest=100).read_text()
        assert text.splitlines()[0].endswith("class,dice,iou")
        assert not math.isnan(float(text.splitlines()[1].rsplit(",", 1)[-1]))
