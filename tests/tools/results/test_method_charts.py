from __future__ import annotations

from dataclasses import replace

import pytest

from scripts.labels import ClassTable
from scripts.report.figure_style import LARGEST
from scripts.tools.results import method_charts
from scripts.tools.results.method_charts import ablation_bars, class_chart, curve_over_labelled, spread

TABLE = ClassTable.load()


def check_png(path) -> None:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert 3_000 < len(data) <= LARGEST


class TestCharts:
    def test_of_many_methods(self, many, tmp_path):
        check_png(curve_over_labelled(many, tmp_path / "curve.png"))
        check_png(class_chart(many, 1, TABLE, tmp_path / "classes.png"))
        check_png(ablation_bars(many, tmp_path / "ablation.png"))

    def test_bars_of_fewer_seeds_say_so(self, many, tmp_path, monkeypatch):
        figures = []
        monkeypatch.setattr(method_charts, "save", lambda figure, path: figures.append(figure) or path)
        last = many.runs["seed"].max()
        fewer = replace(many, runs=many.runs[(many.runs["method"] != "token") | (many.runs["seed"] != last)])
        for benchmark in (many, fewer):
            ablation_bars(benchmark, tmp_path / "ablation.png")
        texts = [[text.get_text() for panel in figure.axes for text in panel.texts] for figure in figures]
        assert not any("n = " in text for text in texts[0])
        assert {text.split("\n")[0] for text in texts[1] if "n = " in text} == {f"n = {last}"}

    def test_of_few_methods(self, few, tmp_path):
        assert curve_over_labelled(few, tmp_path / "curve.png") is None  # one number of labelled patients
        assert ablation_bars(few, tmp_path / "ablation.png") is None
        check_png(class_chart(few, 1, TABLE, tmp_path / "classes.png"))

    def test_without_cps4(self, alone, tmp_path):
        check_png(class_chart(alone, 2, TABLE, tmp_path / "classes.png"))
        assert class_chart(alone, 7, TABLE, tmp_path / "classes.png") is None  # no such runs


class TestSpread:
    @pytest.mark.parametrize(
        ("places", "expected"),
        [
            ([1.0, 5.0], [1.0, 5.0]),
            ([1.0, 1.0], [0.5, 1.5]),
            ([3.0, 1.0, 3.0], [2.5, 1.0, 3.5]),
            ([0.0, 0.2, 0.4, 9.0], [-0.8, 0.2, 1.2, 9.0]),
            ([], []),
        ],
    )
    def test_value(self, places, expected):
        assert spread(places, 1.0) == pytest.approx(expected)
