"""`benchmark mutants`: the changes it makes, and what it takes for noticed."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.tools.reliability import mutants
from scripts.tools.reliability.mutants import Mutant, changes, make_mutant, passes, summary

SOURCE = '''"""Module."""
LIMIT: int = 3

def share(part, whole=1.5, *, clip=True):
    """Docstring 1."""
    if part is None or not whole > 0:
        raise ValueError("not 3")
    logger.info("part %d", 7)
    return max(part / whole, 0, key=abs)
'''
TEST = "from scripts.some import half\n\ndef test_half():\n    assert half(4) == 2\n"


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle of one module with one test."""
    monkeypatch.setattr(mutants, "BUNDLE_ROOT", tmp_path)
    for name in ("scripts", "tests"):
        (tmp_path / name).mkdir()
    (tmp_path / "scripts" / "some.py").write_text("def half(x, y=0):\n    return x / 2 + y\n", encoding="utf-8")
    (tmp_path / "tests" / "test_some.py").write_text(TEST, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\npythonpath = ['.']\n", encoding="utf-8")
    return tmp_path


class TestChanges:
    def test_all(self) -> None:
        made = []
        for number in range(sum(1 for _ in changes(ast.parse(SOURCE)))):
            tree = ast.parse(SOURCE)
            shown, node, field, value = list(changes(tree))[number]
            before = ast.unparse(shown)
            setattr(node, field, value)
            made.append(f"{before} -> {ast.unparse(shown)}")
        assert len(made) == len(set(made))
        assert {
            "LIMIT: int = 3 -> LIMIT: int = 4",
            "LIMIT: int = 3 -> LIMIT: int = -3",
            "part, whole=1.5, *, clip=True -> part, whole=1.5, *, clip=False",
            "part is None or not whole > 0 -> part is None and (not whole > 0)",
            "part is None -> part is not None",
            "not whole > 0 -> not not whole > 0",
            "whole > 0 -> whole >= 0",
            "whole > 0 -> whole <= 0",
            "part / whole -> part * whole",
            "max(part / whole, 0, key=abs) -> min(part / whole, 0, key=abs)",
            "max(part / whole, 0, key=abs) -> max(part / whole, 0)",
            "return max(part / whole, 0, key=abs) -> return max(0, part / whole, key=abs)",
        } <= set(made)
        assert not any("ValueError" in change or "logger" in change for change in made)

    def test_of_a_file(self, bundle: Path) -> None:
        made = [make_mutant("scripts/some.py", number) for number in range(mutants.count_changes("scripts/some.py"))]
        assert [(m.line, m.change) for m in made] == [
            (1, "x, y=0 -> x, y=1"),
            (2, "x / 2 + y -> x / 2 - y"),
            (2, "x / 2 -> x * 2"),
            (2, "x / 2 -> x / 3"),
            (2, "x / 2 -> x / -2"),
        ]


class TestPasses:
    def test_the_mutant_is_what_the_tests_see(self, bundle: Path) -> None:
        """In a process of its own, since the forked one forgets the modules of this repository."""
        line = (
            "import sys; from pathlib import Path; from scripts.tools.reliability import mutants as m\n"
            "m.BUNDLE_ROOT = Path(sys.argv[1]); file = 'scripts/some.py'\n"
            "codes = [m.make_mutant(file, number).code for number in range(5)]\n"
            "print([m.passes(file, code, 60) for code in (None, *codes)], m.passes(file, None, 0.0))\n"
        )
        root = Path(__file__).resolve().parents[3]
        done = subprocess.run(
            [sys.executable, "-c", line, str(bundle)], cwd=root, capture_output=True, text=True, check=True
        )
        # unchanged, y=1, minus y (which is 0), times, by 3, by -2; and without any time
        assert done.stdout.split("\n")[0] == "[True, False, True, False, False, False] False"

    def test_no_tests(self, bundle: Path) -> None:
        (bundle / "tests" / "test_some.py").write_text("", encoding="utf-8")
        with pytest.raises(RuntimeError, match=r"scripts/some.py has no tests: \['tests/test_some.py'\]"):
            passes("scripts/some.py", None, 60)


class TestSummary:
    def test_survivors_that_were_judged(self) -> None:
        code = compile("0", "a.py", "eval")
        survivors = [
            Mutant("a.py", line, change, code) for line, change in ((1, "a -> b"), (2, "c -> d"), (3, "e -> f"))
        ]
        judged = {"equivalent": {"a.py: a -> b": "same"}, "accepted": {"a.py: c -> d": "a message's digit"}}
        found = summary(10, survivors, judged)
        assert [found[k] for k in ("mutants", "mutants_killed", "mutants_equivalent")] == [10, 7, 1]
        rows = [(row["line"], row["kind"], row["reason"]) for row in found["mutant_survivors"]]
        assert rows == [(1, "equivalent", "same"), (2, "accepted", "a message's digit"), (3, "not judged", "")]


class TestSources:
    def test_every_module_has_tests(self) -> None:
        files = [file for file in mutants.source_files() if not file.endswith("__init__.py")]
        assert len(files) > 20
        assert [file for file in files if not mutants.tests_of(file)] == []

    def test_judged_mutants_have_a_reason(self) -> None:
        judged = json.loads((mutants.BUNDLE_ROOT / mutants.JUDGED).read_text(encoding="utf-8"))
        assert set(judged) == {"equivalent", "accepted"}
        files = set(mutants.source_files())
        for reasons in judged.values():
            assert all(name.split(":")[0] in files and " -> " in name and reason for name, reason in reasons.items())
