"""What a check finds: errors, which stop a run, and warnings, which do not; and how both are shown."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import write_whole
from .datalist import DataError


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or odd.

    Attributes:
        path: the file to mend: a scan, a label, or the datalist.
        message: what is wrong and how to mend it; in a warning, what a run will do about it.
        section: the datalist's section, "" where it concerns more than one.
        level: "error" or "warning".
    """

    path: str
    message: str
    section: str = ""
    level: str = "error"

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def errors(problems: Iterable[Problem]) -> list[Problem]:
    """The problems that stop a run."""
    return [p for p in problems if p.level == "error"]


def raise_problems(problems: Iterable[Problem]) -> None:
    """Log all warnings and raise one error that lists all errors, one a line; none is fine.

    Raises:
        DataError: there is an error.
    """
    found = list(problems)
    for problem in found:
        if problem.level != "error":
            logging.getLogger(__name__).warning("%s", problem)
    lines = [str(problem) for problem in errors(found)]
    if lines:
        count = f"{len(lines)} problems with the data:\n" if len(lines) > 1 else ""
        raise DataError(count + "\n".join(lines))


def problem_table(problems: Sequence[Problem]) -> list[str]:
    """Lines of a table, errors first: level, section, file and sentence."""
    ordered = sorted(problems, key=lambda p: p.level)  # stable, and "error" comes before "warning"
    return [f"{p.level:<9}{p.section or '-':<12}{p}" for p in ordered]


def write_json(path: str | Path, datalist: str | Path, problems: Sequence[Problem], **counts: Any) -> None:
    """Write all problems for programs to read, whole or not at all."""
    wrong = len(errors(problems))
    content = {"datalist": str(datalist), "errors": wrong, "warnings": len(problems) - wrong, **counts}
    content["problems"] = [asdict(problem) for problem in problems]
    write_whole(path, json.dumps(content, indent=1) + "\n")
