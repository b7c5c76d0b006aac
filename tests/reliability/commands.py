"""Run commands as a user does; a traceback fails the test."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai.bundle

from scripts.__main__ import main
from scripts.bundle.launch import BUNDLE_ROOT


def in_process(arguments: Sequence[str]) -> tuple[int, str]:
    """Exit code and output of `python -m scripts ARGUMENTS`."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            code = main(list(arguments))
        except Exception as error:
            raise AssertionError(f"{' '.join(arguments)} raised {error!r}") from error
    return code, text.getvalue()


def in_new_process(line: Sequence[str], cwd: Path = BUNDLE_ROOT) -> tuple[int, str]:
    """Exit code and output of a command line."""
    done = subprocess.run(
        line, cwd=cwd, env={**os.environ, "PYTHONPATH": str(BUNDLE_ROOT)}, capture_output=True, text=True, check=False,
        errors="replace",
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert "Traceback" not in text, text[-4000:]
    return done.returncode, text


def bundle(run_id: str, configs: Sequence[str], overrides: Mapping[str, Any]) -> str:
    """The sentence with which `python -m monai.bundle run` refuses, in this process; "" if it comes to its end."""
    given = {"bundle_root": str(BUNDLE_ROOT), "device": "$torch.device('cpu')", **overrides}
    text = io.StringIO()
    try:
        monai.bundle.run(
            run_id,
            config_file=[str(BUNDLE_ROOT / "configs" / name) for name in configs],
            meta_file=str(BUNDLE_ROOT / "configs/metadata.json"),
            logging_file=False,
            **{key: str(value) if isinstance(value, Path) else value for key, value in given.items()},
        )
    except Exception as error:  # as Python does with an error that nobody catches
        with contextlib.redirect_stderr(text):
            sys.excepthook(type(error), error, error.__traceback__)
    shown = text.getvalue()
    assert "Traceback" not in shown, shown[-4000:]
    return shown.removeprefix("Error: ").strip()
