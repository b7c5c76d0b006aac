"""What the Model Zoo's folder holds, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.tools.needed_files import OTHER_ROOMS, ZOO_CONFIGS, ZOO_PAGE, needed_files, say_where

ROOT = Path(__file__).resolve().parents[2]
FILES = {"docs/README.md", "docs/data.md", "docs/curve.png", "configs/train.yaml", "scripts/info.py"}


@pytest.fixture(scope="module")
def needed() -> set[str]:
    return needed_files()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A bundle of a few files, beside which lies what nothing leads to."""
    for name in needed_files():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("", encoding="utf-8")
    modules = ("tools/__init__.py", "tools/x.py", "ops/a.py", "ops/b.py")
    for name in (
        *(f"scripts/{module}" for module in modules),
        "configs/methods/x.yaml",
        "docs/x.png",
        "scripts/x.html",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("", encoding="utf-8")
    return tmp_path


class TestNeededFiles:
    def test_all_exist(self, needed: set[str]) -> None:
        assert [name for name in needed if not (ROOT / name).is_file()] == []

    def test_other_rooms_stay_out(self, needed: set[str]) -> None:
        rooms = {name.split("/")[1] for name in needed if name.startswith("scripts/") and name.count("/") > 1}
        assert rooms & set(OTHER_ROOMS) == set()
        assert {"bundle", "data", "inference", "networks", "training"} <= rooms

    def test_the_zoo_needs_less(self, needed: set[str]) -> None:
        in_the_zoo = needed_files(page=ZOO_PAGE, configs=ZOO_CONFIGS) - {ZOO_PAGE}
        assert in_the_zoo < needed
        assert {"configs/pretrain.yaml", "configs/methods/supervised.yaml"} <= in_the_zoo
        assert "configs/inference_onnx.yaml" not in in_the_zoo

    def test_pages_stay_out(self, needed: set[str]) -> None:
        pages = {name for name in needed if name.startswith("docs/") and not name.endswith((".png", ".svg"))}
        assert pages == {"docs/README.md", "docs/data_license.txt"}

    @pytest.mark.parametrize(
        ("file", "text", "new"),
        [
            ("docs/README.md", "add configs/methods/x.yaml", {"configs/methods/x.yaml"}),
            ("configs/train.yaml", "# see methods/x.yaml", {"configs/methods/x.yaml"}),
            ("docs/README.md", "![loss](x.png)", {"docs/x.png"}),
            ("configs/train.yaml", "a:\n  _target_: scripts.ops.a.Thing", {"scripts/ops/a.py"}),
            ("scripts/info.py", "def run():\n    from .ops.a import x", {"scripts/ops/a.py"}),
            ("scripts/info.py", "from .ops import a", {"scripts/ops/a.py"}),
            ("scripts/data/check/command.py", "from ...tools import x", {"scripts/tools/x.py"}),
            ("scripts/info.py", "page = 'x.html'", {"scripts/x.html"}),
            ("scripts/info.py", "words = 'see configs/methods/x.yaml'", set()),
            ("docs/README.md", "models/x.json, /etc/x.conf, D.json, x.md", set()),
        ],
        ids=[
            "named",
            "from_configs",
            "picture",
            "target",
            "in_a_function",
            "module",
            "up",
            "template",
            "words",
            "nothing",
        ],
    )
    def test_what_leads_where(self, tree: Path, file: str, text: str, new: set[str]) -> None:
        before = needed_files(tree)
        (tree / file).write_text(text, encoding="utf-8")
        packages = {name for name in needed_files(tree) - before if name.endswith("__init__.py")}
        assert needed_files(tree) - before - packages == new

    def test_chain(self, tree: Path) -> None:
        (tree / "docs/README.md").write_text("configs/methods/x.yaml", encoding="utf-8")
        (tree / "configs/methods/x.yaml").write_text("_target_: scripts.ops.a.A", encoding="utf-8")
        (tree / "scripts/ops/a.py").write_text("from .b import B", encoding="utf-8")
        assert "scripts/ops/b.py" in needed_files(tree)


class TestSayWhere:
    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("see [method.md](method.md#levels).", "see docs/method.md of the project."),
            ("[the method](method.md)", "the method (docs/method.md of the project)"),
            ("[changes](../CHANGELOG.md)", "changes (CHANGELOG.md of the project)"),
            ("[data.md](data.md), [x](https://host/y.md)", "[data.md](data.md), [x](https://host/y.md)"),
            ("see docs/method.md.", "see docs/method.md of the project."),
            ("`configs/smoke.yaml` is", "`configs/smoke.yaml` of the project is"),
            ("configs/train.yaml, configs/nothing.yaml", "configs/train.yaml, configs/nothing.yaml"),
            ("`python -m scripts benchmark speed` times", "`python -m scripts benchmark speed` of the project times"),
            ("(python -m scripts phantom) draws", "(python -m scripts phantom of the project) draws"),
            ("`python -m scripts info` and info", "`python -m scripts info` and info"),
            ("`make demo` runs; they make it", "`make demo` of the project runs; they make it"),
            ("```\npython -m scripts info\n```", "```\npython -m scripts info\n```"),
            ("```\nmake demo\n```", "```\n# in the repository of the project\nmake demo\n```"),
            (
                "```\npython -m scripts report DIR --to docs/results\n```",
                "```\n# in the repository of the project\npython -m scripts report DIR --to docs/results\n```",
            ),
        ],
    )
    def test_page(self, before: str, after: str) -> None:
        assert say_where(before, "docs/README.md", FILES) == after

    def test_config(self) -> None:
        text = "# Time: `python -m scripts benchmark speed`; scores in docs/results.\na: [b](method.md)"
        said = "# Time: `python -m scripts benchmark speed` of the project; scores in docs/results of the project.\n"
        assert say_where(text, "configs/train.yaml", FILES) == said + "a: [b](method.md)"
