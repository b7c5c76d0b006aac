from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.bundle import call_stack
from scripts.bundle.call_stack import arguments_of, running


def outer(first: int, second: str = "b", **pairs: Any) -> Any:
    unrelated = first  # noqa: F841 - no argument
    return inner()


def inner() -> Any:
    return arguments_of(outer)


class Holder:
    def hold(self) -> Any:
        return running(Holder)


def test_arguments() -> None:
    assert outer(1, third=3) == {"first": 1, "second": "b", "pairs": {"third": 3}}
    assert arguments_of(outer) is None


def test_of_the_latest_call() -> None:
    assert arguments_of(test_of_the_latest_call) == {}
    nested = lambda: outer(2)  # noqa: E731
    assert nested()["first"] == 2


def test_a_wrapped_function_is_found() -> None:
    found: list[Any] = []

    def call(number: int) -> None:
        found.append(arguments_of(wrapped))

    wrapped = functools.wraps(call)(lambda number: call(number))
    wrapped(4)
    assert found == [{"number": 4}]


def test_object() -> None:
    holder = Holder()
    assert holder.hold() is holder
    assert running(Holder) is None


PROGRAM = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("call_stack", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
class Workflow:
    def run(self):
        return module.arguments_of(run), module.running(Workflow) is self
def run(config_file=None, args_file=None, **override):
    return Workflow().run()
assert run("train.yaml", max_epochs=3) == (
    {"config_file": "train.yaml", "args_file": None, "override": {"max_epochs": 3}}, True)
print(*sys.version_info[:2])
"""


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_pythons(version: str, tmp_path: Path) -> None:
    """The variables of a frame became a view in 3.13; the module itself needs no package."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}" == version
    python = sys.executable if here else shutil.which(f"python{version}")
    line = [python or "", "-c", PROGRAM, str(call_stack.__file__)]
    done = subprocess.run(line, capture_output=True, text=True, check=False) if python else None
    if done is None or (done.returncode == 127 and not here):  # a shim without its interpreter
        pytest.skip(f"there is no Python {version} here")
    assert done.stdout.split() == version.split("."), done.stderr
