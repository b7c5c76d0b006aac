from __future__ import annotations

import csv
import gzip
import math
import shutil

import numpy as np
import pandas as pd
import pytest

from scripts.tools.results.benchmark_folder import (
    CASE_FIELDS,
    READOUTS,
    TEST,
    UNLABELLED,
    Readout,
    read_benchmark,
    write_cases,
    write_lines,
)
from tests.tools.results.synthetic import HEAD, MANY, write_benchmark

DECODED = Readout("test", "decoded")


class TestReadBenchmark:
    def test_the_last_run_of_a_seed_counts(self, small):
        assert small.runs[["method", "seed", "mdice"]].values.tolist() == [
            ["bcp", 0, 0.25],
            ["bcp", 1, 0.7],
            ["cps4", 0, 0.8],
        ]

    def test_scores_of_the_summary_win_over_the_line(self, small):
        assert small.scores("bcp", 1, TEST) == [0.25, 0.7]
        assert small.scores("bcp", 1, TEST, "miou") == [0.4]
        assert small.scores("bcp", 1, DECODED) == [0.75]
        assert small.scores("bcp", 1, UNLABELLED) == []
        assert small.has(DECODED)
        assert not small.has(UNLABELLED)

    def test_classes(self, small):
        assert small.class_means("cps4", 1, TEST) == {"L5": [pytest.approx(0.4)]}
        assert small.n_cases(1, TEST) == 2

    def test_upper_bound_belongs_to_every_number(self, many):
        assert many.labelled == [1, 2]
        assert many.of("full", 1)["labelled"].tolist() == [22]

    def test_exception(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="benchmark accuracy"):
            read_benchmark(tmp_path)
        (tmp_path / "results.csv").write_text(HEAD + "\n")
        with pytest.raises(ValueError, match="holds no run"):
            read_benchmark(tmp_path)


