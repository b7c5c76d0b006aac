"""`models/model.pt` and `models/model.json`: the weights that inference runs, and the settings they were trained with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from .labels import ClassTable

WEIGHTS, SETTINGS = "model.pt", "model.json"


def write_model(network: torch.nn.Module, folder: str | Path, settings: dict[str, Any]) -> None:
    """Write a flat state dict and beside it the settings (network, grid, classes, which network it was).

    Both are written to temporary files and renamed, the weights last.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    torch.save(state, folder / f".{WEIGHTS}")
    (folder / f".{SETTINGS}").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    os.replace(folder / f".{SETTINGS}", folder / SETTINGS)
    os.replace(folder / f".{WEIGHTS}", folder / WEIGHTS)


def trained_settings(folder: str | Path, **defaults: Any) -> dict[str, Any]:
    """Settings that the weights in `folder` were trained with; `defaults` where there are none yet.

    Raises:
        ValueError: the weights belong to other classes than the class table's.
    """
    file = Path(folder) / SETTINGS
    if not file.is_file():
        return defaults
    settings = {**defaults, **json.loads(file.read_text(encoding="utf-8"))}
    names = list(ClassTable.load(settings.get("class_table")).names)
    if "classes" in settings and settings["classes"] != names:
        raise ValueError(
            f"{file} was trained for the classes {', '.join(settings['classes'])}, the class table has "
            f"{', '.join(names)}; use the class table it was trained with, or train again"
        )
    return settings
