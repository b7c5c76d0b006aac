from __future__ import annotations

import pytest

from scripts.tools.results.document import Chapter, Picture, write_html, write_latex, write_markdown
from scripts.tools.results.layout import Table
from tests.tools.results.test_layout import check_latex
from tests.tools.results.test_page import PIXEL, read


@pytest.fixture
def chapters(tmp_path):
    (tmp_path / "a_b.png").write_bytes(PIXEL)
    table = Table("t", "what it holds", ["method", "x"], [("", [["a", "1.0"]])])
    return [Chapter("First", [table, Picture(tmp_path / "a_b.png", "what it shows"), "words"]), Chapter("Second", [])]


class TestWrite:
    def test_markdown(self, chapters, tmp_path):
        text = write_markdown(tmp_path / "p.md", "Title", ["a note"], chapters).read_text()
        assert text.startswith("# Title\n\na note\n\n## First\n\nwhat it holds\n\n| method |")
        assert "![a_b](a_b.png)\n\nwhat it shows\n\nwords\n" in text
        assert "Second" not in text

    def test_html(self, chapters, tmp_path):
        page = read(write_html(tmp_path / "p.html", "Title", ["a note", "more"], chapters))
        for words in ("Title", "a note", "more", "First", "what it holds", "what it shows", "words"):
            assert words in page.words
        assert "Second" not in page.words
        assert all(a["src"].startswith("data:") for tag, a in page.tags if tag == "img")

    def test_latex(self, chapters, tmp_path):
        text = write_latex(tmp_path / "t.tex", chapters).read_text()
        check_latex(text)
        assert r"\usepackage{booktabs}" in text
        assert text.count(r"\begin{table}") == 1
