"""Launch bundle runs (`python -m monai.bundle run ...`) in a subprocess or in this process."""

from __future__ import annotations

import difflib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import FileError

BUNDLE_ROOT = Path(__file__).resolve().parents[2]
Run = tuple[str, Sequence[str | Path], dict[str, Any]]
"""Run id, config files, overrides."""


def command(run_id: str, configs: Sequence[str | Path], overrides: dict[str, Any]) -> list[str]:
    """The command line of a run; `configs` are relative to `configs/` or absolute."""
    line = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "monai.bundle",
        "run",
        run_id,
        "--config_file",
        str(config_paths(configs)),
    ]
    line += ["--bundle_root", str(BUNDLE_ROOT)]
    for name, value in overrides.items():
        line += [f"--{name}", str(value)]
    return line


def bundle_run(
    run_id: str, configs: Sequence[str | Path], overrides: dict[str, Any], log: Path, show: bool = True
) -> None:
    """One bundle run in a subprocess, its output in `log`; a RuntimeError with the end of the log if it fails."""
    _process(command(run_id, configs, overrides), run_id, log, show)


def bundle_runs(runs: Sequence[Run], log: Path) -> None:
    """Several bundle runs in one subprocess, to save start-up time; a RuntimeError if one fails.

    Overrides are passed as Python values, not as text of a command line.
    """
    plain = [[run_id, config_paths(configs), _plain(overrides)] for run_id, configs, overrides in runs]
    line = [sys.executable, "-W", "ignore", "-m", "scripts.bundle.launch", json.dumps(plain)]
    _process(line, " and ".join(dict.fromkeys(run_id for run_id, _, _ in runs)), log, show=False)


def runs_here(*runs: Run) -> None:
    """Several bundle runs in this process; overrides are Python values."""
    from monai.bundle import run

    for run_id, configs, overrides in runs:
        run(run_id, config_file=config_paths(configs), bundle_root=str(BUNDLE_ROOT), **_plain(overrides))


def config_paths(configs: Sequence[str | Path], root: Path = BUNDLE_ROOT) -> list[str]:
    """Paths of config files that are given absolute or relative to `configs/`.

    Raises:
        FileError: one is missing, with the nearest name that there is.
    """
    folder = root / "configs"
    files = [folder / config for config in configs]
    for file, config in zip(files, configs, strict=True):
        if not file.is_file():
            names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.yaml"))]
            near = difflib.get_close_matches(str(config), names, n=1)
            raise FileError(f"there is no config {file}" + (f"; did you mean {near[0]}?" if near else ""))
    return [str(file) for file in files]


def _plain(overrides: dict[str, Any]) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, Path) else v for k, v in overrides.items()}


def _process(line: list[str], what: str, log: Path, show: bool) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.run(
            line,
            cwd=BUNDLE_ROOT,
            stdout=file,
            stderr=None if show else file,
            env={**os.environ, "PYTHONPATH": str(BUNDLE_ROOT)},
            check=False,
        )
    if process.returncode:
        tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-5:])
        raise RuntimeError(f"{what} failed, see {log}\n{tail}")


if __name__ == "__main__":
    runs_here(*json.loads(sys.argv[1]))
