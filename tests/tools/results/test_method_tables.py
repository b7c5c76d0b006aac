from __future__ import annotations

import json

import numpy as np
import pytest

from scripts.tools.results.benchmark_folder import READOUTS, TEST, UNLABELLED, Readout, read_benchmark
from scripts.tools.results.method_tables import (
    ablation_table,
    all_columns_table,
    comparison_table,
    other_ablations_table,
    outside_table,
    overview_table,
    score_table,
    stars,
    steps_table,
)
from scripts.tools.results.seed_bootstrap import compare
from tests.tools.results.synthetic import HEAD

FIELDS = "case,class_id,class,dice,iou,hd95_mm,assd_mm"


@pytest.fixture
def hand(tmp_path):
    """CPS4, BCP and the upper bound on two test cases, numbers to check by hand."""
    runs = {
        ("bcp", 1, 0): (0.2, 0.4), ("bcp", 1, 1): (0.3, 0.5), ("cps4", 1, 0): (0.5, 0.4), ("cps4", 1, 1): (0.5, 0.8),
        ("full", 9, 0): (0.8, 0.8), ("token", 1, 0): (0.4, 0.4),
    }  # fmt: skip
    lines = [HEAD]
    for (method, labelled, seed), dice in runs.items():
        out = tmp_path / f"{method}_{labelled}_{seed}" / "network_test"
        out.mkdir(parents=True)
        rows = [f"{case},2,L5,{d},{d - 0.1},," for case, d in zip("ab", dice, strict=True)]
        (out / "per_case.csv").write_text("\n".join([FIELDS, *rows]) + "\n")
        lines.append(f"{method},{labelled},{seed},{sum(dice) / 2},{sum(dice) / 2 - 0.1}" + 12 * ",")
    (tmp_path / "results.csv").write_text("\n".join(lines) + "\n")
    return read_benchmark(tmp_path)


def rows(table):
    """Title of a row and its cells."""
    titles = table.cells.index.get_level_values(-1)
    return [[title, *cells] for title, cells in zip(titles, table.cells.to_numpy().tolist(), strict=True)]


def groups(table):
    """Titles of the groups in the order of the page, with their rows."""
    found = table.cells.groupby(level=0, sort=False)
    return [(title, rows(table._replace(cells=cells))) for title, cells in found]


def best(table):
    """(row, head) of the bold cells."""
    assert table.best.index.equals(table.cells.index)
    return [(row[-1], head[-1]) for row, marks in table.best.iterrows() for head, bold in marks.items() if bold]


class TestScoreTable:
    def test_value(self, hand):
        table = score_table(hand, TEST)
        assert table.cells.index.names == ["group", "method"]
        assert list(table.cells.columns) == [
            ("1 labelled (n = 2 seeds, 2 patients)", "mDice"), ("1 labelled (n = 2 seeds, 2 patients)", "mIoU"),
        ]  # fmt: skip
        assert groups(table) == [
            ("Semi-supervised", [["BCP", "35.00 ± 7.07", "25.00 ± 7.07"]]),
            ("CPS4", [["CPS4 (ours)", "55.00 ± 14.14", "45.00 ± 14.14"]]),
            (
                "Upper bound",
                [
                    ["fully supervised, all patients", "80.00 (n=1)", "70.00 (n=1)"],
                    # the first seed alone: 0.5 - 0.8 and 0.4 - 0.8
                    ["distance of CPS4 to it", "−35.0", "−35.0"],
                ],
            ),
        ]
        assert best(table) == [("CPS4 (ours)", "mDice"), ("CPS4 (ours)", "mIoU")]
        assert "Against CPS4, corrected for the number of rows" in table.caption

    def test_the_best_is_bold_below_the_distance_to_the_upper_bound(self, tmp_path):
        runs = {("cps4", 1): 0.5, ("full", 9): 0.8, ("nnunet", 1): 0.6}
        lines = [HEAD, *(f"{m},{n},0,{dice},{dice - 0.1}" + 12 * "," for (m, n), dice in runs.items())]
        (tmp_path / "results.csv").write_text("\n".join(lines) + "\n")
        for (method, labelled), dice in runs.items():
            out = tmp_path / f"{method}_{labelled}_0" / "network_test"
            out.mkdir(parents=True)
            (out / "per_case.csv").write_text(f"{FIELDS}\na,2,L5,{dice},{dice - 0.1},,\n")
        table = score_table(read_benchmark(tmp_path), TEST)
        assert "distance of CPS4 to it" in [title for title, *_ in rows(table)]
        assert best(table) == [("nnU-Net v2, 2D", "mDice"), ("nnU-Net v2, 2D", "mIoU")]

    def test_of_many_methods(self, many):
        table = score_table(many, UNLABELLED)
        assert [title for title, _ in groups(table)] == ["Supervised", "Semi-supervised", "Text-guided", "CPS4"]
        assert len(rows(table)) == 15  # the upper bound has no unlabelled patients, ablations have their own table
        assert rows(table)[0][1].endswith(" **")
        assert all("*" not in row[2] for row in rows(table))

    def test_paper(self, many):
        table = score_table(many, TEST, paper=True)
        assert [span for span, _ in table.cells.columns].count("the paper's, on MRSpineSeg: mDice / mIoU") == 4
        printed = {row[0]: row[-4:] for row in rows(table)}
        assert printed["CPS4 as published"][0] == "80.44 / 70.63"
        assert printed["DuSSS"] == ["–", "–", "79.88 / 69.41", "80.55 / 71.03"]
        assert set(printed["CPS4 (ours)"]) == {"–"}
        assert "arXiv 2606.15802" in table.caption

    def test_one_seed_and_nothing_decoded(self, few):
        table = score_table(few, TEST)
        assert "±" not in rows(table)[0][1]
        assert "n = 1 seed, 5 patients" in table.cells.columns[0][0]
        assert score_table(few, Readout("test", "decoded")) is None

    def test_without_cps4(self, alone):
        table = score_table(alone, TEST)
        assert "Against CPS4" not in table.caption
        assert len(rows(table)) == 2

    def test_means_alone(self, tmp_path):
        (tmp_path / "results.csv").write_text(f"{HEAD}\ncps4,1,0,0.5,0.4{12 * ','}\n")
        table = score_table(read_benchmark(tmp_path), TEST)
        assert table.cells.columns[0][0] == "1 labelled (n = 1 seed)"
        assert rows(table) == [["CPS4 (ours)", "50.00", "40.00"]]


