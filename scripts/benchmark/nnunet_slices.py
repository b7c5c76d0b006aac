"""The slices that our networks see, as the raw dataset of another program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from ..bundle_runs import BUNDLE_ROOT
from ..data.cache import VolumeDataset
from ..data.check import check_datalist
from ..data.datalist import load_datalist
from ..data.nnunet import write_raw_dataset
from ..data.problems import raise_problems
from ..model_file import write_model
from .subsets import Cell


def write_slices(
    folder: Path, cell: Cell, sections: Sequence[str], overlays: Sequence[str], image_size: Sequence[int], cache: Path
) -> Path:
    """Write nnU-Net's raw dataset of a cell, and `slices/model.json`, by which our inference finds the same grid.

    Training slices are those of train.yaml, out of its cache; scans to predict are cut as inference.yaml does.

    Args:
        folder: of the row; gets `nnUNet_raw` and `slices`.
        cell: its training patients are written with labels.
        sections: of its datalist that are to be predicted; they are written without labels.
        overlays: config files behind train.yaml.
        image_size: (H, W) of the slices.
        cache: folder of the slice cache.

    Returns:
        The dataset's folder.

    Raises:
        DataError: problems in the data.
    """
    raise_problems(check_datalist(cell.datalist, sections=("training", *sections), cache_folder=cache))
    train = _graph(["train.yaml", *overlays], datalist=str(cell.datalist), cache_dir=str(cache), image_size=image_size)
    names = [str(name) for name in train.get_parsed_content("class_names")]
    slices = train.get_parsed_content("train#dataset")
    pixel_mm = float(train.get_parsed_content("pixel_mm"))
    settings = {
        "classes": names, "network": "nnunet", "image_size": image_size, "pixel_mm": pixel_mm,
        "labelled_classes": slices.labelled_classes(),
    }  # fmt: skip
    write_model(torch.nn.Identity(), folder / "slices", settings)
    preprocessing = _graph(["inference.yaml"], ckpt_dir=str(folder / "slices")).get_parsed_content("preprocessing")
    volumes = VolumeDataset(slices.data, slices.cache, len(names))

    def labelled() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for entry, item in zip(volumes.data, (volumes[i] for i in range(len(volumes))), strict=True):
            yield entry["case"], item["image"][:, 0].numpy(), item["label"][:, 0].numpy()

    def others() -> Iterator[tuple[str, np.ndarray]]:
        for entry in entries_of(cell, sections):
            image = preprocessing({"image": entry["image"]})["image"]  # (1, H, W, S)
            yield entry["case"], np.moveaxis(np.asarray(image)[0], -1, 0)

    return write_raw_dataset(folder / "nnUNet_raw", names, labelled(), others(), pixel_mm)


def entries_of(cell: Cell, sections: Sequence[str]) -> list[dict[str, Any]]:
    """The entries of some sections of a cell's datalist, one section after the other."""
    whole = load_datalist(cell.datalist).sections
    return [entry for section in sections for entry in whole.get(section, [])]


def _graph(files: list[str], **overrides: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(BUNDLE_ROOT / "configs" / file) for file in files])
    parser.update({"bundle_root": str(BUNDLE_ROOT), **overrides})
    return parser
