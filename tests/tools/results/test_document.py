from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from scripts.tools.results.benchmark_folder import READOUTS
from scripts.tools.results.document import (
    Chapter,
    Commands,
    Picture,
    Table,
    escape_latex,
    latex,
    markdown,
    settings_table,
    write_html,
    write_latex,
    write_markdown,
)
from scripts.tools.results.method_tables import comparison_table, other_ablations_table, score_table, steps_table

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
VOID = {"meta", "img"}
INDEX = pd.MultiIndex.from_tuples([("One", "a"), ("Two", "b")], names=["group", "method"])
CELLS = pd.DataFrame(
    [["1.0 *", "2.0"], ["3.0 ± 1.0", "–"]], INDEX, pd.MultiIndex.from_tuples([("2 labelled", "x"), ("2 labelled", "y")])
)
TABLE = Table("t", "a_b, 5 %", CELLS, CELLS == "3.0 ± 1.0")
PLAIN = Table("t", "what it holds", pd.DataFrame({"x": {"a": "1.0"}}).rename_axis("method"))


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


class Outline(HTMLParser):
    """Checks that tags close in order, and collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def read(path) -> Outline:
    return Outline(path.read_text(encoding="utf-8"))


@pytest.fixture
def chapters(tmp_path):
    (tmp_path / "a_b.png").write_bytes(PIXEL)
    parts = [PLAIN, Picture(tmp_path / "a_b.png", "what it shows"), "words", Commands("# go on\npython -m x")]
    return [Chapter("First", parts), Chapter("Second", [])]


class TestMarkdown:
    def test_table(self):
        lines = [[c.strip() for c in line.strip("|").split("|")] for line in markdown(TABLE).splitlines()]
        assert lines[0] == ["a_b, 5 %"]
        assert lines[2] == ["method", "2 labelled: x", "2 labelled: y"]
        assert lines[4:] == [
            ["**One**", "", ""],
            ["a", "1.0 \\*", "2.0"],
            ["**Two**", "", ""],
            ["b", "**3.0 ± 1.0**", "–"],
        ]

    def test_page(self, chapters, tmp_path):
        text = write_markdown(tmp_path / "p.md", "Title", ["a note"], chapters).read_text()
        assert text.startswith("# Title\n\na note\n\n## First\n\nwhat it holds\n\n| method")
        assert "![a_b](a_b.png)\n\nwhat it shows\n\nwords\n" in text
        assert "Second" not in text


class TestLatex:
    def test_table(self):
        text = latex(TABLE)
        check_latex(text)
        assert r"\begin{tabular}{lrr}" in text
        assert r"a & 1.0$^{*}$ & 2.0 \\" in text
        assert r"b & \textbf{3.0 $\pm$ 1.0} & -- \\" in text
        assert r"method & \multicolumn{2}{c}{2 labelled} \\" in text
        assert r"\caption{a\_b, 5 \%}" in text

    def test_of_a_whole_benchmark(self, many):
        tables = [*(score_table(many, r, paper=True) for r in READOUTS), comparison_table(many), steps_table(many)]
        for table in [*tables, other_ablations_table(many)]:
            check_latex(latex(table))

    def test_file(self, chapters, tmp_path):
        text = write_latex(tmp_path / "t.tex", chapters).read_text()
        check_latex(text)
        assert r"\usepackage{booktabs}" in text
        assert text.count(r"\begin{table}") == 1

    @pytest.mark.parametrize(
        ("text", "expected"),
        [("a_b & 5 %", r"a\_b \& 5 \%"), ("1 ± 2 **", r"1 $\pm$ 2$^{**}$"), ("p < 0.1", "p $<$ 0.1")],
    )
    def test_escapes(self, text, expected):
        assert escape_latex(text) == expected


class TestHtml:
    def test_page(self, chapters, tmp_path):
        page = read(write_html(tmp_path / "p.html", "Title", ["a note", "more"], chapters))
        for words in ("Title", "a note", "more", "First", "what it holds", "what it shows", "words", "# go on\npython"):
            assert words in page.words
        assert "Second" not in page.words
        assert [a["src"] for tag, a in page.tags if tag == "img"] == [
            "data:image/png;base64," + base64.b64encode(PIXEL).decode()
        ]
        assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe"}
        assert "url(" not in (tmp_path / "p.html").read_text(encoding="utf-8")

    def test_table(self, tmp_path):
        page = read(write_html(tmp_path / "p.html", "Title", [], [Chapter("First", [TABLE])]))
        assert [a["colspan"] for tag, a in page.tags if "colspan" in a] == ["2"]
        assert sum(tag == "strong" for tag, _ in page.tags) == 3  # two titles of groups, the best cell
        assert [a["class"] for tag, a in page.tags if tag == "table"] == ["dataframe numbers"]
        assert "a_b, 5 %" in page.words

    def test_words_are_not_set_like_numbers(self, tmp_path):
        table = settings_table({"a_key": 100 * "word", "a_list": [1, 2]})
        page = read(write_html(tmp_path / "p.html", "Title", [], [Chapter("First", [table])]))
        assert [a["class"] for tag, a in page.tags if tag == "table"] == ["dataframe words"]
        assert "a key" in page.words
        assert 100 * "word" in page.words  # nothing is cut off
        assert "1, 2" in page.words

    def test_text_is_escaped_everywhere(self, tmp_path):
        evil = '<script>alert("1")</script> & \'"'
        (tmp_path / "a.png").write_bytes(PIXEL)
        cells = pd.DataFrame({(evil, evil): {(evil, evil): evil}}).rename_axis([evil, "method"])
        parts = [evil, Table("t", evil, cells, cells == evil), Picture(tmp_path / "a.png", evil), Commands(evil)]
        page = read(write_html(tmp_path / "p.html", evil, [evil], [Chapter(evil, parts)]))
        assert "script" not in {tag for tag, _ in page.tags}
        assert page.words.count(evil) == 13
        assert [attributes["alt"] for tag, attributes in page.tags if tag == "img"] == [evil]
