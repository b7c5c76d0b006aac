"""Run tests of the repository with pytest in a new process, and read its JUnit report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ...bundle.launch import BUNDLE_ROOT

TESTS = BUNDLE_ROOT / "tests"
ENDS = ("failures", "errors", "skipped")


def run_tests(
    arguments: Sequence[str], python: Path = Path(sys.executable)
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Run pytest, whose output goes to the terminal.

    Args:
        arguments: tests and options of pytest.
        python: interpreter of an environment that has pytest.

    Returns:
        Numbers of tests that `passed`, `failed` (errors included) and were `skipped`, and `minutes`; and, by the
        property's name, the rows that tests recorded as JSON with pytest's `record_property`.

    Raises:
        FileNotFoundError: this copy of the bundle has no tests.
        ChildProcessError: pytest did not write its report.
    """
    if not TESTS.is_dir():
        raise FileNotFoundError(
            f"{TESTS} is missing: this benchmark runs the tests of the repository; use a clone of it"
        )
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        line = [str(python), "-m", "pytest", "-q", "--junitxml", str(report), *arguments]
        done = subprocess.run(line, cwd=BUNDLE_ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
        if not report.is_file():
            raise ChildProcessError(f"{' '.join(line)} ended with exit code {done.returncode} and without a report")
        return read_report(report)


def read_report(path: Path) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Read the JUnit report of pytest, see :func:`run_tests`."""
    root = ElementTree.parse(path).getroot()
    suites = list(root.iter("testsuite"))
    failures, errors, skipped = (sum(int(suite.get(end, 0)) for suite in suites) for end in ENDS)
    tests = sum(int(suite.get("tests", 0)) for suite in suites)
    minutes = sum(float(suite.get("time", 0)) for suite in suites) / 60
    failed = failures + errors
    counts = {"passed": tests - failed - skipped, "failed": failed, "skipped": skipped, "minutes": round(minutes, 1)}
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for found in root.iter("property"):
        rows[found.attrib["name"]].append(json.loads(found.attrib["value"]))
    return counts, rows
