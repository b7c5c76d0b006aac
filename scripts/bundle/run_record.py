"""Run record (`run.json`) for reproducibility: command, package versions, git state, checksums of the data."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..data.check.remembered import checksums
from ..data.datalist import load_datalist
from ..files import write_whole

RECORD = "run.json"
PACKAGES = ("torch", "monai", "pytorch-ignite", "numpy", "scipy", "nibabel", "itk", "transformers")
ROOT = Path(__file__).resolve().parents[2]
SECRET_NAME = re.compile(r"token|passw|secret|credential|api_?key", re.IGNORECASE)
SECRET_IN_URL = re.compile(r"//[^/@\s]+@")


def record_run(
    folder: Path,
    datalist: str | Path | None,
    entries: Iterable[Mapping[str, Any]],
    cache_folder: str | Path | None,
    models: str | Path = "",
) -> None:
    """Append a start to `run.json` of the run's folder; a resumed run has several.

    Secrets on the command line are masked; patient names are not written.

    Args:
        folder: the run's folder.
        datalist: the datalist file, or None.
        entries: entries that the run reads; see :func:`datalist_entries`.
        cache_folder: folder of cached checksums.
        models: folder of the network that the run keeps, see :func:`recorded_models`.

    Raises:
        StorageError: the folder cannot be written.
    """
    paths = [entry[key] for entry in entries for key in ("image", "label", "hidden_label") if key in entry]
    # without a datalist nothing was checked yet; missing files are reported by their reader
    files = checksums([path for path in dict.fromkeys(paths) if Path(path).exists()], cache_folder)
    digest = hashlib.sha256(json.dumps(sorted(files.values())).encode()).hexdigest()
    earlier = _read(folder / RECORD).get("starts", [])
    if earlier and earlier[-1]["data"] != digest:
        logging.getLogger(__name__).warning("the data are not those of the last start in %s", folder)
    start = {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": _command(sys.argv),
        "versions": versions(),
        "system": platform.platform(),
        "git": git_state(ROOT),
        "data": digest,
    }
    content: dict[str, Any] = {"starts": [*earlier, start], "files": files}
    if models:
        content["models"] = os.path.relpath(models, folder)
    if datalist:
        content["datalist"] = {"path": str(datalist), "sha256": checksums([datalist])[str(datalist)]}
    write_whole(folder / RECORD, json.dumps(content, indent=1) + "\n")


def recorded_models(folder: Path) -> Path | None:
    """Folder of the network that the run of a folder keeps; None if it is not known."""
    models = _read(folder / RECORD).get("models")
    return Path(os.path.abspath(folder / models)) if models else None


def has_datalist(folder: Path, datalist: str | Path) -> bool:
    """Whether the last start in a run's folder read this datalist with its current content."""
    recorded = _read(folder / RECORD).get("datalist", {})
    return recorded.get("sha256") == checksums([datalist])[str(datalist)]


def datalist_entries(
    datalist: str | Path, sections: Sequence[str], class_table: str | Path | None
) -> list[Mapping[str, Any]]:
    """The entries of the sections that a datalist has."""
    found = load_datalist(datalist, class_table=class_table).sections
    return [entry for section in sections for entry in found.get(section, ())]


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that compute; None for one that is not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def git_state(root: Path) -> dict[str, Any] | None:
    """Commit and changed files of the bundle's own code; None where it does not lie in a repository."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = (_git(root, "status", "--porcelain", "--", ".") or "").splitlines()
    return {"commit": commit.strip(), "changed": [line.strip() for line in changed]}


def hide_secret(name: str, value: str) -> str:
    """Mask passwords, tokens and credentials in URLs in the value of a setting."""
    if SECRET_NAME.search(name) and value and not value.startswith(("@", "%")) and not _is_number(value):
        return "***"
    return SECRET_IN_URL.sub("//***@", value)


def _command(arguments: Sequence[str]) -> list[str]:
    """The command line with masked secrets in `--name value` and `--name=value`."""
    shown, name = [], ""
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if argument.startswith("--") and equals:
            shown.append(f"{option}={hide_secret(option, value)}")
        else:
            shown.append(hide_secret(name, argument) if not argument.startswith("--") else argument)
        name = argument if argument.startswith("--") and not equals else ""
    return shown


def _is_number(value: str) -> bool:
    """True for numbers, as the weight of the token-level loss, whose key contains "token"."""
    try:
        float(value)
    except ValueError:
        return False
    return True


def _read(path: Path) -> dict[str, Any]:
    """Read the record; empty if there is no readable one."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