def number(cell):
    return float(cell.split()[0])


class TestOverviewTable:
    def test_value(self, hand):
        table = overview_table(hand)
        assert list(table.cells.columns) == [("1 labelled (n = 2 seeds)", "test")]
        assert rows(table) == [
            ["BCP", "35.0 ± 7.1"],
            ["CPS4 (ours)", "55.0 ± 14.1"],
            ["fully supervised, all patients", "80.0 (n=1)"],  # the distance to it stands in the whole tables
        ]
        assert best(table) == [("CPS4 (ours)", "test")]

    def test_holds_what_the_whole_tables_hold(self, many):
        overview = overview_table(many)
        shown = [r for r in READOUTS if many.has(r)]
        assert overview.cells.shape[1] == len(many.labelled) * len(shown)
        for place, readout in enumerate(shown, 1):
            whole = {row[0]: row for row in rows(score_table(many, readout))}
            for row in rows(overview):
                means = [row[place], row[place + len(shown)]]
                measured = whole[row[0]][1::2] if row[0] in whole else ["–"] * len(means)
                for mean, whole_mean in zip(means, measured, strict=True):
                    assert mean == whole_mean == "–" or abs(number(mean) - number(whole_mean)) <= 0.051

    def test_nothing_scored(self, tmp_path):
        (tmp_path / "results.csv").write_text(f"{HEAD}\ncps4,1,0{14 * ','}\n")
        assert overview_table(read_benchmark(tmp_path)) is None


class TestOutside:
    """nnU-Net's rows: with some labels they compete, with all labels they stand beside every number of patients."""

    @pytest.fixture
    def outside(self, tmp_path):
        runs = {("cps4", 1): 0.5, ("full", 9): 0.8, ("nnunet", 1): 0.6, ("nnunet_full", 9): 0.9}
        lines = [HEAD, *(f"{m},{n},0,{dice},{dice - 0.1}" + 12 * "," for (m, n), dice in runs.items())]
        (tmp_path / "results.csv").write_text("\n".join(lines) + "\n")
        folder = tmp_path / "nnunet_1_0"
        folder.mkdir()
        schedule = {
            "steps": 720, "steps_per_epoch": 20, "batch_size": 6, "patch_size": [96, 48], "training_s": 90,
            "features_per_stage": [32, 64], "mirrored": False,
        }  # fmt: skip
        (folder / "schedule.json").write_text(json.dumps(schedule))
        return read_benchmark(tmp_path)

    def test_scores(self, outside):
        assert outside.labelled == [1]
        table = score_table(outside, TEST)
        assert groups(table)[-1] == (
            "Outside",
            [["nnU-Net v2, 2D", "60.00", "50.00"], ["nnU-Net v2, 2D, all patients", "90.00", "80.00"]],
        )
        assert {row for row, _ in best(table)} == {"nnU-Net v2, 2D"}  # of the rows with one labelled patient

    def test_schedule(self, outside, hand):
        (row,) = rows(outside_table(outside))
        assert row == ["nnU-Net v2, 2D", "1", "0", "720", "6", "96x48", "32, 64", "no", "1.5"]
        assert outside_table(hand) is None


