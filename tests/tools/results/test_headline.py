from __future__ import annotations

import pytest

from scripts.tools.results.benchmark_folder import Readout, read_benchmark
from scripts.tools.results.headline import best_rival, headline_table, rivals_table
from tests.tools.results.synthetic import HEAD, MANY, write_benchmark


def write_runs(folder, runs):
    """results.csv of (row, labelled patients, seed) -> score on validation; that of test patients is another one."""
    lines = [f"{m},{n},{seed},0.{9 - place},0.4{12 * ','}{v}" for place, ((m, n, seed), v) in enumerate(runs.items())]
    (folder / "results.csv").write_text("\n".join([HEAD, *lines]) + "\n")
    return read_benchmark(folder)


class TestBestRival:
    def test_by_validation_alone(self, tmp_path):
        """BCP is best on the test patients; ours and Mean Teacher are no candidates, one seed is not enough."""
        runs = {("bcp", 1, s): 0.3 + 0.1 * s for s in (0, 1)} | {("ucmt", 1, s): 0.6 - 0.1 * s for s in (0, 1)}
        runs |= {("cps4", 1, 0): 0.9, ("mean_teacher", 1, 0): 0.8, ("graphcl", 1, 0): 0.9}
        found = write_runs(tmp_path, runs)
        assert best_rival(found) == "ucmt"
        assert rivals_table(found).cells.to_numpy().tolist() == [["55.0", "55.0"], ["35.0", "35.0"]]

    def test_each_number_of_patients_counts_alike(self, tmp_path):
        runs = {("bcp", 1, 0): 0.5, ("bcp", 1, 1): 0.5, ("bcp", 2, 0): 0.5}
        runs |= {("ucmt", 1, 0): 0.2, ("ucmt", 1, 1): 0.2, ("ucmt", 2, 0): 0.9}
        assert best_rival(write_runs(tmp_path, runs)) == "ucmt"  # 0.55, over the runs alike 0.43

    def test_nobody(self, tmp_path):
        found = write_runs(tmp_path, {("cps4", 1, 0): 0.5, ("supervised", 1, 0): 0.4, ("bcp", 1, 0): ""})
        assert best_rival(found) is None
        assert rivals_table(found) is None


class TestHeadlineTable:
    def test_rows_and_columns(self, many):
        table = headline_table(many, more="[there](x.md)")
        assert list(table.cells.index) == [
            "Supervised only", "Mean Teacher (hard CE)", "EGMA (best other method)", "CPS4 as published",
            "CPS4 (ours)", "fully supervised, all patients (of test patients)",
        ]  # fmt: skip
        assert list(table.cells.columns) == [
            (f"{n} labelled (n = 3 seeds)", words) for n in (1, 2) for words in ("levels right", "mDice")
        ]
        assert "named by the geometry" in table.caption
        assert table.caption.endswith("[there](x.md).")

    def test_value(self, many):
        named = Readout("unlabelled", "named")
        levels = many.levels("cps4", 1, named)
        ours = headline_table(many).cells.loc["CPS4 (ours)"].tolist()
        assert ours[0] == f"{100 * sum(levels['right']) / len(levels):.0f}"
        assert float(ours[1].split()[0]) == pytest.approx(100 * levels["dice"].mean(), abs=0.06)

    def test_what_was_not_run_is_left_out(self, tmp_path):
        folder = write_benchmark(tmp_path, {m: MANY[m] for m in ("supervised", "cps4")}, (1,), (0,), decoded=False)
        table = headline_table(read_benchmark(folder))
        assert list(table.cells.index) == ["Supervised only", "CPS4 (ours)"]
        assert "with the names of the network" in table.caption

    def test_an_earlier_form_of_the_default(self, tmp_path):
        scores = {m: MANY["cps4"] for m in ("early_rounds", "cps4")}
        table = headline_table(read_benchmark(write_benchmark(tmp_path, scores, (1,), (0,), decoded=False)))
        assert list(table.cells.index) == ["CPS4 (ours)", "CPS4, first round at once"]

    def test_nothing_scored(self, tmp_path):
        assert headline_table(write_runs(tmp_path, {("cps4", 1, 0): 0.5})) is None
