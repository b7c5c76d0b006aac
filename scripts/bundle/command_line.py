"""Command line of a bundle run: check of overrides, access to the running workflow, one-line error messages."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import monai
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from ..data.datalist import DataError
from ..files import storage_problem
from .call_stack import arguments_of, running
from .settings import check_settings

RUN_ARGUMENTS = {
    *("run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file"),
    *("workflow_name", "workflow_type"),
}
CODE = ("$", "@", "%")
"""First characters of an expression, a reference or a macro in MONAI's config language."""
OF_EVERY_COMPONENT = {"_disabled_": False, "_requires_": None, "_mode_": None, "_desc_": None}
"""What MONAI's config language takes in every component beside its arguments."""
LABEL_SERVER_KEYS = {"bundle_root", "dataset_dir", "output_dir", "displayable_configs"}


def check_overrides() -> None:
    """Check the overrides of the running bundle run and its settings.

    See :func:`refuse_overrides` and :func:`~scripts.bundle.settings.check_settings`.
    """
    refuse_overrides(*_command_line())
    if (workflow := running_workflow()) is not None:
        check_settings(workflow.parser, lambda key: as_data_error(component_of, key))


def refuse_overrides(overrides: Mapping[str, Any], files: Sequence[str | os.PathLike[str]]) -> None:
    """Refuse overrides without effect or with the opposite effect.

    An unknown id would be added by MONAI and never read. A string for a boolean is truthy, and Fire passes `false` as a
    string. MONAI drops overrides that are None.

    Args:
        overrides: id -> value, as on the command line.
        files: the run's config files.

    Raises:
        DataError: an unknown id, with the nearest known one; a string for a boolean; None for a value.
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
    """The bundle workflow whose run list is being evaluated, found on the call stack; None without one."""
    return running(ConfigWorkflow)


def entries_of(data: str) -> list[dict[str, Any]]:
    """The list of entries under an id of the running workflow's config; empty without a workflow."""
    workflow = running_workflow()
    return workflow.parser.get_parsed_content(data) if workflow is not None and data else []


def refuse_expressions(data: str) -> None:
    """Refuse data entries that MONAI would evaluate as config expressions (code injection by file names).

    Args:
        data: config id of a list of entries.

    Raises:
        DataError: a string of an entry begins as an expression, a reference or a macro does.
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
    """Quote an override value so that MONAI does not parse it as a config expression."""
    if isinstance(value, str) and value.startswith(CODE):
        return "$" + repr(value).replace("@", r"\x40").replace("%", r"\x25")
    return tuple(value) if isinstance(value, list) and any(isinstance(item, Mapping) for item in value) else value


def component_of(name: str) -> Any:
    """A component of the running workflow; errors of its constructor are raised without MONAI's wrapper."""
    workflow = running_workflow()
    try:
        return workflow.parser.get_parsed_content(name) if workflow is not None else None
    except RuntimeError as error:
        cause: BaseException = error
        while isinstance(cause, RuntimeError) and cause.__cause__ is not None:
            cause = cause.__cause__
        raise cause from error


def config_files() -> list[str]:
    """The config files of the running bundle run; empty without one."""
    return [str(file) for file in _command_line()[1]]


def _command_line() -> tuple[dict[str, Any], list[str | os.PathLike[str]]]:
    """Overrides and config files of `monai.bundle run`, from the command line and an args file.

    Raises:
        RuntimeError: this MONAI calls a run otherwise, so that no override could be checked.
    """
    called = arguments_of(monai.bundle.run)
    if called is None and not _is_bundle_run():
        return {}, []
    kinds = {name: parameter.kind for name, parameter in inspect.signature(monai.bundle.run).parameters.items()}
    pairs = [name for name, kind in kinds.items() if kind is inspect.Parameter.VAR_KEYWORD]
    if called is None or not pairs or not {"config_file", "args_file"} <= kinds.keys():
        raise RuntimeError(
            f"MONAI {monai.__version__} calls a run otherwise than those this bundle was made for, so that overrides "
            "cannot be checked; install a version that requirements.txt allows"
        )
    extra = ConfigParser.load_config_file(called["args_file"]) if called["args_file"] else {}
    given = called["config_file"] or extra.get("config_file") or []
    files = [given] if isinstance(given, (str, os.PathLike)) else list(given)
    return {**{k: v for k, v in extra.items() if k not in RUN_ARGUMENTS}, **called[pairs[0]]}, files


