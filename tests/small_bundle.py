"""A bundle of one config file, run through `monai.bundle.run` in this process, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import yaml

from scripts.data.datalist import DataError

CONFIG: dict[str, Any] = {
    "datalist": "",
    "max_epochs": 3,
    "resume": False,
    "train": {"data": [{"image": "a.nii.gz"}], "handlers": [{"interval": 1}]},
    "training": [
        {
            "_target_": "scripts.runs.start",
            "output_dir": "@output_dir",
            "datalist": "@datalist",
            "data": "train#data",
            "cache_dir": "@output_dir",
        },
        "$print('trained for', @max_epochs)",
    ],
}


def write_config(folder: Path) -> str:
    """Write `CONFIG`, with one key that lies deeper than its file says, and return its path."""
    path = folder / "train.yaml"
    content = {**CONFIG, "output_dir": str(folder / "run"), "train#limit": 2}
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
