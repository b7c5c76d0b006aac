from __future__ import annotations

import json

import pytest

from scripts.tools.results.benchmark_folder import READOUTS, TEST, UNLABELLED, Readout, read_results
from scripts.tools.results.method_tables import (
    ablation_table,
    comparison_grid,
    other_ablations_table,
    outside_table,
    overview_table,
    score_table,
    stars,
    steps_table,
)
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
    return read_results(tmp_path)


class TestScoreTable:
    def test_value(self, hand):
        table = score_table(hand, TEST)
        assert table.columns == ["method", "mDice", "mIoU"]
        assert table.spans == [("", 1), ("1 labelled (n = 2 seeds, 2 patients)", 2)]
        assert table.groups == [
            ("Semi-supervised", [["BCP", "35.00 ± 7.07", "25.00 ± 7.07"]]),
            ("CPS4", [["CPS4 (ours)", "55.00 ± 14.14", "45.00 ± 14.14"]]),
            (
                "Upper bound",
                [
                    ["fully supervised, all patients", "80.00 (n=1)", "70.00 (n=1)"],
                    # the first seed alone: 0.5 - 0.8 and 0.4 - 0.8
                    ["distance of CPS4 to it, over patients", "−35.00 ± 7.07", "−35.00 ± 7.07"],
                ],
            ),
        ]
        assert table.best == {(1, 1), (1, 2)}
        assert "With 2 patients p is at least 0.5" in table.caption

    def test_of_many_methods(self, many):
        table = score_table(many, UNLABELLED)
        assert [title for title, _ in table.groups] == ["Supervised", "Semi-supervised", "Text-guided", "CPS4"]
        assert len(table.rows) == 15  # the upper bound has no unlabelled patients, ablations have their own table
        assert table.rows[0][1].endswith(" ***")
        assert all("*" not in row[2] for row in table.rows)

    def test_paper(self, many):
        table = score_table(many, TEST, paper=True)
        assert table.spans[-1] == ("the paper's, on MRSpineSeg: mDice / mIoU", 4)
        printed = {row[0]: row[-4:] for row in table.rows}
        assert printed["CPS4 as published"][0] == "80.44 / 70.63"
        assert printed["DuSSS"] == ["–", "–", "79.88 / 69.41", "80.55 / 71.03"]
        assert set(printed["CPS4 (ours)"]) == {"–"}
        assert "arXiv 2606.15802" in table.caption

    def test_one_seed_and_nothing_decoded(self, few):
        table = score_table(few, TEST)
        assert "±" not in table.rows[0][1]
        assert "n = 1 seed, 5 patients" in table.spans[1][0]
        assert score_table(few, Readout("test", "decoded")) is None

    def test_without_cps4(self, alone):
        table = score_table(alone, TEST)
        assert "Paired" not in table.caption
        assert len(table.rows) == 2

    def test_means_alone(self, tmp_path):
        (tmp_path / "results.csv").write_text(f"{HEAD}\ncps4,1,0,0.5,0.4{12 * ','}\n")
        table = score_table(read_results(tmp_path), TEST)
        assert table.spans[1][0] == "1 labelled (n = 1 seed)"
        assert table.rows == [["CPS4 (ours)", "50.00", "40.00"]]


def number(cell):
    return float(cell.split()[0])


class TestOverviewTable:
    def test_value(self, hand):
        table = overview_table(hand)
        assert table.columns == ["method", "test"]
        assert table.spans == [("", 1), ("1 labelled (n = 2 seeds)", 1)]
        assert [row for _, rows in table.groups for row in rows] == [
            ["BCP", "35.0 ± 7.1"],
            ["CPS4 (ours)", "55.0 ± 14.1"],
            ["fully supervised, all patients", "80.0 (n=1)"],  # the distance to it stands in the whole tables
        ]
        assert table.best == {(1, 1)}

    def test_holds_what_the_whole_tables_hold(self, many):
        overview = overview_table(many)
        shown = [r for r in READOUTS if many.has(r)]
        assert len(overview.columns) == 1 + len(many.labelled) * len(shown)
        for place, readout in enumerate(shown, 1):
            whole = {row[0]: row for row in score_table(many, readout).rows}
            for row in overview.rows:
                means = [row[place], row[place + len(shown)]]
                measured = whole[row[0]][1::2] if row[0] in whole else ["–"] * len(means)
                for mean, whole_mean in zip(means, measured, strict=True):
                    assert mean == whole_mean == "–" or abs(number(mean) - number(whole_mean)) <= 0.051

    def test_nothing_scored(self, tmp_path):
        (tmp_path / "results.csv").write_text(f"{HEAD}\ncps4,1,0{14 * ','}\n")
        assert overview_table(read_results(tmp_path)) is None


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
        return read_results(tmp_path)

    def test_scores(self, outside):
        assert outside.labelled == [1]
        table = score_table(outside, TEST)
        assert table.groups[-1] == (
            "Outside",
            [["nnU-Net v2, 2D", "60.00", "50.00"], ["nnU-Net v2, 2D, all patients", "90.00", "80.00"]],
        )
        assert table.best == {(2, 1), (2, 2)}  # of the rows with one labelled patient

    def test_schedule(self, outside, hand):
        (row,) = outside_table(outside).rows
        assert row == ["nnU-Net v2, 2D", "1", "0", "720", "6", "96x48", "32, 64", "no", "1.5"]
        assert outside_table(hand) is None


class TestAblationTables:
    def test_value(self, hand):
        table = steps_table(hand)
        assert [row[0] for row in table.rows] == ["+ token loss", "all"]
        # the first seed: 0.4 - 0.5 and 0.4 - 0.4
        assert table.rows[0] == ["+ token loss", "40.00 (n=1)", "−5.00 ± 7.07"]
        assert table.rows[1] == ["all", "55.00 ± 14.14", "–"]

    def test_of_many_methods(self, many):
        assert [row[0] for row in steps_table(many).rows] == ["baseline", "+ token loss", "+ pixel loss", "all"]
        assert [row[0] for row in other_ablations_table(many).rows] == ["CPS4 (ours)", "live maps"]

    def test_nothing_to_show(self, few, alone):
        for results in (few, alone):
            assert steps_table(results) is None
            assert other_ablations_table(results) is None
        assert ablation_table(few, {"cps4": "all"}, "a", "") is None


class TestComparisonGrid:
    def test_value(self, hand):
        table = comparison_grid(hand)
        assert table.columns == ["CPS4 minus", "test patients (n = 2)"]
        # BCP: a 0.5 - 0.25, b 0.6 - 0.45
        assert table.groups[0] == (
            "1 labelled",
            [
                ["BCP", "+20.00 ± 7.07 (2–0, 0.500)"],
                ["token loss alone", "+5.00 ± 7.07 (1–0, 1.000)"],
                ["fully supervised, all patients", "−35.00 ± 7.07 (0–2, 0.500)"],
            ],
        )

    def test_of_many_methods(self, many):
        table = comparison_grid(many)
        assert len(table.columns) == 1 + len(READOUTS)
        assert [len(rows) for _, rows in table.groups] == [18, 18]

    def test_without_cps4(self, alone):
        assert comparison_grid(alone) is None


@pytest.mark.parametrize(("p", "text"), [(0.0009, "***"), (0.001, "**"), (0.049, "*"), (0.05, "")])
def test_stars(p, text):
    assert stars(p) == text
