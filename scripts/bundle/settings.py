"""Settings that a run cannot start with, each refused in one sentence that names its key."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from ..data.datalist import DataError
from ..files import StorageError, as_storage_error

ROOT = Path(__file__).resolve().parents[2]
LEVELS = ("named", "decoded", "raw")
"""Names of the levels that a label map may have."""
COUNTS = ("max_epochs", "iters_per_epoch", "batch_size", "unlabelled_batch_size", "val_interval")


def check_settings(parser: ConfigParser, read: Callable[[str], Any] | None = None) -> None:
    """Refuse settings with which a run would break off in an error of Python.

    Args:
        parser: of the run.
        read: key -> its value; None asks the parser. A setting that comes from `model.json` may be refused in reading.

    Raises:
        DataError: a class table that is not there (as from another folder without `bundle_root`), a device that is not
            there, a number that is none, a grid that is no pair, unknown levels, or an `output_dir` that cannot be
            written.
    """
    given = {key: (read or parser.get_parsed_content)(key) for key in parser.config if key in CHECKS}
    for key, value in given.items():
        CHECKS[key](key, value)


def _check_file(key: str, value: Any) -> None:
    if value and not Path(str(value)).is_file():
        raise DataError(
            f"there is no {key} {Path(str(value)).absolute()}; from another folder than the bundle's add "
            f"--bundle_root {ROOT}, else correct --{key}"
        )


def _check_device(key: str, value: Any) -> None:
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError) as error:
        raise DataError(f"--{key} must be cpu, cuda or cuda:N, got {value!r}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        there = torch.cuda.device_count()
        reason = f"this machine has {there} of them, from cuda:0 on" if there else "PyTorch finds no CUDA device here"
        raise DataError(f"--{key} {device} is not there: {reason}; leave it out, or give --{key} cpu")


def _check_count(key: str, value: Any) -> None:
    if not _is_count(value):
        raise DataError(f"--{key} must be a whole number from 1 on, got {value!r}")


def _check_size(key: str, value: Any) -> None:
    if not (isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_count, value))):
        raise DataError(
            f"--{key} must be height and width in pixels, two whole numbers in brackets and quotes, as in "
            f'--{key} "[256,128]", got {value!r}'
        )


def _check_positive(key: str, value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise DataError(f"--{key} must be a number above 0, got {value!r}")


def _check_levels(key: str, value: Any) -> None:
    if value not in LEVELS:
        raise DataError(f"--{key} must be one of {', '.join(LEVELS)}, got {value!r}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_folders(parser: ConfigParser, keys: Iterable[str]) -> None:
    """Refuse folders that cannot be written; none is made.

    Raises:
        DataError: the sentence names the key of the folder, if the configuration has it.
    """
    for key in keys:
        if key in parser.config:
            _check_folder(key, parser.get_parsed_content(key))


def _check_folder(key: str, value: Any) -> None:
    folder = Path(str(value)).expanduser().absolute()
    # a file that is written says more than permissions do
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with as_storage_error(folder), tempfile.TemporaryFile(dir=there):
            pass
    except StorageError as error:
        raise DataError(f"{error} with --{key}") from error


CHECKS: dict[str, Callable[[str, Any], None]] = {
    "class_table": _check_file,
    "device": _check_device,
    **dict.fromkeys(COUNTS, _check_count),
    **dict.fromkeys(("learning_rate", "pixel_mm"), _check_positive),
    "image_size": _check_size,
    "levels": _check_levels,
    "output_dir": _check_folder,
}
"""Key -> its check, which takes the key and its value."""
