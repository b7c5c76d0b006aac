"""How faults of the user's data and commands are shown: as their sentence alone, without a traceback."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

from .data.datalist import DataError
from .files import storage_problem

GO_ON = "the same command with --resume True goes on after the last epoch that was kept"
MACHINE = {
    r"DataLoader worker .*(is killed by signal|exited unexpectedly)": "a process that reads data was killed, "
    f"most often for want of memory; free some, or give a smaller --num_workers (0: none), and {GO_ON}",
    r"can't allocate memory|out of memory": "there is not enough memory for a step; give a smaller --batch_size and "
    f"--unlabelled_batch_size, and {GO_ON}",
}
"""What PyTorch says when the machine gives no more -> what the user is told; regular expressions."""


def show_as_sentences() -> None:
    """From now on a fault of the data, or a machine at its end, is one sentence, and all else its traceback."""
    sys.excepthook = _one_sentence


def as_data_error(read: Callable[..., Any], *args: Any) -> None:
    """Call a reader of the user's files whose complaints are sentences for the user.

    Raises:
        DataError: the reader raised a ValueError or did not find a file.
    """
    try:
        read(*args)
    except (ValueError, FileNotFoundError) as error:
        raise DataError(str(error)) from error


def _one_sentence(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Show faults in the user's data or command, and a full disk, as a sentence; all others with their traceback."""
    problem = storage_problem(error)
    cause: BaseException | None = error
    while cause is not None and problem is None:
        problem = str(cause) if isinstance(cause, DataError) else _machine_problem(cause)
        cause = cause.__cause__  # MONAI wraps what a component raises
    if problem is not None:
        print(f"Error: {problem}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _machine_problem(error: BaseException) -> str | None:
    if isinstance(error, MemoryError):
        return MACHINE[r"can't allocate memory|out of memory"]
    said = str(error) if isinstance(error, RuntimeError) else ""
    return next((told for pattern, told in MACHINE.items() if re.search(pattern, said)), None)
