"""`python -m scripts quantise`: a trained network in 8-bit integers for OpenVINO, which `label --fast` uses."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.transforms import ResizeWithPadOrCrop
from torch import Tensor

from ..bundle.launch import BUNDLE_ROOT, config_paths
from ..bundle.model_file import load_weights, trained_settings
from ..data.datalist import select
from ..networks.exported.openvino_network import quantise
from ..weights import SETTINGS, WEIGHTS

QUANTISED = "model.xml"
"""File beside `model.pt`; a `model.bin` lies beside it."""
SLICES = 100
"""Slices that are enough to find the ranges of the activations."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add(
        "scans",
        type=Path,
        metavar="SCANS",
        help=f"scans as it was trained on, a folder or a datalist; {SLICES} slices count",
    )
    add("--overwrite", action="store_true", help="replace the result of an earlier call, or the shipped one")
    add("--ckpt_dir", type=Path, default=BUNDLE_ROOT / "models", metavar="DIR", help="folder of network and result")


def run(args: argparse.Namespace) -> int:
    """Quantise the network of a folder, and say what was written."""
    if (args.ckpt_dir / QUANTISED).is_file() and not args.overwrite:
        raise ValueError(
            f"{args.ckpt_dir / QUANTISED} is there already; give --overwrite to replace it, or another --ckpt_dir"
        )
    if args.scans.suffix == ".json":
        entries = select(str(args.scans), "training")
    else:
        entries = inference_parser(args.ckpt_dir, input_dir=str(args.scans)).get_parsed_content("dataset#data")
    path = quantise_folder(args.ckpt_dir, [str(entry["image"]) for entry in entries])
    print(f"written: {path} and {path.with_suffix('.bin')}; use it with label --fast --ckpt_dir {args.ckpt_dir}")
    return 0


def quantise_folder(folder: Path, scans: Sequence[str], **more: Any) -> Path:
    """Write `model.xml` and `model.bin` beside `model.pt`.

    Args:
        folder: of the network.
        scans: files of scans as it was trained on.
        more: overrides of `inference.yaml`.

    Raises:
        ValueError: the folder has no network, there are no scans, or a package is missing.
    """
    if trained_settings(folder) is None or not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} must hold {WEIGHTS} and {SETTINGS} of a training of stage 2")
    if not scans:
        raise ValueError("there are no scans to calibrate with")
    parser = inference_parser(folder, **more)
    network = parser.get_parsed_content("network_def").eval()
    load_weights(folder / WEIGHTS, [network])
    statistics = parser.get_parsed_content("statistics") if parser.get_parsed_content("norm") == "batch" else "running"
    quantise(network, folder / QUANTISED, volumes(parser, scans), folder / WEIGHTS, statistics)
    return folder / QUANTISED


def inference_parser(folder: Path, **more: Any) -> ConfigParser:
    """The inference of a folder's network, on the CPU."""
    parser = ConfigParser()
    parser.read_config(config_paths(["inference.yaml"]))
    parser.update({"bundle_root": str(BUNDLE_ROOT), "ckpt_dir": str(folder), "device": "cpu", **more})
    return parser


def volumes(parser: ConfigParser, scans: Sequence[str]) -> Iterator[Tensor]:
    """(S, 1, H, W) slices of some scans, evenly chosen, `SLICES` or a few more; H and W are the network's window."""
    preprocessing, size = parser.get_parsed_content("preprocessing"), parser.get_parsed_content("image_size")
    window = ResizeWithPadOrCrop([*size, -1])
    count = 0
    for scan in spread(scans):
        volume = window(preprocessing({"image": scan})["image"]).as_tensor()  # (1, H, W, S)
        yield volume.permute(3, 0, 1, 2)
        count += volume.shape[-1]
        if count >= SLICES:
            break


def spread(scans: Sequence[str]) -> list[str]:
    """All scans, in an order in which the first few come from all over the list."""
    steps = [range(start, len(scans), 8) for start in (0, 4, 2, 6, 1, 5, 3, 7)]
    return [scans[i] for step in steps for i in step]
