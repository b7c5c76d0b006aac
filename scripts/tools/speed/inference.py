"""Inference of a whole volume against MONAI's components slice by slice; level decoding against the network."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ...phantom.write import write_phantoms
from .labelling import Labelling, PlainLabelling
from .pairs import Goal, in_turns, missing, seconds
from .training import Sizes, bare_step

METHOD = "methods/supervised.yaml"
WHOLE = Goal(
    "inference of a volume with slices of {shape}, from its file to the label map in its grid, model loaded",
    1 / 3,
    "the same transforms, MONAI's SliceInferer with batch 1, float32, default layout, Invertd and AsDiscreted",
)
DECODED = Goal("the same with level names decoded (the default)", None, WHOLE.reference + "; nothing decoded")
DECODING = Goal("level decoding of this volume", 0.1, "the network's own time on it")
TIMES = 3
"""Measurements of each part of a profile."""


@dataclass(frozen=True)
class Setting:
    """Scan and network.

    Attributes:
        shape: (H, W) of the scan's slices.
        pixel_mm: size of a pixel.
        model: folder `models` of a run; None trains a network briefly, since random weights label noise.
        steps: of this training.
        overrides: of its config.
    """

    shape: tuple[int, int]
    pixel_mm: float
    model: Path | None
    steps: int
    overrides: dict[str, Any] = field(default_factory=dict)

    def network(self, sizes: Sizes, datalist: Path, work: Path) -> Path:
        """Folder with `model.pt` and its settings: the given one, or that of a short training on one volume."""
        if self.model:
            return self.model
        parser = Sizes((), self.overrides, work, sizes.seed, sizes.device).graph(
            METHOD, datalist=str(datalist), cache_dir=str(work / "cache"), batch_size=4, statistics="running"
        )
        step, feed = bare_step(parser), iter(parser.get_parsed_content("train#dataloader"))
        for _ in range(self.steps):
            step(next(feed))
        parser.get_parsed_content("model_writer")()
        return work / "models"


def inference_rows(sizes: Sizes, setting: Setting, work: Path, pairs: int) -> Iterator[dict[str, Any]]:
    """Rows: inference without and with level decoding, and the decoding alone.

    Args:
        sizes: device and seed.
        setting: scan and network.
        work: folder of phantom and network.
        pairs: measurements of each.

    Raises:
        RuntimeError: more than one voxel of 10,000 has another label.
    """
    whole = replace(WHOLE, name=WHOLE.name.format(shape="x".join(map(str, setting.shape))))
    goals = [goal.on(sizes.device) for goal in (whole, DECODED, DECODING)]
    if reason := missing(sizes.device):
        yield from (goal.not_measured(reason) for goal in goals)
        return
    drawing: dict[str, Any] = {"shape_hw": setting.shape, "pixel_mm": setting.pixel_mm}
    datalist = write_phantoms(work / "scan", labelled=1, unlabelled=0, validation=0, test=1, seed=sizes.seed, **drawing)
    scan, folder = str(datalist.parent / "images" / "phantom_0001.nii.gz"), setting.network(sizes, datalist, work)
    device = f"$torch.device({sizes.device!r})"
    # a window as wide as the scan: MONAI's inferer does not look for the spine
    columns = f"16 * -(-round({setting.shape[1] * setting.pixel_mm} / @pixel_mm + 1) // 16)"
    window = f"$[@image_size[0], max(@image_size[1], {columns})]"
    how = {"device": device, "amp": False, "inferer#roi_size": window}
    ours = Labelling("PyTorch", "running", folder, scan, levels="raw", **how)
    decoded = Labelling("PyTorch", "running", folder, scan, **how)
    plain = PlainLabelling(Labelling("PyTorch", "running", folder, scan, levels="raw", **how))
    ours.label()
    label, reference = ours.evaluator.state.output[0]["pred"].as_tensor().cpu(), plain.label().cpu()
    differs = (label != reference).float().mean().item()
    if differs > 1e-4:
        raise RuntimeError(f"the two must give the same labels, {differs:.3%} of the pixels differ")
    rest = {
        "device": sizes.device, "channels": ours.parser.get_parsed_content("channels"),
        "slices": ours.slices.shape[-1], "labels_differ": differs,
    }  # fmt: skip
    times = in_turns(ours.label, plain.label, pairs, 1, sizes.device)
    yield goals[0].row(times, **rest, profile=profile(ours, plain, sizes.device))
    yield goals[1].row(in_turns(decoded.label, plain.label, pairs, 1, sizes.device), **rest)
    probs = ours.network()[0].softmax(0).movedim(-1, 0)
    (order,) = decoded.inferer.orders
    yield goals[2].row(in_turns(lambda: order(probs), ours.network, pairs, 1, sizes.device), **rest)


def profile(ours: Labelling, plain: PlainLabelling, device: str) -> dict[str, float]:
    """Milliseconds of the parts of both, and the network's throughput beside that of a matrix product."""
    data = plain.read()
    logits = plain.network(data["image"])

    def ms(action: Callable[[], Any]) -> float:
        return round(1000 * statistics.median(seconds(action, device) for _ in range(TIMES)), 1)

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ours.network()
    reading, network, whole = ms(plain.read), ms(ours.network), ms(ours.label)
    return {
        "reading_and_transforms_ms": reading,
        "network_ms": network,
        "reference_network_ms": ms(lambda: plain.network(data["image"])),
        "way_back_ms": round(whole - network - reading, 1),
        "reference_way_back_ms": ms(lambda: plain.back(data, logits)),
        "network_gflop_per_s": round(counter.get_total_flops() / network / 1e6, 1),
        "matrix_product_gflop_per_s": round(matrix_product(device) / 1e9, 1),
    }


def matrix_product(device: str, side: int = 2048) -> float:
    """Floating-point operations a second of a product of square float32 matrices: the device's practical peak."""
    a = torch.randn(side, side, device=device)
    torch.mm(a, a)
    return 2 * side**3 / min(seconds(lambda: torch.mm(a, a), device) for _ in range(TIMES))
