"""The folder of a trained network: `model.pt` and the `model.json` that belongs to it, never one without the other."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import FileError, as_storage_error, sha256, sync, whole_file, write_whole

WEIGHTS, SETTINGS, NEXT_SETTINGS = "model.pt", "model.json", ".next-model.json"
"""Files of a trained network: its weights, what describes them, and what will describe the weights that come next."""
UNFINISHED = ".unfinished"
"""Mark of a folder whose training has not come to its end."""


def write_model_files(folder: str | Path, weights: bytes, settings: Mapping[str, Any]) -> None:
    """Write `model.pt`, and `model.json` with its SHA-256, so that a pair can be told whole from mixed.

    The new settings wait under another name while the weights are replaced: killed in between, a run leaves new weights
    whose settings are beside them, and `model_settings` finds these.

    Raises:
        StorageError: a file cannot be written.
    """
    folder = Path(folder)
    restore_model_files(folder)  # else these settings would take the place of those that wait for an earlier writer
    content = {**settings, "sha256": hashlib.sha256(weights).hexdigest()}
    write_whole(folder / NEXT_SETTINGS, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    with whole_file(folder / WEIGHTS) as file:
        file.write(weights)
    restore_model_files(folder)


def restore_model_files(folder: str | Path) -> None:
    """Bring a pair that a killed writer left to its end: weights and settings are then both the old, or both the new.

    For the one that writes to the folder; to read, :func:`model_settings` needs no restoring.
    """
    waiting = Path(folder) / NEXT_SETTINGS
    if not waiting.is_file():
        return
    with as_storage_error(waiting):
        if _settings_of(waiting).get("sha256") == _weights_sha256(Path(folder)):
            os.replace(waiting, Path(folder) / SETTINGS)
            sync(Path(folder))
        else:
            waiting.unlink()


def model_settings(folder: str | Path) -> dict[str, Any] | None:
    """Settings of the weights in a folder, without the checksum; None if there are none.

    Settings without a checksum, of other programs, are taken as they are, and so are settings alone.

    Raises:
        FileError: they are damaged, or not of these weights.
    """
    folder = Path(folder)
    for _ in range(2):  # again: a training may have been between its two files
        digest = _weights_sha256(folder)
        for name in (NEXT_SETTINGS, SETTINGS):
            if (folder / name).is_file():
                settings = _settings_of(folder / name)
                written_with = settings.pop("sha256", None if name == SETTINGS else "")
                if written_with == digest or (name == SETTINGS and None in (written_with, digest)):
                    return settings
    if not (folder / SETTINGS).is_file():
        return None
    raise FileError(
        f"{folder / WEIGHTS} does not fit its {SETTINGS} (its SHA-256 is another), or is damaged: copy both again, or "
        "train again"
    )


def _weights_sha256(folder: Path) -> str | None:
    return sha256(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else None


def _settings_of(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise FileError(f"{file} is damaged ({error}); copy it again, or train again") from error


def mark_unfinished(folder: str | Path, unfinished: bool) -> None:
    """Mark a folder of models as in the making, or take the mark away."""
    if unfinished:
        write_whole(Path(folder) / UNFINISHED, "")
    else:
        (Path(folder) / UNFINISHED).unlink(missing_ok=True)


def is_unfinished(folder: str | Path) -> bool:
    """True if the training that writes its best model here has begun and not come to its end."""
    return (Path(folder) / UNFINISHED).is_file()
