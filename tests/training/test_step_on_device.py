"""A training step on PyTorch's meta device, whose tensors hold no values: whatever a GPU would wait for is an error."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scripts.data.augmentation import BatchAugmentation
from scripts.training.step import OptimizationStep
from tests.overlays import CONFIGS, methods_on

CLASSES, HEIGHT, WIDTH, BATCH = 20, 64, 32, 2
FEW = 300
"""Numbers that augmentation may draw on the host for a stream of two slices."""


class Dispatched(TorchDispatchMode):
    """Counts the operations that are dispatched, and keeps the sizes of what goes from the host to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.moved = 0, list[int]()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operation(*args, **(kwargs or {}))
        self.operations += 1
        if isinstance(out, Tensor) and out.device.type == "meta":
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            if any(of.device.type == "cpu" and of.ndim for of in given):  # a number without a dimension is a constant
                self.moved.append(out.numel())
        return out


@pytest.fixture(autouse=True)
def meta_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU has and the meta device has not: random numbers by a generator of its own, and mixed precision."""
    noise = lambda self, image, generator: torch.randn(image.shape, device=image.device)  # noqa: E731
    monkeypatch.setattr(BatchAugmentation, "_normal", noise)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())


def batch(pseudo_labels: bool) -> dict[str, Any]:
    image = torch.zeros(BATCH, 1, HEIGHT, WIDTH)
    shared = {"image": image, "is_unlabelled": torch.zeros(BATCH, CLASSES, dtype=torch.bool)}
    label = torch.zeros(BATCH, 1, HEIGHT, WIDTH, dtype=torch.uint8)
    maps = torch.zeros(BATCH, CLASSES, HEIGHT // 4, WIDTH // 4, dtype=torch.float16)
    unlabelled = shared | {"attention_maps": maps, "thresholds": torch.zeros(BATCH, CLASSES)}
    return {
        "labelled": shared | {"label": label},
        "unlabelled": shared | {"pseudo_label": label} if pseudo_labels else unlabelled,
    }


def counted(overlay: Path | None, pseudo_labels: bool = False) -> tuple[Dispatched, dict[str, Any]]:
    """A step of a method in the middle of its training; the first one has made what later ones find."""
    parser = ConfigParser()
    parser.read_config([CONFIGS / "train.yaml", *([overlay] if overlay else []), CONFIGS / "narrow.yaml"])
    parser.update({"device": "meta", "amp": False, "fuse#chain": torch.arange(1, CLASSES)})
    method, optimizer = parser.get_parsed_content("method"), parser.get_parsed_content("optimizer")
    step = OptimizationStep(method, optimizer, parser.get_parsed_content("augmentation"))
    state = SimpleNamespace(device=torch.device("meta"), iteration=901, epoch_length=100, max_epochs=10, epoch=10)
    network = parser.get_parsed_content("network")
    engine: Any = SimpleNamespace(state=state, network=network, non_blocking=True, amp=False, scaler=None)
    given = batch(pseudo_labels)
    step(engine, given)
    with Dispatched() as found:
        step(engine, given)
    return found, given


def tensors(given: dict[str, Any]) -> list[int]:
    return [of.numel() for of in tree_leaves(given) if isinstance(of, Tensor)]


LOOKS_AT_VALUES = ("ss_net",)
"""Methods that choose pixels by their values, which a device has to be asked for."""


@pytest.mark.parametrize("overlay", [None, *methods_on("train")], ids=lambda o: o.stem if o else "cps4")
def test_a_step_waits_for_nothing_and_moves_the_batch_and_a_few_numbers(overlay: Path | None) -> None:
    if overlay and overlay.stem in LOOKS_AT_VALUES:
        with pytest.raises(NotImplementedError, match="nonzero"):
            counted(overlay)
        return
    found, given = counted(overlay)
    left = sorted(found.moved)
    for size in tensors(given):
        left.remove(size)
    assert sum(left) <= 2 * FEW
    assert max(left) < HEIGHT * WIDTH


def test_with_pseudo_labels_of_a_round() -> None:
    found, given = counted(None, pseudo_labels=True)
    assert sum(found.moved) - sum(tensors(given)) <= 2 * FEW


def test_number_of_operations() -> None:
    """Each is launched from Python: on a GPU they, not the arithmetic, are the time of a narrow network's step."""
    assert counted(CONFIGS / "methods" / "supervised.yaml")[0].operations <= 1850
    assert counted(None, pseudo_labels=True)[0].operations <= 2600


def test_what_is_counted() -> None:
    """A copy is seen with its size, a look at a value is an error."""
    with Dispatched() as found:
        made = torch.zeros(3, 5).to("meta") + 1
    assert found.moved == [15]
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(made.sum() > 0)
