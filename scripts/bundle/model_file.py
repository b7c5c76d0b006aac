"""`models/model.pt` and `models/model.json`: the weights that inference runs and the settings of their training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..files import FileError, whole_file, write_whole
from ..labels import ClassTable

WEIGHTS, SETTINGS = "model.pt", "model.json"


def save_atomically(state: Any, path: Path) -> None:
    """`torch.save` to a file that is the old one or the new one, whatever happens.

    Raises:
        StorageError: it cannot be written, see `scripts.files.whole_file`.
    """
    with whole_file(path) as file:
        torch.save(state, file)


def load_tensors(path: Path, mend: str) -> Any:
    """What `save_atomically` wrote, on the CPU; tensors and plain values alone: no file can run code here.

    Args:
        path: the file.
        mend: what the user can do if it cannot be read; ends the sentence.

    Raises:
        FileError: it is damaged, or holds something else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of several kinds
        raise FileError(f"{path} cannot be read, it is damaged or holds more than weights; {mend}") from error


def write_model(network: torch.nn.Module, folder: str | Path, settings: dict[str, Any]) -> None:
    """Write the settings (network, grid, classes) and a flat state dict; each file is the old one or the new one.

    A setting that is a function is what the function returns: what is known only once training has begun.
    """
    settings = {name: value() if callable(value) else value for name, value in settings.items()}
    folder = Path(folder)
    write_whole(folder / SETTINGS, json.dumps(settings, indent=1) + "\n")
    save_atomically({name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}, folder / WEIGHTS)


def load_weights(path: str | Path | None, networks: Sequence[torch.nn.Module]) -> None:
    """Give every network the weights of a file that `write_model` wrote; no path leaves them as they are.

    Raises:
        ValueError: the file is missing or belongs to another network.
    """
    if not path:
        return
    if not Path(path).is_file():
        raise ValueError(f"there are no weights {path}; correct --warm_start or leave it out")
    state = load_tensors(Path(path), "name the weights that training wrote")
    for network in networks:
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"the weights {path} are of another network (channels, norm or classes differ)") from error


def check_weights(path: str | Path) -> None:
    """Refuse a file that holds no weights, see :func:`load_tensors`."""
    load_tensors(Path(path), "copy it again, or train again")


def trained_settings(folder: str | Path, class_table: str | Path | None = None, **defaults: Any) -> dict[str, Any]:
    """Settings that the weights in `folder` were trained with; `defaults` where there are none yet.

    Raises:
        ValueError: the file is damaged, or the weights belong to other classes than the class table's.
    """
    file = Path(folder) / SETTINGS
    if not file.is_file():
        return defaults
    try:
        settings = {**defaults, **json.loads(file.read_text(encoding="utf-8"))}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); copy it again, or train again") from error
    names = list(ClassTable.load(class_table).names)
    trained = settings.get("classes", settings.get("class_names", names))  # the latter in a stage-1 checkpoint
    if trained != names:
        raise ValueError(
            f"{file} was trained for the classes {', '.join(trained)}, the class table has "
            f"{', '.join(names)}; use the class table it was trained with, or train again"
        )
    return settings
