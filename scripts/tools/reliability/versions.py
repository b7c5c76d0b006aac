"""Run the repository's tests in environments of pinned, oldest and newest versions, and count the outcomes."""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
from pathlib import Path

from ...bundle.launch import BUNDLE_ROOT
from ..figures_file import RELIABILITY, add_figures, read_figures, replace_rows
from .pytest_report import run_tests

ENVIRONMENTS = {
    "pinned": Path(".venv"),
    "oldest": Path(".venv-oldest"),
    **{f"newest-{version}": Path(f".venv-newest-{version}") for version in ("3.11", "3.12", "3.13")},
}
"""Virtual environments: requirements.txt, requirements-oldest.txt, and the newest releases of what the first names.

`make versions` installs them, the newest ones on each Python that the machine has.
"""
PRINT_VERSIONS = "import json; from scripts.bundle.run_record import versions; print(json.dumps(versions()))"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m scripts benchmark versions`."""
    add = parser.add_argument
    add("--environments", nargs="+", choices=ENVIRONMENTS, default=list(ENVIRONMENTS), help="the others' rows stay")
    add("--out", type=Path, default=RELIABILITY, help="file to add to")
    add("--tests", nargs="+", default=["tests"], help="tests and options of pytest")


def run(args: argparse.Namespace) -> int:
    """Run the tests in every environment, write `versions` into the file; return 1 if a test failed.

    An environment of a Python that the machine has not is passed over with a sentence.

    Raises:
        FileNotFoundError: another environment is not installed.
    """
    pythons = {name: BUNDLE_ROOT / ENVIRONMENTS[name] / "bin" / "python" for name in args.environments}
    for name, python in list(pythons.items()):
        if not python.is_file():
            if not name.startswith("newest"):
                raise FileNotFoundError(f"{python} is missing; `make versions` makes it and runs the tests")
            print(f"{name}: passed over, there is no {pythons.pop(name).parent.parent}")
    failed = 0
    for name, python in pythons.items():
        line = [str(python), "-c", PRINT_VERSIONS]
        held = json.loads(subprocess.run(line, cwd=BUNDLE_ROOT, capture_output=True, text=True, check=True).stdout)
        counts, _ = run_tests(args.tests, python)
        row = {"environment": name, "versions": held, **counts, "date": str(datetime.date.today())}
        rows = replace_rows(read_figures(args.out).get("versions", []), [row], "environment")
        add_figures(args.out, {"versions": rows})
        print(row)
        failed += counts["failed"]
    return int(failed > 0)
