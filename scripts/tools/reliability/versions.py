"""Run the project's tests in environments of other versions, and write down what each holds and how its tests ended."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ...bundle.launch import BUNDLE_ROOT
from ..figures_file import RELIABILITY, add_figures, read_figures

ENVIRONMENTS = {"newest": Path(".venv"), "oldest": Path(".venv-oldest")}
"""Made by `make` of requirements.txt and of requirements-oldest.txt."""
ENDS = ("failures", "errors", "skipped")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m scripts benchmark versions`."""
    add = parser.add_argument
    add("--environments", nargs="+", choices=ENVIRONMENTS, default=list(ENVIRONMENTS), help="the others' rows stay")
    add("--out", type=Path, default=RELIABILITY, help="file to add to")
    add("--tests", nargs="+", default=["tests"], help="what pytest is given")


def run(args: argparse.Namespace) -> int:
    """Run the tests of every environment, write `versions` into the file; 1 if a test failed anywhere.

    Raises:
        FileNotFoundError: an environment has not been made.
    """
    pythons = {name: BUNDLE_ROOT / ENVIRONMENTS[name] / "bin" / "python" for name in args.environments}
    for python in pythons.values():
        if not python.is_file():
            raise FileNotFoundError(f"{python} is missing; `make versions` makes both environments and runs the tests")
    rows = {row["environment"]: row for row in read_figures(args.out).get("versions", ())}
    for name, python in pythons.items():
        rows[name] = {"environment": name, **tested(python, args.tests)}
        add_figures(args.out, {"versions": list(rows.values())})
        print(rows[name])
    return int(any(rows[name]["failed"] for name in pythons))


def tested(python: Path, tests: Sequence[str]) -> dict[str, Any]:
    """Run pytest in an environment.

    Args:
        python: the environment's interpreter.
        tests: paths and options for pytest.

    Returns:
        `versions`, numbers of tests that `passed`, `failed` (errors among them) and were `skipped`, `minutes`, `date`.

    Raises:
        RuntimeError: pytest did not come to its end.
    """
    line = [str(python), "-c", "import json; from scripts.bundle.record import versions; print(json.dumps(versions()))"]
    held = json.loads(subprocess.run(line, cwd=BUNDLE_ROOT, capture_output=True, text=True, check=True).stdout)
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        line = [str(python), "-m", "pytest", "-q", "--junitxml", str(report), *tests]
        done = subprocess.run(line, cwd=BUNDLE_ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
        if not report.is_file():
            raise RuntimeError(f"{' '.join(line)} ended with {done.returncode} and without a report")
        return {"versions": held, **counted(report), "date": str(datetime.date.today())}


def counted(report: Path) -> dict[str, Any]:
    """What a JUnit report of pytest says: `passed`, `failed`, `skipped`, `minutes`."""
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    failures, errors, skipped = (sum(int(suite.get(end, 0)) for suite in suites) for end in ENDS)
    tests = sum(int(suite.get("tests", 0)) for suite in suites)
    minutes = sum(float(suite.get("time", 0)) for suite in suites) / 60
    failed = failures + errors
    return {"passed": tests - failed - skipped, "failed": failed, "skipped": skipped, "minutes": round(minutes, 1)}
