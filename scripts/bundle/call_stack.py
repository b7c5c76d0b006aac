"""What the functions below this one on the call stack were called with; on Python 3.11 and later alike."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

Kind = TypeVar("Kind")


def arguments_of(function: Callable[..., Any]) -> dict[str, Any] | None:
    """Arguments of the latest call of a function that has not ended, by the names of its signature; None without one.

    From Python 3.13 on the variables of a frame are a view, of which no more is used than a value by its name.
    """
    code = inspect.unwrap(function).__code__
    for frame in frames():
        if frame.f_code is code:
            variables = frame.f_locals
            return {name: variables[name] for name in inspect.signature(function).parameters}
    return None


def running(kind: type[Kind]) -> Kind | None:
    """The object of this class, a method of which was called last and has not ended; None without one."""
    for frame in frames():
        candidate = frame.f_locals.get("self")
        if isinstance(candidate, kind):
            return candidate
    return None


def frames() -> Iterator[FrameType]:
    """The frames of the call stack, the latest first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
