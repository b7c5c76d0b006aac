"""docs/tutorial.ipynb from top to bottom in a fresh folder, as `make notebook` runs it: minutes on a core."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs/tutorial.ipynb"

pytestmark = pytest.mark.slow


def run_notebook(out: Path, work: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "scripts", "tutorial", "--out", str(out), *more],
        cwd=ROOT,
        env={**os.environ, "CPS4_TUTORIAL": str(work)},
        capture_output=True,
        text=True,
        check=False,
    )


def small_notebook(path: Path, *sources: str) -> Path:
    cells = [
        {"cell_type": "code", "id": f"c{n}", "execution_count": None, "metadata": {}, "outputs": [], "source": source}
        for n, source in enumerate(sources)
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The notebook after a run: its `cells` with code, its working folder `work`."""
    folder = tmp_path_factory.mktemp("tutorial")
    before = NOTEBOOK.read_bytes()
    ran = run_notebook(folder / "run.ipynb", folder / "work")
    assert ran.returncode == 0, ran.stderr
    assert NOTEBOOK.read_bytes() == before
    cells = json.loads((folder / "run.ipynb").read_text(encoding="utf-8"))["cells"]
    return SimpleNamespace(cells=[c for c in cells if c["cell_type"] == "code"], work=folder / "work")


def said(cell: dict[str, Any]) -> str:
    return "".join("".join(o.get("text", o.get("data", {}).get("text/plain", ""))) for o in cell["outputs"])


class TestNotebook:
    def test_no_cell_fails(self, done: SimpleNamespace) -> None:
        assert [cell["execution_count"] for cell in done.cells] == list(range(1, len(done.cells) + 1))
        assert [o for cell in done.cells for o in cell["outputs"] if o["output_type"] == "error"] == []

    def test_same_outputs_as_the_kept_one(self, done: SimpleNamespace) -> None:
        # in kind: numbers differ from machine to machine, and what is printed comes in other pieces
        kept = [c for c in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
        for cell, other in zip(done.cells, kept, strict=True):
            assert cell["source"] == other["source"]
            made, expected = ([sorted(o["data"]) for o in c["outputs"] if "data" in o] for c in (cell, other))
            assert made == expected

    def test_no_trace_of_the_folder(self, done: SimpleNamespace) -> None:
        assert str(done.work) not in json.dumps(done.cells)
        assert str(ROOT) not in json.dumps(done.cells)

    def test_check_names_the_faults(self, done: SimpleNamespace) -> None:
        good, bad = (said(cell) for cell in done.cells if "scripts check" in "".join(cell["source"]))
        assert "no errors" in good
        assert "has the same voxels as" in bad
        assert re.search(r"bad\.json: [1-9]\d* errors", bad)

    def test_last_table(self, done: SimpleNamespace) -> None:
        table = next(said(c) for c in done.cells if '"mDice % raw"' in "".join(c["source"])).splitlines()
        rows = {line.split()[0]: [float(word) for word in line.split()[1:]] for line in table[2:4]}
        assert list(rows) == ["supervised", "CPS4"]
        for method, folder in (("supervised", "supervised_test"), ("CPS4", "cps4_test")):
            scores = json.loads((done.work / folder / "summary.json").read_text(encoding="utf-8"))
            means = [100 * s[m] for m in ("mdice", "miou") for s in (scores, scores["decoded"])]
            assert rows[method][:4] == pytest.approx(means, abs=0.006)
            assert rows[method][4:] == [scores["wrong_level"], scores["decoded"]["wrong_level"]]
            assert scores["n_cases"] == 6

    def test_both_networks_learned(self, done: SimpleNamespace) -> None:
        for folder in ("supervised_test", "cps4_test"):
            scores = json.loads((done.work / folder / "summary.json").read_text(encoding="utf-8"))
            assert scores["level_agnostic_dice"]["vertebra"] > 0.3


class TestCommand:
    def test_a_cell_that_fails(self, tmp_path: Path) -> None:
        notebook = small_notebook(tmp_path / "small.ipynb", "print(1)", "%%bash\necho before >&2\nfalse\n", "print(2)")
        before = notebook.read_bytes()
        ran = run_notebook(notebook, tmp_path / "work", "--notebook", str(notebook))
        assert ran.returncode == 1
        assert "Error: cell [2] of the notebook failed:\n%%bash\necho before >&2\nfalse\n" in ran.stderr
        assert "\nbefore\n" in ran.stderr
        assert notebook.read_bytes() == before
        assert list(tmp_path.glob(".part*")) == []

    def test_working_folder_is_named(self, tmp_path: Path) -> None:
        source = "import os\nprint(os.environ['CPS4_TUTORIAL'])"
        notebook = small_notebook(tmp_path / "small.ipynb", source)
        assert run_notebook(notebook, tmp_path / "work", "--notebook", str(notebook)).returncode == 0
        cell = json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]
        assert said(cell) == "$WORK\n"
        assert "execution" not in cell["metadata"]
