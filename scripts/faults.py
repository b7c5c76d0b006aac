"""How faults of the user's data and commands are shown: as their sentence alone, without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from .data.datalist import DataError


def show_as_sentences() -> None:
    """From now on a `DataError` that ends the process is its sentence, every other error its traceback."""
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
    """Show faults in the user's data or command as their sentence alone, all others with their traceback."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, DataError):
        cause = cause.__cause__  # MONAI wraps what a component raises
    if cause is not None:
        print(f"Error: {cause}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