class TestAblationTables:
    def test_value(self, hand):
        table = steps_table(hand)
        assert [row[0] for row in rows(table)] == ["+ token loss", "all"]
        # the first seed: 0.4 - 0.5 and 0.4 - 0.4
        assert rows(table)[0] == ["+ token loss", "40.00 (n=1)", "−5.0"]
        assert rows(table)[1] == ["all", "55.00 ± 14.14", "–"]

    def test_of_many_methods(self, many):
        assert [row[0] for row in rows(steps_table(many))] == ["baseline", "+ token loss", "+ pixel loss", "all"]
        assert [row[0] for row in rows(other_ablations_table(many))] == ["CPS4 (ours)", "live maps"]

    def test_nothing_to_show(self, few, alone):
        for results in (few, alone):
            assert steps_table(results) is None
            assert other_ablations_table(results) is None
        assert ablation_table(few, {"cps4": "all"}, "a", "") is None


class TestComparisonTable:
    def test_value(self, hand):
        table = comparison_table(hand)
        assert list(table.cells.columns) == ["test patients"]
        bcp = compare(np.array([[0.5 - 0.2, 0.4 - 0.4], [0.5 - 0.3, 0.8 - 0.5]]))
        interval = "[" + ", ".join(f"{100 * end:+.1f}".replace("-", "−") for end in (bcp.low, bcp.high)) + "]"
        assert groups(table)[0] == (
            "1 labelled",
            [
                ["BCP", f"+20.0 {interval} (2 x 2, 2–0, {bcp.p:.3f})"],  # the only one of two seeds: nothing to correct
                ["token loss alone", "+5.0 (1 x 2, 1–0)"],
                ["fully supervised, all patients", "−35.0 (1 x 2, 0–2)"],
            ],
        )

    def test_of_many_methods(self, many):
        table = comparison_table(many)
        assert table.cells.shape[1] == len(READOUTS)
        assert [len(found) for _, found in groups(table)] == [18, 18]

    def test_without_cps4(self, alone):
        assert comparison_table(alone) is None


class TestAllColumnsTable:
    def test_value(self, tmp_path):
        runs = [
            "supervised,2,0,0.50,0.40,0.55,0.45,,,800,,320x256,cpu,2025-01-01",
            "supervised,2,1,0.60,0.50,0.65,0.55,,,800,,320x256,cpu,2025-01-01",
            "cps4,2,0,0.70,0.60,,,,,800,400,320x256,cpu,2025-01-01",
            "supervised,1,0,0.10,0.05,,,,,800,,320x256,cpu,2025-01-01",
            "supervised,1,0,0.30,0.20,,,,,800,,320x256,cpu,2025-01-02",
        ]
        (tmp_path / "results.csv").write_text("\n".join([HEAD, *(run + ",,," for run in runs)]) + "\n")
        table = all_columns_table(read_benchmark(tmp_path))
        assert list(table.cells.columns[:2]) == ["seeds (n)", "mDice %"]
        assert not any("unlabelled" in head or "map" in head for head in table.cells)  # empty columns
        (one, fewest), (two, more) = groups(table)
        assert (one, two) == ("1 labelled", "2 labelled")
        assert fewest[0][:3] == ["supervised", "1", "30.00"]  # the seed's last run, and no sd of one run
        assert more[0][:3] == ["supervised", "2", "55.00 ± 7.07"]
        assert more[1][:5] == ["cps4", "1", "70.00", "60.00", "–"]
        assert [row[-3:] for row in more] == [["800", "–", "320x256"], ["800", "400", "320x256"]]

    def test_other_steps_are_another_row(self, tmp_path):
        runs = [f"cps4,2,{seed},0.5,0.4,,,,,{steps},,320x256,cpu,d,0.25,," for seed, steps in ((0, 800), (1, 1600))]
        (tmp_path / "results.csv").write_text("\n".join([HEAD, *runs]) + "\n")
        table = all_columns_table(read_benchmark(tmp_path))
        assert len(table.cells) == 2
        assert "prompt-guided map %" in table.cells


@pytest.mark.parametrize(("p", "text"), [(0.0009, "***"), (0.001, "**"), (0.049, "*"), (0.05, "")])
def test_stars(p, text):
    assert stars(p) == text
