"""The bundle run that a one-word command stands for: its settings, its long command line, and the run itself."""

from __future__ import annotations

import argparse
import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..bundle.launch import BUNDLE_ROOT, config_paths

SETTING = re.compile(r"(?:--)?([A-Za-z_][\w#:]*)=(.*)", re.DOTALL)
EPILOG = "KEY=VALUE ... behind the options, as batch_size=8, sets keys of the configuration (docs/configs.md)."


def takes_settings(parser: argparse.ArgumentParser) -> None:
    """Let a command have words that are no options, `args.settings`, for :func:`read_settings`."""
    parser.epilog = EPILOG
    parser.set_defaults(settings=[])


def read_settings(words: Sequence[str]) -> dict[str, Any]:
    """Settings given as `KEY=VALUE`, or as `--KEY VALUE` as the long command takes them; values read as Fire does.

    Raises:
        ValueError: a word that is neither.
    """
    from fire.parser import DefaultParseValue

    found: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if setting := SETTING.fullmatch(word):
            found[setting[1]] = DefaultParseValue(setting[2])
        elif word.startswith("--") and rest:
            found[word[2:]] = DefaultParseValue(rest.pop(0))
        else:
            raise ValueError(f"{word!r} is neither an option nor a setting KEY=VALUE; --help lists the options")
    return found


def long_command(run_id: str, configs: Sequence[str], settings: Mapping[str, Any]) -> str:
    """The command line of MONAI that does the same, as it is typed in the working folder.

    Args:
        run_id: of the run.
        configs: config files, relative to `configs/`.
        settings: key -> value; paths may be relative to the working folder.
    """
    from fire.parser import DefaultParseValue

    here = Path.cwd() == BUNDLE_ROOT
    files = [f"configs/{name}" if here else str(BUNDLE_ROOT / "configs" / name) for name in configs]
    line = ["python", "-m", "monai.bundle", "run", run_id, "--config_file"]
    line.append(files[0] if len(files) == 1 else str(files).replace(", ", ","))
    line += [] if here else ["--bundle_root", str(BUNDLE_ROOT)]
    for key, value in settings.items():
        text = str(value)
        # a folder called 2026 is a text, and would be read as a number
        quoted = isinstance(value, str | Path) and not isinstance(DefaultParseValue(text), str)
        line += [f"--{key}", repr(text) if quoted else text]
    return shlex.join(line)


def run_long(run_id: str, configs: Sequence[str], settings: Mapping[str, Any]) -> None:
    """The run itself, in this process, by `monai.bundle.run`."""
    from monai.bundle import run

    from ..bundle.command_line import plain_data

    given = {key: plain_data(str(value)) if isinstance(value, Path) else value for key, value in settings.items()}
    with warnings.catch_warnings():  # MONAI's, of which a user can make nothing
        warnings.simplefilter("ignore")
        run(run_id, config_file=config_paths(configs), bundle_root=str(BUNDLE_ROOT), **given)
