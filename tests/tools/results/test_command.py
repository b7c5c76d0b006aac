from __future__ import annotations

import json

import pytest

from scripts.__main__ import main
from tests.tools.results.synthetic import MANY, write_benchmark
from tests.tools.results.test_document import check_latex, read

FEW = {m: MANY[m] for m in ("supervised", "mean_teacher", "token", "cps4")}


@pytest.fixture
def folder(tmp_path):
    return write_benchmark(tmp_path / "runs", FEW, full=22, n_unlabelled=4)


class TestReport:
    def test_everything_is_written(self, folder, tmp_path):
        to, readme = tmp_path / "to", tmp_path / "README.md"
        readme.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n", encoding="utf-8")
        options = ["--name", "space", "--title", "On phantoms", "--note", "Read this.", "--no-pictures", "--paper"]
        assert main(["report", str(folder), "--to", str(to), "--into", str(readme), *options]) == 0
        kinds = (".csv", "_per_case.csv.gz", ".md", ".html", ".tex", "_curve.png", "_classes.png", "_ablation.png")
        assert sorted(p.name for p in to.iterdir()) == sorted(f"space{kind}" for kind in kinds)
        assert (to / "space.csv").read_bytes() == (folder / "results.csv").read_bytes()
        text = (to / "space.md").read_text(encoding="utf-8")
        assert text.startswith("# On phantoms\n\nRead this.\n")
        for words in ("CPS4 (ours)", "fully supervised, all patients", "the paper's, on MRSpineSeg", "CPS4 minus"):
            assert words in text
        assert "–" in text
        check_latex((to / "space.tex").read_text(encoding="utf-8"))
        page = read(to / "space.html")
        assert "On phantoms" in page.words
        assert sum(tag == "img" for tag, _ in page.tags) == 3
        inside = readme.read_text(encoding="utf-8")
        assert inside.startswith("before\n<!-- results -->\nUnlabelled patients: ")
        assert inside.endswith("<!-- /results -->\nafter\n")
        assert "old" not in inside
        assert inside.count("\n| method") == 1
        assert "[space.md](to/space.md)" in inside

    def test_rows_and_pictures_of_an_earlier_report_stay(self, folder, tmp_path):
        docs, more = tmp_path / "docs", write_benchmark(tmp_path / "more", {"bcp": 0.3}, n_unlabelled=4)
        assert main(["report", str(folder), "--to", str(docs), "--name", "space", "--no-pictures"]) == 0
        page, strip = docs / "space.md", docs / "space_strip.png"
        strip.write_bytes((docs / "space_curve.png").read_bytes())
        page.write_text(page.read_text() + "\n![space_strip](space_strip.png)\n\nOne slice of spider_052.\n")
        options = ["--to", str(docs), "--name", "space", "--published", str(docs / "space")]
        assert main(["report", str(more), *options]) == 0
        text = page.read_text(encoding="utf-8")
        for words in ("BCP", "CPS4 (ours)", "fully supervised", "![space_strip](space_strip.png)\n\nOne slice of sp"):
            assert words in text
        assert main(["report", str(more), "--to", str(tmp_path / "new"), *options[2:]]) == 0
        assert (tmp_path / "new" / "space_strip.png").read_bytes() == strip.read_bytes()

    def test_pictures_that_cannot_be_drawn_are_named(self, folder, caplog):
        assert main(["report", str(folder)]) == 0
        assert "a picture is left out: there is no" in caplog.text
        assert (folder / "results.md").is_file()
        assert (folder / "results.csv").read_text().startswith("method,labelled,seed")

    def test_rows_that_were_not_run_are_no_settings(self, folder, tmp_path):
        settings = {"methods": ["cps4", "bcp"], "variant": [["token", "a=1"], ["masked_no_paste", "masked_images"]]}
        (folder / "settings.json").write_text(json.dumps(settings))
        assert main(["report", str(folder), "--no-pictures"]) == 0
        text = (folder / "results.md").read_text(encoding="utf-8")
        assert "['token', 'a=1']" in text
        assert "masked_no_paste" not in text
        assert "cps4, bcp" not in text

    def test_exception(self, folder, tmp_path, capsys):
        page = tmp_path / "page.md"
        page.write_text("no marks\n")
        assert main(["report", str(folder), "--no-pictures", "--into", str(page)]) == 1
        assert "page.md has no lines <!-- results -->" in capsys.readouterr().err
        assert page.read_text() == "no marks\n"
        assert main(["report", str(tmp_path)]) == 1
        assert "there is no" in capsys.readouterr().err
