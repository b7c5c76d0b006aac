"""`cps4 COMMAND`: the commands of `python -m scripts` that a user needs, from any folder."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

CARRIED = Path(__file__).resolve().parent / "bundle"
BUNDLE_ROOT = CARRIED if CARRIED.is_dir() else CARRIED.parents[1]
"""The bundle in the installed package; in its repository, or installed from there with -e, the repository itself."""
COMMANDS = ("label", "train", "evaluate", "measure", "prepare", "check", "quantise", "info")


def main(argv: list[str] | None = None) -> int:
    """Run one command; its modules are those of the bundle, whatever the working folder holds."""
    sys.path.insert(0, str(BUNDLE_ROOT))
    os.environ["CPS4_PROGRAM"] = "cps4"  # to this process and to the runs that it starts
    return int(import_module("scripts.__main__").main(argv, prog="cps4", names=COMMANDS))


if __name__ == "__main__":
    sys.exit(main())
