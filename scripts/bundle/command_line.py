"""What a bundle run was called with: its overrides, which are found and checked here, and its workflow."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from ..data.datalist import DataError
from ..files import storage_problem

RUN_ARGUMENTS = {
    *("run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file"),
    *("workflow_name", "workflow_type"),
}
CODE = ("$", "@", "%")
"""What MONAI's config language takes for an expression, a reference or a macro begins with one of these."""
LABEL_SERVER_KEYS = {"bundle_root", "dataset_dir", "output_dir", "displayable_configs"}


def check_overrides() -> None:
    """Check the overrides of the bundle run that this call is a part of; without one there are none.

    Raises:
        DataError: see :func:`refuse_overrides`.
    """
    refuse_overrides(*_command_line())


def refuse_overrides(overrides: Mapping[str, Any], files: Sequence[str | os.PathLike[str]]) -> None:
    """Refuse overrides that would do nothing, or the opposite of what they say.

    An id that no config file has: MONAI would add it, and nothing would read it. A word where the files have a boolean:
    Fire leaves `false` a word, and a word counts as true. None: MONAI takes it for an override that was not given.

    Args:
        overrides: id -> value, as on the command line.
        files: the run's config files.

    Raises:
        DataError: an id that is not known, with the nearest one that is; a word for a boolean; or None for a value.
    """
    known = _known_ids(files) if overrides else {}
    for override, value in overrides.items():
        name = override.replace("::", "#")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean --{near[0]}?" if near else "; see docs/configs.md for the keys"
            raise DataError(f"--{name} is not a key of this configuration{hint}")
        is_word = isinstance(value, str) and not value.startswith(("$", "@", "%"))
        if isinstance(known[name], bool) and is_word:
            raise DataError(f"--{name} must be True or False, got {value!r}")
        if value is None and known[name] is not None:
            raise DataError(f"--{name} None would be passed over: MONAI drops an override that is None; write '$None'")


def running_workflow() -> ConfigWorkflow | None:
    """The bundle workflow whose run list is being evaluated; expressions of a config cannot name it."""
    for frame in _frames():
        candidate = frame.f_locals.get("self")
        if isinstance(candidate, ConfigWorkflow):
            return candidate
    return None


def entries_of(data: str) -> list[dict[str, Any]]:
    """The entries that stand under an id of the running workflow's config; none without a workflow."""
    workflow = running_workflow()
    return workflow.parser.get_parsed_content(data) if workflow is not None and data else []


def refuse_expressions(data: str) -> None:
    """Refuse entries of the running workflow's config that MONAI would take for expressions: file names are data.

    Args:
        data: id of a list of entries.

    Raises:
        DataError: a word of an entry begins as an expression, a reference or a macro does.
    """
    workflow = running_workflow()
    entries = workflow.parser.get(data) if workflow is not None and data else None
    for entry in entries if isinstance(entries, list) else ():
        for key, value in entry.items() if isinstance(entry, Mapping) else ():
            if isinstance(value, str) and value.startswith(CODE):
                raise DataError(
                    f"{data}: the {key} {value!r} begins as an expression of the config language does; rename the "
                    "file, or give it with its whole path"
                )


def plain_data(value: Any) -> Any:
    """An override that a config shall not read again: entries, and words in it that look like expressions, are data."""
    if isinstance(value, str) and value.startswith(CODE):
        return "$" + repr(value).replace("@", r"\x40").replace("%", r"\x25")
    return tuple(value) if isinstance(value, list) and any(isinstance(item, Mapping) for item in value) else value


def component_of(name: str) -> Any:
    """A component of the running workflow; what its constructor refuses is raised as it is, without MONAI's words."""
    workflow = running_workflow()
    try:
        return workflow.parser.get_parsed_content(name) if workflow is not None else None
    except RuntimeError as error:
        raise error.__cause__ or error from error


def config_files() -> list[str]:
    """The config files of the bundle run that this call is a part of; without one there are none."""
    return [str(file) for file in _command_line()[1]]


def _command_line() -> tuple[dict[str, Any], list[str | os.PathLike[str]]]:
    """The overrides, and the config files, that `monai.bundle run` was called with; an args file's too."""
    for frame in _frames():
        called = frame.f_locals
        if frame.f_code.co_name == "run" and {"override", "config_file", "args_file"} <= called.keys():
            extra = ConfigParser.load_config_file(called["args_file"]) if called["args_file"] else {}
            given = called["config_file"] or extra.get("config_file") or []
            files = [given] if isinstance(given, (str, os.PathLike)) else list(given)
            return {**{k: v for k, v in extra.items() if k not in RUN_ARGUMENTS}, **called["override"]}, files
    return {}, []


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _known_ids(files: Sequence[str | os.PathLike[str]]) -> dict[str, Any]:
    """Every id of the config files of a run with its value, and the keys that trackers and MONAI Label add."""
    tracking = {key for settings in DEFAULT_EXP_MGMT_SETTINGS.values() for key in settings["configs"]}
    return {**dict.fromkeys(tracking | LABEL_SERVER_KEYS), **dict(_ids(ConfigParser.load_config_files(files)))}


def _ids(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All ids below a config, as `a#b#0`, with their values; a file's keys may hold `#`, `::` or a leading `+`."""
    items: Any = config.items() if isinstance(config, Mapping) else enumerate(config)
    for key, value in items:
        name = f"{prefix}{str(key).lstrip('+').replace('::', '#')}"
        yield name, value
        if isinstance(value, (Mapping, list)):
            yield from _ids(value, f"{name}#")


GO_ON = "the same command with --resume True goes on after the last epoch that was kept"
MACHINE = {
    r"DataLoader worker .*(is killed by signal|exited unexpectedly)": "a process that reads data was killed, "
    f"most often for want of memory; free some, or give a smaller --num_workers (0: none), and {GO_ON}",
    r"can't allocate memory|out of memory": "there is not enough memory for a step; give a smaller --batch_size and "
    f"--unlabelled_batch_size, and {GO_ON}",
}
"""What PyTorch says when the machine gives no more -> what the user is told; regular expressions."""


def show_data_errors_without_traceback() -> None:
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
