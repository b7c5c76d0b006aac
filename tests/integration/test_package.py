"""The installed package: what a wheel holds, what it asks for, and its command in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from cps4.__main__ import BUNDLE_ROOT, COMMANDS
from scripts.__main__ import COMMANDS as ALL
from scripts.tools.needed_files import needed_files

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ONLY_WITH_OLD = {"pyparsing"}
"""Pinned for the sake of another old version."""


def pins(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w-]+)==([\w.]+)", text, flags=re.MULTILINE))


def ranges(listed: list[str]) -> dict[str, str]:
    found = [re.fullmatch(r"([\w-]+)>=([\w.]+)", one) for one in listed]
    assert all(found)
    return dict(one.groups() for one in found if one)


class TestDependencies:
    def test_from_the_oldest_on(self) -> None:
        oldest = {
            name: version for name, version in pins("requirements-oldest.txt").items() if name not in ONLY_WITH_OLD
        }
        assert ranges(PROJECT["project"]["dependencies"]) == oldest
        assert set(oldest) == set(pins("requirements.txt"))

    @pytest.mark.parametrize("extra", ["dicom", "onnx", "mlflow"])
    def test_extras(self, extra: str) -> None:
        assert ranges(PROJECT["project"]["optional-dependencies"][extra]) == pins(f"requirements-{extra}.txt")


class TestCommand:
    def test_here(self) -> None:
        assert BUNDLE_ROOT == ROOT
        assert set(COMMANDS) <= set(ALL)

    @pytest.mark.parametrize("command", ["check", "train"])
    def test_messages_name_commands_as_they_are_called(self, command: str, tmp_path: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        for module, called in (("cps4", "cps4"), ("scripts", "python -m scripts")):
            line = [sys.executable, "-m", module, command, "none.json"]
            done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 1
            assert f"write one with `{called} prepare FOLDER" in " ".join((done.stdout + done.stderr).split())


@pytest.mark.slow
@pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling is not installed: requirements-dev.txt")
def test_wheel(tmp_path: Path) -> None:
    """The wheel holds one package, in it all that a run needs and nothing that was made here; it runs anywhere."""
    line = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "wheel")]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (tmp_path / "wheel").iterdir()
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        packed.extractall(tmp_path / "site")
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"cps4"}
    inside = {name.removeprefix("cps4/bundle/") for name in names if name.startswith("cps4/bundle/")}
    needed = {name for name in needed_files() if name.startswith(("configs/", "scripts/"))}
    assert needed | {"LICENSE", "metadata.json", "docs/data_license.txt"} <= inside
    shipped = {f"models/model.{ending}" for ending in ("pt", "json", "xml", "bin")}  # the last two for `label --fast`
    assert {name for name in inside if name.startswith("models/")} <= shipped
    assert [name for name in inside if "__pycache__" in name] == []
    (tmp_path / "empty").mkdir()
    line = [sys.executable, "-m", "cps4", "info"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(line, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True, check=True)
    assert "L4/L5" in done.stdout
    assert list((tmp_path / "empty").iterdir()) == []