class TestPublished:
    @pytest.fixture
    def parts(self, tmp_path):
        """All runs in one folder; those of two methods published, those of a third and one of the first run later."""
        whole = write_benchmark(tmp_path / "whole", {m: MANY[m] for m in ("supervised", "bcp", "cps4")}, (1, 2), (0, 1))
        early, late = tmp_path / "early", tmp_path / "late"
        lines = (whole / "results.csv").read_text().splitlines()
        for folder, mine in ((early, ("supervised", "cps4")), (late, ("bcp", "cps4,1,1"))):
            folder.mkdir()
            kept = [line for line in lines[1:] if line.startswith(mine)]
            (folder / "results.csv").write_text("\n".join([lines[0], *kept]) + "\n")
            for line in kept:
                name = "_".join(line.split(",")[:3])
                shutil.copytree(whole / name, folder / name)
        published = read_benchmark(early)
        write_lines(published.lines, tmp_path / "table.csv")
        write_cases(published.cases, tmp_path / "table_per_case.csv.gz")
        return whole, late, tmp_path / "table"

    def test_the_same_as_all_runs_in_one_folder(self, parts):
        whole, late, published = parts
        expected, found = read_benchmark(whole), read_benchmark(late, published)
        keys = [*CASE_FIELDS[:6], "class_id"]
        one, two = (table.cases.sort_values(keys).reset_index(drop=True) for table in (expected, found))
        pd.testing.assert_frame_equal(one[keys], two[keys])
        np.testing.assert_allclose(one["dice"], two["dice"], rtol=1e-3)
        assert list(found.names) == list(expected.names)
        for method in expected.names:
            for labelled in (1, 2):
                for readout in READOUTS:
                    for measure in ("mdice", "miou"):  # results.csv has no mIoU of unlabelled patients
                        mine, theirs = (b.scores(method, labelled, readout, measure) for b in (found, expected))
                        assert mine == pytest.approx(theirs, abs=1e-3), (readout, measure)

    def test_a_run_of_the_folder_wins(self, parts):
        whole, late, published = parts
        (late / "cps4_1_1" / "network_test" / "summary.json").write_text('{"mdice": 0.123, "miou": 0.1}')
        found = read_benchmark(late, published)
        assert found.scores("cps4", 1, TEST)[1] == 0.123
        assert len(found.runs) == len(read_benchmark(whole).runs)
        cases = found.cases[(found.cases["method"] == "cps4") & (found.cases["labelled"] == 1)]
        assert not cases.duplicated(CASE_FIELDS[:7]).any()

    def test_published_again_the_same_bytes(self, parts, tmp_path):
        _, late, published = parts
        found = read_benchmark(late, published)
        write_lines(found.lines, tmp_path / "again.csv")
        first = write_cases(found.cases, tmp_path / "again_per_case.csv.gz").read_bytes()
        twice = read_benchmark(late, tmp_path / "again")
        assert write_cases(twice.cases, tmp_path / "third.csv.gz").read_bytes() == first
        write_lines(twice.lines, tmp_path / "third.csv")
        assert (tmp_path / "third.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()


class TestReadout:
    def test_names(self):
        assert [r.column("mdice") for r in READOUTS] == [
            "mdice",
            "mdice_decoded",
            "mdice_named",
            "unlabelled_mdice",
            "unlabelled_mdice_decoded",
            "unlabelled_mdice_named",
        ]
        assert READOUTS[4].file == "network_unlabelled/per_case_decoded.csv"
        assert READOUTS[4].title == "unlabelled patients, decoded levels"


class TestLevels:
    def test_value(self, tmp_path):
        """Levels L5 to L1 alone are judged; a case that shows none of them is not."""
        (tmp_path / "results.csv").write_text(f"{HEAD}\ncps4,1,0,0.5,0.4{12 * ','}\n")
        out = tmp_path / "cps4_1_0" / "network_test"
        out.mkdir(parents=True)
        scores = [("a", 2, "L5", 0.51), ("a", 6, "L1", 0.9), ("a", 8, "T11", 0.1), ("b", 2, "L5", 0.9)]
        scores += [("b", 6, "L1", 0.5), ("c", 8, "T11", 0.9), ("d", 3, "L4", 0.7), ("d", 2, "L5", "")]
        lines = [f"{case},{number},{name},{dice},0.1,," for case, number, name, dice in scores]
        (out / "per_case.csv").write_text("\n".join(["case,class_id,class,dice,iou,hd95_mm,assd_mm", *lines]) + "\n")
        found = read_benchmark(tmp_path).levels("cps4", 1, TEST)
        assert dict(zip(found["case"], found["right"], strict=True)) == {"a": True, "b": False, "d": True}
        assert found["dice"].tolist() == pytest.approx([1.51 / 3, 0.7, 0.7])


class TestNames:
    @pytest.mark.parametrize(("map_mdice", "shared"), [(0.2, True), (0.3, False), ("", False)])
    def test_who_took_our_stage_1_is_not_called_published(self, tmp_path, map_mdice, shared):
        lines = [HEAD]
        for seed in (0, 1):
            lines += [f"cps4,1,{seed},0.5,0.4{10 * ','}0.{2 + 2 * seed},,"]
            lines += [f"cps4_literal,1,{seed},0.5,0.4{10 * ','}{map_mdice if seed == 0 else 0.4},,"]
        (tmp_path / "results.csv").write_text("\n".join(lines) + "\n")
        title = read_benchmark(tmp_path).names["cps4_literal"].title
        expected = "CPS4: published stage 2 on our stage 1" if shared or map_mdice == "" else "CPS4 as published"
        assert title == expected


class TestWriteCases:
    def test_value(self, small, tmp_path):
        with write_cases(small.cases, tmp_path / "cases.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 4  # what was not scored has no line
        assert rows[0] == {
            "method": "bcp", "labelled": "1", "seed": "0", "section": "test", "variant": "raw", "case": "a, b",
            "class_id": "2", "class": "L5", "dice": "0.2", "iou": "0.1", "hd95_mm": "3", "assd_mm": "1",
        }  # fmt: skip
        assert rows[1]["hd95_mm"] == ""

    def test_compressed_the_same_bytes_each_time(self, small, tmp_path):
        plain = write_cases(small.cases, tmp_path / "cases.csv").read_bytes()
        one, two = (write_cases(small.cases, tmp_path / name).read_bytes() for name in ("one.csv.gz", "two.csv.gz"))
        assert gzip.decompress(one) == plain
        assert one == two

    def test_distances_are_left_out_of_a_large_file(self, small, tmp_path):
        text = write_cases(small.cases, tmp_path / "cases.csv", largest=100).read_text()
        assert text.splitlines()[0].endswith("class,dice,iou")
        assert not math.isnan(float(text.splitlines()[1].rsplit(",", 1)[-1]))