def _is_bundle_run() -> bool:
    """Whether this process was started as `python -m monai.bundle run`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name == "monai.bundle.__main__" and sys.argv[1:2] == ["run"]


def _known_ids(files: Sequence[str | os.PathLike[str]]) -> dict[str, Any]:
    """Id -> value of the config files of a run, and of the keys that trackers and MONAI Label add."""
    tracking = {key for settings in DEFAULT_EXP_MGMT_SETTINGS.values() for key in settings["configs"]}
    return {**dict.fromkeys(tracking | LABEL_SERVER_KEYS), **dict(config_ids(ConfigParser.load_config_files(files)))}


def config_ids(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All ids `a#b#0` below a config with their values; keys may contain `#`, `::` or a leading `+`."""
    items: Any = config.items() if isinstance(config, Mapping) else enumerate(config)
    for key, value in items:
        name = f"{prefix}{str(key).lstrip('+').replace('::', '#')}"
        yield name, value
        if isinstance(value, Mapping) and "_target_" in value:
            yield from ((f"{name}#{key}", default) for key, default in OF_EVERY_COMPONENT.items() if key not in value)
        if isinstance(value, (Mapping, list)):
            yield from config_ids(value, f"{name}#")


GO_ON = "the same command with --resume True goes on after the last epoch that was kept"
READER_KILLED = (
    "a process that reads data was killed, most often for want of memory; free some, or give a smaller --num_workers "
    f"(0: none), and {GO_ON}"
)
MACHINE = {
    r"DataLoader worker .*(is killed by signal|exited unexpectedly)": READER_KILLED,
    r"can't allocate memory|out of memory": "there is not enough memory for a step; give a smaller --batch_size and "
    f"--unlabelled_batch_size, and {GO_ON}",
}
"""Pattern of PyTorch's error when memory runs out -> message for the user."""


ENGINES = ("SupervisedTrainer", "SupervisedEvaluator")


def show_data_errors_without_traceback() -> None:
    """Install an exception hook: errors of data, disk and memory as one message, all others with traceback.

    What several processes of torchrun refuse for the same reason is said by one of them; all end with exit code 1.

    Every engine of MONAI says of a first step that it resumes from it; that line is dropped.
    """
    sys.excepthook = _excepthook
    for engine in ENGINES:
        logging.getLogger(f"ignite.engine.engine.{engine}").addFilter(_is_no_false_resume)


def _is_no_false_resume(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Engine run resuming from iteration 0,")


def as_data_error(read: Callable[..., Any], *args: Any) -> Any:
    """What `read(*args)` returns; its ValueError or FileNotFoundError is raised as a DataError."""
    try:
        return read(*args)
    except (ValueError, FileNotFoundError) as error:
        raise DataError(str(error)) from error


def _excepthook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Exception hook, see :func:`show_data_errors_without_traceback`."""
    problem = problem_of(error)
    if problem is None:
        another_ended = re.search(LEFT_ALONE, " ".join(map(str, _with_causes(error)))) and _count_with_others(
            REFUSED, 0
        )
        return None if another_ended else sys.__excepthook__(kind, error, trace)
    first = _count_with_others(hashlib.sha256(problem.encode()).hexdigest(), 1) <= 1
    if first:
        print(f"Error: {problem}", file=sys.stderr, flush=True)
        _count_with_others(REFUSED, 1)
    else:
        time.sleep(1)  # torchrun ends all processes with the first one, which has to say it before
    return None


def problem_of(error: BaseException) -> str | None:
    """The message of an error of data, disk or memory; None of an error of any other kind."""
    chain = _with_causes(error)
    # a sentence that names the key comes before the system's reason, which it was raised from
    known = (str(cause) for cause in chain if isinstance(cause, DataError))
    return next(known, None) or storage_problem(error) or next(filter(None, map(_machine_problem, chain)), None)


def _with_causes(error: BaseException) -> list[BaseException]:
    """An error and those it was raised from: MONAI wraps what a component raises."""
    chain = [error]
    # each once: MONAI keeps what a component raised, and where that is raised again it is its own cause's cause
    while (cause := chain[-1].__cause__) is not None and not any(cause is known for known in chain):
        chain.append(cause)
    return chain


REFUSED = "refused"
LEFT_ALONE = r"(?i)gloo|nccl|connection closed by peer"
"""Errors of a process that waits for another one which has ended."""


def _count_with_others(key: str, more: int) -> int:
    """Add to a number that the processes of one torchrun share, and return it; 0 for a process of its own."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in every build of PyTorch

    address, port = os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT", 0))
    try:
        store = TCPStore(address, port, is_master=False, wait_for_workers=False)
        return int(store.add(f"{key} {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", more))
    except (RuntimeError, ValueError):  # torchrun has ended, too
        return 0


def _machine_problem(error: BaseException) -> str | None:
    if isinstance(error, MemoryError):
        return MACHINE[r"can't allocate memory|out of memory"]
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, EOFError | OSError) and any("multiprocessing" in frame.filename for frame in frames):
        return READER_KILLED  # it died while it handed a batch over
    text = str(error) if isinstance(error, RuntimeError) else ""
    return next((message for pattern, message in MACHINE.items() if re.search(pattern, text)), None)
