from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from scripts.__main__ import main
from scripts.tools.reliability import versions as module

TESTS = """import pytest
def test_passes(): pass
@pytest.mark.parametrize("n", [1, 2])
def test_fails(n): assert False
@pytest.fixture
def broken(): raise OSError
def test_error(broken): pass
@pytest.mark.skip
def test_skipped(): pass
"""


@pytest.fixture
def environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One environment is this one, the others are missing."""
    gone = {name: tmp_path / "gone" for name in ("oldest", "newest-3.99")}
    monkeypatch.setattr(module, "ENVIRONMENTS", {"pinned": Path(sys.prefix), **gone})


@pytest.mark.usefixtures("environments")
class TestVersions:
    def test_counts_are_added_to_the_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "test_some.py").write_text(TESTS)
        out = tmp_path / "figures.json"
        out.write_text(json.dumps({"kills": 3, "versions": [{"environment": "oldest", "passed": 7}]}))
        line = ["benchmark", "versions", "--out", str(out), "--environments", "pinned", "newest-3.99", "--tests"]
        assert main([*line, str(tmp_path / "test_some.py")]) == 1
        made = json.loads(out.read_text())
        assert made["kills"] == 3
        oldest, pinned = made["versions"]  # that of a Python which is not there has no row
        assert oldest == {"environment": "oldest", "passed": 7}
        assert (pinned["passed"], pinned["failed"], pinned["skipped"]) == (1, 3, 1)
        assert set(pinned["versions"]) >= {"python", "torch", "monai", "numpy"}
        assert f"newest-3.99: passed over, there is no {tmp_path / 'gone'}" in capsys.readouterr().out

    def test_a_missing_environment_ends_it_before_any_test(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["benchmark", "versions", "--out", str(tmp_path / "figures.json")]) == 1
        assert "`make versions` makes it" in capsys.readouterr().err
        assert not (tmp_path / "figures.json").exists()
