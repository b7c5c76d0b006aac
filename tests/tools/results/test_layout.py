from __future__ import annotations

import re

import pytest

from scripts.tools.results.benchmark_folder import READOUTS
from scripts.tools.results.layout import Table, as_latex, as_markdown, escape_latex
from scripts.tools.results.method_tables import comparison_grid, other_ablations_table, score_table, steps_table
from scripts.tools.results.page import grid
from tests.tools.results.test_page import Outline

TABLE = Table(
    "t", "a_b, 5 %", ["method", "x", "y"], [("One", [["a", "1.0 *", "2.0"]]), ("Two", [["b", "3.0 ± 1.0", "–"]])],
    [("", 1), ("2 labelled", 2)], frozenset({(1, 1)}),
)  # fmt: skip


def check_latex(text: str) -> None:
    """Braces and environments close, every row has the columns of its table, nothing special is left bare."""
    bare = re.sub(r"\\[{}%&$#_]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert text.isascii()
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        assert kind == "begin" or stack.pop() == name
        stack += [name] if kind == "begin" else []
    assert stack == []
    assert re.findall(r"(?<!\\)[#_%]", re.sub(r"\\(label|cmidrule)[^\n]*|^%.*$", "", text, flags=re.M)) == []
    for body in re.findall(r"\\begin\{tabular\}(.*?)\\end\{tabular\}", text, flags=re.S):
        columns = len(re.match(r"\{(\w+)\}", body)[1])
        for line in body.splitlines():
            if line.endswith(r"\\"):
                spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
                cells = len(re.findall(r"(?<!\\)&", line)) + 1
                assert cells - len(spans) + sum(spans) == columns


class TestTable:
    def test_crooked_tables_are_refused(self):
        with pytest.raises(ValueError, match="2 heads, but"):
            Table("t", "", ["a", "b"], [("", [["1"]])])
        with pytest.raises(ValueError, match="2 heads, but"):
            Table("t", "", ["a", "b"], [("", [["1", "2"]])], [("x", 3)])


class TestAsMarkdown:
    def test_value(self):
        lines = [[c.strip() for c in line.strip("|").split("|")] for line in as_markdown(TABLE).splitlines()]
        assert lines[0] == ["a_b, 5 %"]
        assert lines[2] == ["method", "2 labelled: x", "2 labelled: y"]
        assert lines[4:] == [
            ["**One**", "", ""],
            ["a", "1.0 \\*", "2.0"],
            ["**Two**", "", ""],
            ["b", "**3.0 ± 1.0**", "–"],
        ]


class TestAsLatex:
    def test_value(self):
        text = as_latex(TABLE)
        check_latex(text)
        assert r"\begin{tabular}{lrr}" in text
        assert r"a & 1.0$^{*}$ & 2.0 \\" in text
        assert r"b & \textbf{3.0 $\pm$ 1.0} & -- \\" in text
        assert r"\multicolumn{1}{c}{} & \multicolumn{2}{c}{2 labelled} \\" in text
        assert r"\cmidrule(lr){2-3}" in text

    def test_of_a_whole_benchmark(self, many):
        tables = [*(score_table(many, r, paper=True) for r in READOUTS), comparison_grid(many), steps_table(many)]
        for table in [*tables, other_ablations_table(many)]:
            check_latex(as_latex(table))

    @pytest.mark.parametrize(
        ("text", "expected"),
        [("a_b & 5 %", r"a\_b \& 5 \%"), ("1 ± 2 **", r"1 $\pm$ 2$^{**}$"), ("p < 0.1", "p $<$ 0.1")],
    )
    def test_escapes(self, text, expected):
        assert escape_latex(text) == expected


class TestGrid:
    def test_value(self):
        page = Outline(grid(TABLE))
        heads = [a.get("colspan") for tag, a in page.tags if tag == "th" and "colspan" in a]
        assert heads == ["1", "2", "3", "3"]  # two spans, two titles of groups
        assert sum(tag == "tbody" for tag, _ in page.tags) == 2
        assert sum(tag == "strong" for tag, _ in page.tags) == 1
        assert "a_b, 5 %" in page.words
