"""Run commands as a user does; a traceback fails the test."""

from __future__ import annotations

import contextlib
import io
import subprocess
from collections.abc import Sequence

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


def in_new_process(line: Sequence[str]) -> tuple[int, str]:
    """Exit code and output of a command line."""
    done = subprocess.run(line, cwd=BUNDLE_ROOT, capture_output=True, text=True, check=False, errors="replace")
    text = done.stdout + done.stderr
    assert "Traceback" not in text, text[-4000:]
    return done.returncode, text
