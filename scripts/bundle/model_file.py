"""Model file: weights (`model.pt`) and training settings (`model.json`), a pair by the checksum in the settings."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..files import FileError, whole_file
from ..labels import ClassTable
from ..weights import SETTINGS, WEIGHTS, model_settings, write_model_files
from .command_line import running_workflow

OF_A_NETWORK, OF_A_GRID = ("channels", "norm"), ("image_size", "pixel_mm")
"""Settings in which weights to start from have to agree with the run, and should."""


def save_atomically(state: Any, path: Path) -> None:
    """Atomic `torch.save`, see `scripts.files.whole_file`."""
    with whole_file(path) as file:
        torch.save(state, file)


def load_tensors(path: Path, advice: str) -> Any:
    """Load tensors and plain values on the CPU (`weights_only`, so that no code of the file runs).

    Raises:
        FileError: the file is damaged or holds other objects; the message ends with `advice`, what the user can do.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of several kinds
        raise FileError(f"{path} cannot be read, it is damaged or holds more than weights; {advice}") from error


def write_model(network: torch.nn.Module, folder: str | Path, settings: dict[str, Any]) -> None:
    """Write the state dict and its settings (network, grid, classes; callables are called now) as a pair."""
    settings = {name: value() if callable(value) else value for name, value in settings.items()}
    content = io.BytesIO()
    torch.save({name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}, content)
    write_model_files(folder, content.getvalue(), settings)


def load_weights(path: str | Path | None, networks: Sequence[torch.nn.Module]) -> None:
    """Warm start: load a file of `write_model` into every network; nothing if there is no path.

    Raises:
        ValueError: the file is missing, of another network than the run's, or not the one that the settings beside it
            are of. A grid other than the run's is warned of.
    """
    if not path:
        return
    if not Path(path).is_file():
        raise ValueError(f"there are no weights {path}; correct --warm_start or leave it out")
    if Path(path).name == WEIGHTS:
        _compare_with_run(Path(path), model_settings(Path(path).parent) or {})
    state = load_tensors(Path(path), "name the weights that training wrote")
    for network in networks:
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"the weights {path} are of another network (channels, norm or classes differ)") from error


def _compare_with_run(path: Path, trained: Mapping[str, Any]) -> None:
    """Compare the settings beside weights with those of the running workflow; name the keys that would mend it."""
    workflow = running_workflow()
    if workflow is None:
        return
    for keys, refuse in ((OF_A_NETWORK, True), (OF_A_GRID, False)):
        known = [key for key in keys if key in trained and key in workflow.parser.config]
        others = {key: now for key in known if (now := workflow.parser.get_parsed_content(key)) != trained[key]}
        if not others:
            continue
        differ = "; ".join(f"{key} {trained[key]} (this run: {now})" for key, now in others.items())
        mend = " ".join(f'--{key} "{trained[key]}"' for key in others).replace(", ", ",")
        if refuse:
            raise ValueError(f"the weights {path} are of another network: {differ}; add {mend}")
        logging.getLogger(__name__).warning(
            "the weights %s were trained on another grid: %s; add %s", path, differ, mend
        )


def check_weights(path: str | Path) -> None:
    """Refuse a file that holds no weights, see :func:`load_tensors`."""
    load_tensors(Path(path), "copy it again, or train again")


def trained_settings(folder: str | Path, class_table: str | Path | None = None, **defaults: Any) -> dict[str, Any]:
    """Training settings of the weights in `folder`, with `defaults` for missing ones.

    Raises:
        ValueError: the files are damaged or no pair, or the weights belong to other classes than the class table's.
    """
    found = model_settings(folder)
    if found is None:
        return defaults
    settings = {**defaults, **found}
    names = list(ClassTable.load(class_table).names)
    trained = settings.get("classes", settings.get("class_names", names))  # the latter in a stage-1 checkpoint
    if trained != names:
        raise ValueError(
            f"{Path(folder) / SETTINGS} was trained for the classes {', '.join(trained)}, the class table has "
            f"{', '.join(names)}; use the class table it was trained with, or train again"
        )
    return settings
