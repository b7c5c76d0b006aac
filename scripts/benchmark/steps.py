"""A training step of the bundle against a bare loop, and a step of CPS4 against one of Mean Teacher."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.utils import set_determinism

from ..bundle_runs import BUNDLE_ROOT
from ..engines import to_device
from ..ops.ema import update_ema_, warmup_decay
from ..ops.otsu import otsu_thresholds
from ..ops.prompt_map import upsample
from .pairs import Goal, Pairs, in_turns, now

PATCH = 4
"""Pixels that a patch of the drawn attention maps covers, as with the encoders of `offline_encoders.yaml`."""
MAPS = ("attention_maps", "thresholds")
WARM_UP = 3
ENGINE = Goal(
    "stage-2 step, MONAI trainer with all its handlers",
    1.10,
    "a bare loop of the same step: augmentation, losses, optimiser, EMA",
)
MEAN_TEACHER = Goal("CPS4 step with kept attention maps", 1.10, "a Mean Teacher step, same networks and augmentation")


@dataclass(frozen=True)
class Sizes:
    """Sizes and place of the steps: files of `configs/` behind train.yaml, and overrides."""

    overlays: Sequence[str]
    overrides: dict[str, Any]
    output_dir: Path
    seed: int = 0

    def graph(self, *method: str, **more: Any) -> ConfigParser:
        """The composed config, its unlabelled terms at full weight from the first step; same seed, same networks."""
        files = [str(BUNDLE_ROOT / "configs" / file) for file in ("train.yaml", *method, *self.overlays)]
        parser = ConfigParser()
        parser.read_config(files)
        paths = {"output_dir": str(self.output_dir), "ckpt_dir": str(self.output_dir / "models")}
        # In float32 on every device: mixed precision is the engine's doing, and the bare loop has none.
        fixed = {
            "bundle_root": str(BUNDLE_ROOT),
            "seed": self.seed,
            "amp": False,
            "ramp#start": 0.0,
            "ramp#length": 0.0,
        }
        parser.update({**fixed, **paths, **self.overrides, **more})
        set_determinism(seed=self.seed)
        parser.get_parsed_content("method")  # draws the weights, before another graph draws its own
        return parser


def engine_row(sizes: Sizes, pairs: int) -> dict[str, Any]:
    """Row: the configured trainer with all its handlers against a bare loop of the same objects.

    Both start from the same weights and see the same batches.

    Raises:
        RuntimeError: the two did not compute the same.
    """
    loop = sizes.graph()
    batch, bare = drawn_batch(loop), bare_step(loop)
    feed = TakingTurns(batch, lambda: bare(batch), loop.get_parsed_content("device").type)
    steps = {"max_epochs": 1, "iters_per_epoch": WARM_UP + pairs + 1}  # the last step is followed by no question
    bundle = sizes.graph(**steps, **{"train#dataloader": feed})
    losses: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MONAI and ignite, about a schedule that ends after one epoch
        trainer = bundle.get_parsed_content("train#trainer")
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED(once=2), lambda engine: losses.append(float(engine.state.output["loss"]))
        )
        trainer.run()
    if abs(losses[0] - feed.losses[1]) > 1e-3:
        raise RuntimeError(f"the engine's second loss must be that of the loop, {feed.losses[1]}, got {losses[0]}")
    return ENGINE.row(feed.times[WARM_UP:], **described(bundle))


def method_row(sizes: Sizes, pairs: int) -> dict[str, Any]:
    """Row: CPS4 with kept maps against Mean Teacher, both in the bare loop."""
    cps4, mean_teacher = sizes.graph(), sizes.graph("methods/mean_teacher.yaml")
    with_maps = drawn_batch(cps4)
    plain = {name: {k: v for k, v in s.items() if k not in MAPS} for name, s in with_maps.items()}
    ours, reference = bare_step(cps4), bare_step(mean_teacher)
    device = cps4.get_parsed_content("device").type
    times = in_turns(lambda: ours(with_maps), lambda: reference(plain), pairs, WARM_UP, device)
    return MEAN_TEACHER.row(times, **described(cps4))


class TakingTurns:
    """A loader that repeats one batch and, before the engine gets it again, lets the reference take its step.

    The engine's time runs from handing a batch over until the next one is asked for: step, events and handlers.

    Attributes:
        times: (engine, reference) seconds of every step but the last.
        losses: what the reference returned.
    """

    def __init__(self, batch: dict[str, Any], reference: Callable[[], Any], device: str) -> None:
        self.batch, self.reference, self.device = batch, reference, device
        self.times: Pairs = []
        self.losses: list[float] = []

    def start_at(self, step: int) -> None:
        """Nothing to do: every step has the same batch."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            begin = now(self.device)
            loss = self.reference()
            middle = now(self.device)
            yield self.batch
            self.times.append((now(self.device) - middle, middle - begin))
            self.losses.append(float(loss))


def bare_step(parser: ConfigParser) -> Callable[[dict[str, Any]], torch.Tensor]:
    """One optimisation step as a script without an engine would write it, on the objects of a config."""
    student, objective, optimizer = (parser.get_parsed_content(k) for k in ("network", "method", "optimizer"))
    teacher, augment, device = (parser.get_parsed_content(k) for k in ("teacher", "augmentation", "device"))
    decay, buffers = parser.get_parsed_content("ema_decay"), parser.get_parsed_content("teacher_buffers")
    steps = 0

    def step(batch: dict[str, Any]) -> torch.Tensor:
        nonlocal steps
        steps += 1
        student.train()
        loss = objective(augment(to_device(batch, device), steps), 0.5)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        update_ema_(teacher, student, warmup_decay(steps, decay), buffers)
        return loss.detach()

    return step


def drawn_batch(parser: ConfigParser) -> dict[str, dict[str, torch.Tensor]]:
    """A labelled and an unlabelled stream of the config's sizes, drawn at random; maps sum to 1 over the classes."""
    generator = torch.Generator().manual_seed(parser.get_parsed_content("seed"))
    height, width = parser.get_parsed_content("image_size")
    classes = parser.get_parsed_content("num_classes")
    grid = (height // PATCH, width // PATCH)

    def stream(size: int) -> dict[str, torch.Tensor]:
        image = torch.randn(size, 1, height, width, generator=generator)
        return {"image": image, "is_unlabelled": torch.zeros(size, classes, dtype=torch.bool)}

    labelled = stream(parser.get_parsed_content("batch_size"))
    coarse = torch.randint(classes, (len(labelled["image"]), 1, *grid), generator=generator).to(torch.uint8)
    labelled["label"] = coarse.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)  # (B, 1, H, W)
    unlabelled = stream(parser.get_parsed_content("unlabelled_batch_size"))
    maps = (3 * torch.randn(len(unlabelled["image"]), classes, *grid, generator=generator)).softmax(1)
    unlabelled.update(attention_maps=maps, thresholds=otsu_thresholds(upsample(maps, (height, width))))
    return {"labelled": labelled, "unlabelled": unlabelled}


def described(parser: ConfigParser) -> dict[str, Any]:
    """What a step's time depends on."""
    values = {
        k: parser.get_parsed_content(k) for k in ("image_size", "channels", "batch_size", "unlabelled_batch_size")
    }
    return {**values, "fuse": parser["fuse#kind"], "device": str(parser.get_parsed_content("device"))}
