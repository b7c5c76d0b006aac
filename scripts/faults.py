"""How faults of the user's data and commands are shown: as their sentence alone, without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from .data.datalist import DataError
from .files import storage_problem


def show_as_sentences() -> None:
    """From now on a fault of the data, or a disk that cannot be written, is one sentence; all else its traceback."""
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
    while cause is not None and not isinstance(cause, DataError):
        cause = cause.__cause__  # MONAI wraps what a component raises
    if cause is not None or problem is not None:
        print(f"Error: {cause or problem}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
