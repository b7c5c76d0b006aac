"""How long a training will take, from a few steps that are timed before it: an estimate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from ..bundle.launch import BUNDLE_ROOT, config_paths
from ..ops.precision import autocast

STEPS, SECONDS = 3, 6.0
"""Timed of each kind, behind one that is not; no further one is begun after so many seconds."""
SLICES = 12
"""Of a volume, for the time of validation and of rounds of pseudo-labels."""
BLOCK = 4
"""Side in pixels of the blocks of one class in a drawn label."""


def composed(configs: Sequence[str], settings: Mapping[str, Any]) -> ConfigParser:
    """The configuration of a run, nothing of it built yet."""
    parser = ConfigParser()
    parser.read_config(config_paths(configs))
    parser.update({"bundle_root": str(BUNDLE_ROOT), **settings})
    return parser


def pretraining_seconds(configs: Sequence[str], settings: Mapping[str, Any]) -> tuple[int, float]:
    """Steps of stage 1, and seconds of all."""
    parser = composed(configs, settings)
    steps = parser.get_parsed_content("max_epochs") * parser.get_parsed_content("iters_per_epoch")
    return steps, steps * _step_seconds(parser, _stream(parser, "batch_size"), None, 0.0)


def training_seconds(
    configs: Sequence[str], settings: Mapping[str, Any], unlabelled: int, validation: int
) -> tuple[int, float]:
    """Steps of stage 2, and seconds of all, with its validations and rounds of pseudo-labels.

    Args:
        configs: config files, relative to `configs/`.
        settings: key -> value.
        unlabelled: number of unlabelled volumes.
        validation: number of volumes to validate on.
    """
    # what the data sets would tell is not read; a step behind the first round asks for none of it
    parser = composed(configs, {**settings, "fuse#chain": "$None"})
    epochs, length, interval = (
        parser.get_parsed_content(key) for key in ("max_epochs", "iters_per_epoch", "val_interval")
    )
    rounds = len(parser.get_parsed_content("pseudo_labels#epochs"))
    labelled, other = _stream(parser, "batch_size"), _stream(parser, "unlabelled_batch_size")
    other["pseudo_label"] = other.pop("label")
    begins = parser.get_parsed_content("ramp#start") if unlabelled else 1.0
    seconds = begins * _step_seconds(parser, labelled, None, 0.0)
    if unlabelled:
        seconds += (1 - begins) * _step_seconds(parser, labelled, other, 1.0)
    network = parser.get_parsed_content("network").eval()
    image = torch.randn(SLICES, 1, *parser.get_parsed_content("image_size"), device=_device(parser))
    with torch.no_grad():
        volume = _seconds(lambda: network(image), image.device)
    views = 2 * parser.get_parsed_content("pseudo_labels#inferer#shifts_per_side") + 1
    volumes = validation * (epochs // interval) + unlabelled * (rounds * views + 1)
    return epochs * length, epochs * length * seconds + volumes * volume


def _step_seconds(
    parser: ConfigParser, labelled: dict[str, Tensor], unlabelled: dict[str, Tensor] | None, progress: float
) -> float:
    """Seconds of an optimiser step on drawn slices, augmentation included."""
    method, augment = (parser.get_parsed_content(key) for key in ("method", "augmentation"))
    optimizer, device, amp = (parser.get_parsed_content(key) for key in ("optimizer", "device", "amp"))

    def step() -> None:
        batch = augment({"labelled": dict(labelled), "unlabelled": unlabelled and dict(unlabelled)}, 1)
        with autocast(torch.device(device), amp):
            loss = method(batch, progress)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return _seconds(step, torch.device(device))


def _seconds(action: Callable[[], Any], device: torch.device) -> float:
    action()
    begin, done, passed = time.perf_counter(), 0, 0.0
    while done < STEPS and passed < SECONDS:
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        done, passed = done + 1, time.perf_counter() - begin
    return passed / done


def _stream(parser: ConfigParser, size_key: str) -> dict[str, Tensor]:
    """Drawn slices (B, 1, H, W) with labels in blocks, on the device."""
    size, classes = parser.get_parsed_content(size_key), parser.get_parsed_content("num_classes")
    height, width = parser.get_parsed_content("image_size")
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(classes, (size, 1, -(-height // BLOCK), -(-width // BLOCK)), generator=generator)
    label = coarse.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)[:, :, :height, :width].to(torch.uint8)
    stream = {
        "image": torch.randn(size, 1, height, width, generator=generator),
        "label": label,
        "is_unlabelled": torch.zeros(size, classes, dtype=torch.bool),
    }
    return {key: tensor.to(_device(parser)) for key, tensor in stream.items()}


def _device(parser: ConfigParser) -> torch.device:
    return torch.device(parser.get_parsed_content("device"))
