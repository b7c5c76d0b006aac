"""Runs of the bundle as a user types them: `python -m monai.bundle run ...` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BUNDLE_ROOT = Path(__file__).resolve().parent.parent


def command(run_id: str, configs: Sequence[str | Path], overrides: dict[str, Any]) -> list[str]:
    """The command line of a run; `configs` are relative to `configs/` or absolute."""
    files = [str(BUNDLE_ROOT / "configs" / c) for c in configs]
    line = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", run_id, "--config_file", str(files)]
    line += ["--bundle_root", str(BUNDLE_ROOT)]
    for name, value in overrides.items():
        line += [f"--{name}", str(value)]
    return line


def bundle_run(
    run_id: str, configs: Sequence[str | Path], overrides: dict[str, Any], log: Path, show: bool = True
) -> None:
    """Run it; what it prints goes to `log`, its progress bars to the terminal too.

    Raises:
        RuntimeError: it failed; the message ends with the last lines of the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.run(
            command(run_id, configs, overrides),
            cwd=BUNDLE_ROOT,
            stdout=file,
            stderr=None if show else file,
            env={**os.environ, "PYTHONPATH": str(BUNDLE_ROOT)},
            check=False,
        )
    if process.returncode:
        tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-5:])
        raise RuntimeError(f"{run_id} failed, see {log}\n{tail}")
