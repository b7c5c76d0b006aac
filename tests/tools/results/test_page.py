from __future__ import annotations

import base64
from html.parser import HTMLParser

import pytest

from scripts.tools.results.page import Section, code, demo_page, picture, table, write_page

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
VOID = {"meta", "img"}
SUMMARY = {
    "supervised": {"mdice": 0.4, "miou": 0.3},
    "mean_teacher": {"mdice": 0.6, "miou": 0.5, "n_cases": 3},
    "cps4": {"mdice": 0.5, "miou": 0.4},
    "settings": {"steps_of_training": 300},
    "seconds": {"phantom": 1.25, "training": 10},
}


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


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PIXEL)
    return path


def read(path) -> Outline:
    return Outline(path.read_text(encoding="utf-8"))


class TestWritePage:
    def test_text_is_escaped_everywhere(self, png, tmp_path):
        evil = '<script>alert("1")</script> & \'"'
        parts = [evil, table([evil, "n"], [[evil, evil]], caption=evil), picture(png, evil, evil), code(evil)]
        page = read(write_page(tmp_path / "p.html", [Section(evil, parts)], title=evil, lead=evil))
        assert "script" not in {tag for tag, _ in page.tags}
        assert page.words.count(evil) == 11
        assert [attributes["alt"] for tag, attributes in page.tags if tag == "img"] == [evil]

    def test_nothing_is_loaded(self, png, tmp_path):
        page = read(write_page(tmp_path / "p.html", [Section("a", [picture(png)])]))
        sources = [attributes.get("src") for _, attributes in page.tags if "src" in attributes]
        assert sources == ["data:image/png;base64," + base64.b64encode(PIXEL).decode()]
        assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe"}
        assert "url(" not in (tmp_path / "p.html").read_text(encoding="utf-8")

    def test_empty_sections_are_left_out(self, tmp_path):
        assert "Nothing here" not in read(write_page(tmp_path / "p.html", [Section("Nothing here", [])])).words


class TestTable:
    def test_numbers_are_set_right_and_the_best_row_shaded(self):
        page = Outline(table(["method", "x", "text"], [["a", "1.5", "b"], ["c", "–", "d"]], best=1))
        assert [a.get("class") for tag, a in page.tags if tag == "td"] == ["number", None] * 2
        assert [a.get("class") for tag, a in page.tags if tag == "tr"] == [None, None, "best"]


class TestDemoPage:
    def test_value(self, png, tmp_path):
        pictures = {"Curves": (png, "of all runs"), "Missing": (tmp_path / "no.png", "")}
        page = read(demo_page(tmp_path / "demo.html", SUMMARY, pictures, ["python -m scripts info"]))
        for words in ("CPS4", "60.00", "steps of training", "300", "Curves", "of all runs", "11.2", "scripts info"):
            assert words in page.words
        assert "Missing" not in page.words
        best = next(i for i, (tag, a) in enumerate(page.tags) if a.get("class") == "best")
        assert sum(tag == "tr" for tag, _ in page.tags[:best]) == 2  # after the head and "supervised"

    def test_of_a_run_that_stopped_early(self, tmp_path):
        page = read(demo_page(tmp_path / "demo.html", {}, {}, []))
        assert [tag for tag, _ in page.tags if tag in ("h1", "h2")] == ["h1"]
