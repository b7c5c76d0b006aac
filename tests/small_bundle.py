"""A bundle of one config file, run through `monai.bundle.run` in this process, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import pytest
import yaml

from scripts.data.datalist import DataError
from tests.tiny import write_volume

CONFIG: dict[str, Any] = {
    "datalist": "",
    "max_epochs": 3,
    "note": "",
    "resume": False,
    "overwrite": False,
    "train": {"data": [], "handlers": [{"interval": 1}]},
    "training": [
        {
            "_target_": "scripts.training.start.start",
            "output_dir": "@output_dir",
            "resume": "@resume",
            "datalist": "@datalist",
            "data": {"training": "train#data"},
            "cache_dir": "@output_dir",
            "overwrite": "@overwrite",
        },
        "$print('trained for', @max_epochs)",
        "$print('noted', @note)",
    ],
}


def write_config(folder: Path) -> str:
    """Write `CONFIG`, with one key that lies deeper than its file says, and return its path."""
    path = folder / "train.yaml"
    grey = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    entry = {"image": write_volume(folder / "a.nii.gz", grey), "label": write_volume(folder / "b.nii.gz", grey // 30)}
    content = {**CONFIG, "output_dir": str(folder / "run"), "train#limit": 2, "train#data": [entry]}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def cause(error: BaseException) -> BaseException:
    """What a component raised, below what MONAI wraps it in."""
    while error.__cause__ is not None and not isinstance(error, DataError):
        error = error.__cause__
    return error


def run(config: str, **overrides: Any) -> None:
    """Run the id `training`."""
    monai.bundle.run("training", config_file=config, logging_file=False, **overrides)


def refused(config: str, **overrides: Any) -> str:
    """The sentence with which the run refuses."""
    with pytest.raises(RuntimeError) as caught:  # noqa: PT011 - MONAI's words around ours; ours are compared
        run(config, **overrides)
    error = cause(caught.value)
    assert isinstance(error, DataError)
    return str(error)
