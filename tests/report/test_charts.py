from __future__ import annotations

import json

import pytest

from scripts.labels import ClassTable
from scripts.report.charts import Curve, curves, per_class_bars, read_curves, running_mean

PNG = b"\x89PNG"
EXPECTED = {"loss": Curve("step", [1, 2], [0.5, 0.25]), "mean_dice": Curve("step", [2], [0.75])}


@pytest.fixture
def metrics(tmp_path):
    path = tmp_path / "metrics.csv"
    lines = [f"{s},{2.0 / (s + 1)},{0.5 if s % 10 == 0 else ''}" for s in range(100)]
    path.write_text("\n".join(["step,loss,mean_dice", *lines]), encoding="utf-8")
    return path


class TestReadCurves:
    @pytest.mark.parametrize(
        "text",
        [
            "step,loss,mean_dice\n1,0.5,\n2,0.25,0.75\n",
            "epoch,step,name,value\n1,1,loss,0.5\n2,2,loss,0.25\n2,2,mean_dice,0.75\n",
            '[{"step": 1, "loss": 0.5, "mean_dice": null}, {"step": 2, "loss": 0.25, "mean_dice": 0.75}]',
            '{"step": 1, "loss": 0.5, "note": "x"}\n{"step": 2, "loss": 0.25, "mean_dice": 0.75}\n',
        ],
    )
    def test_forms(self, tmp_path, text):
        path = tmp_path / "metrics"
        path.write_text(text, encoding="utf-8")
        assert read_curves(path) == EXPECTED

    def test_epochs_and_no_axis(self, tmp_path):
        path = tmp_path / "metrics"
        path.write_text("epoch,loss\n3,1\n", encoding="utf-8")
        assert read_curves(path)["loss"] == Curve("epoch", [3], [1])
        path.write_text("loss\n1\nnan\n4\n", encoding="utf-8")
        assert read_curves(path)["loss"] == Curve("", [0, 2], [1, 4])


class TestCurves:
    def test_one_run_and_several(self, metrics, tmp_path):
        assert curves(metrics, tmp_path / "one.png").read_bytes().startswith(PNG)
        assert curves({"a": metrics, "b": metrics}, tmp_path / "two.png").read_bytes().startswith(PNG)

    def test_losses_alone_make_one_panel(self, metrics, tmp_path):
        alone = tmp_path / "loss.json"
        alone.write_text(json.dumps([{"step": s, "loss": 0.0} for s in range(3)]), encoding="utf-8")
        widths = [curves(f, tmp_path / "a.png").read_bytes()[16:20] for f in (alone, metrics)]
        assert 2 * int.from_bytes(widths[0], "big") == int.from_bytes(widths[1], "big")

    def test_exception(self, tmp_path):
        (tmp_path / "empty.csv").write_text("step,loss\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"no curve in .*empty\.csv"):
            curves(tmp_path / "empty.csv", tmp_path / "a.png")


class TestRunningMean:
    def test_value(self):
        assert running_mean([1, 2, 3, 10], 1) == pytest.approx([1.5, 2, 5, 6.5])
        assert running_mean([1, 2, 3], 0) == pytest.approx([1, 2, 3])


class TestPerClassBars:
    def test_smoke(self, tmp_path):
        per_class = {"L5": {"dice": 0.5, "n": 2}, "L5/S": {"dice": None, "n": 1}, "T9": {"dice": None, "n": 0}}
        summary = {"mdice": 0.5, "n_cases": 2, "per_class": per_class}
        path = per_class_bars({"cps4": summary, "supervised": summary}, ClassTable.load(), tmp_path / "bars.png")
        assert path.read_bytes().startswith(PNG)
