"""Training steps of both stages: the configured trainer against a bare PyTorch loop, CPS4 against Mean Teacher."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.utils import set_determinism
from torch import Tensor

from ...bundle.launch import BUNDLE_ROOT
from ...data.cache import MAPS
from ...ops.attention import region_targets, valid_area
from ...ops.ema import update_ema_, warmup_decay
from ...ops.losses import pixel_attention_loss, token_attention_loss
from ...ops.otsu import otsu_thresholds
from ...ops.prompt_map import upsample
from ...training.step import to_device
from .pairs import Goal, Pairs, in_turns, missing, now

PATCH = 4
"""Pixels of a side of a patch of the random attention maps, as with the encoders of `offline_encoders.yaml`."""
WARM_UP = 3
"""Steps before the first measured one."""
ENCODERS = "offline_encoders.yaml"
ENGINE = Goal(
    "stage-2 step, MONAI trainer with all its handlers",
    1.05,
    "a bare loop of the same step: augmentation, losses, optimiser, EMA",
)
STAGE1 = Goal(
    "stage-1 step, MONAI trainer with all its handlers",
    1.0,
    "a bare loop: same encoders and augmentation, float32, 20 prompts encoded once a step, default attention",
)
STAGE1_GPU_GOAL = 1 / 1.5
KEPT = Goal("CPS4 step with the pseudo-labels of a round", 1.05, "a Mean Teacher step, same networks and augmentation")
FUSED = Goal("CPS4 step before the first round, fused slice by slice", 1.05, KEPT.reference)
ROUND = Goal("labelling a volume of 16 slices in a round of pseudo-labels", None, "a Mean Teacher step")


@dataclass(frozen=True)
class Sizes:
    """Config of the measured steps.

    Attributes:
        overlays: files of `configs/` behind the base config.
        overrides: config values, by key.
        output_dir: folder of the run.
        seed: of weights and batches.
        device: "cpu" or "cuda".
    """

    overlays: Sequence[str]
    overrides: dict[str, Any]
    output_dir: Path
    seed: int = 0
    device: str = "cpu"

    def graph(self, *method: str, base: str = "train.yaml", **more: Any) -> ConfigParser:
        """Compose the config, without ramp-up of the unlabelled terms; the same seed gives the same initial weights."""
        files = [str(BUNDLE_ROOT / "configs" / file) for file in (base, *method, *self.overlays)]
        parser = ConfigParser()
        parser.read_config(files)
        # float32 on every device: the trainer does mixed precision, the bare loop does not
        fixed = {
            "bundle_root": str(BUNDLE_ROOT),
            "seed": self.seed,
            "amp": False,
            "device": f"$torch.device({self.device!r})",
        }
        overrides = self.overrides
        if base == "train.yaml":
            fixed |= {"ramp#start": 0.0, "ramp#length": 0.0, "ckpt_dir": str(self.output_dir / "models")}
        else:  # stage 1 has no unlabelled batch, nor channels
            overrides = {key: value for key, value in overrides.items() if key in parser}
            fixed["prompt_model_dir"] = str(self.output_dir / "prompt")
        parser.update({**fixed, "output_dir": str(self.output_dir), **overrides, **more})
        set_determinism(seed=self.seed)
        parser.get_parsed_content("method")  # initialises the weights, right behind the seed
        return parser


def engine_row(sizes: Sizes, pairs: int) -> dict[str, Any]:
    """Row: a stage-2 step of the configured trainer with its handlers against a bare loop over the same objects."""
    if reason := missing(sizes.device):
        return ENGINE.on(sizes.device).not_measured(reason)
    loop = sizes.graph()
    batch, bare = given_labels(drawn_batch(loop)), bare_step(loop)
    bundle, times = through_engine(sizes, "train.yaml", batch, lambda: bare(batch), pairs)
    return ENGINE.on(sizes.device).row(times, **described(bundle))


def stage1_row(sizes: Sizes, pairs: int) -> dict[str, Any]:
    """Row: a stage-1 step of the configured trainer against a bare loop in float32.

    On a GPU the trainer uses mixed precision, so its losses differ by more.
    """
    goal = STAGE1.on(sizes.device, STAGE1_GPU_GOAL)
    if reason := missing(sizes.device):
        return goal.not_measured(reason)
    loop = sizes.graph(ENCODERS, base="pretrain.yaml")
    batch = {"labelled": drawn_batch(loop, unlabelled=1)["labelled"], "unlabelled": None}
    reference = bare_stage1_step(loop)
    mixed = sizes.device == "cuda"
    how = {"tolerance": 0.05 if mixed else 1e-3, "amp": mixed}
    bundle, times = through_engine(sizes, "pretrain.yaml", batch, lambda: reference(batch), pairs, ENCODERS, **how)
    return goal.row(times, **described(bundle))


def through_engine(
    sizes: Sizes,
    base: str,
    batch: dict[str, Any],
    reference: Callable[[], Any],
    pairs: int,
    *overlays: str,
    tolerance: float = 1e-3,
    **more: Any,
) -> tuple[ConfigParser, Pairs]:
    """Time steps of the configured trainer, alternating with steps of a reference of the same initial weights.

    Args:
        sizes: config.
        base: train.yaml or pretrain.yaml.
        batch: the batch of every step.
        reference: takes one step and returns its loss.
        pairs: timed steps of each.
        overlays: further config files.
        tolerance: largest allowed difference of the losses of the second step.
        more: overrides of the trainer's config.

    Returns:
        The parsed config, and (trainer, reference) seconds.

    Raises:
        RuntimeError: the losses differ.
    """
    feed = TakingTurns(batch, reference, sizes.device)
    steps = {"max_epochs": 1, "iters_per_epoch": WARM_UP + pairs + 1}  # nothing is timed behind the last
    bundle = sizes.graph(*overlays, base=base, **steps, **more, **{"train#dataloader": feed})
    losses: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MONAI and ignite, about a schedule that ends after one epoch
        trainer = bundle.get_parsed_content("train#trainer")
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED(once=2), lambda engine: losses.append(float(engine.state.output["loss"]))
        )
        trainer.run()
    if abs(losses[0] - feed.losses[1]) > tolerance:
        raise RuntimeError(f"the engine's second loss must be that of the loop, {feed.losses[1]}, got {losses[0]}")
    return bundle, feed.times[WARM_UP:]


def method_rows(sizes: Sizes, pairs: int) -> Iterator[dict[str, Any]]:
    """Rows: CPS4 against Mean Teacher, both as bare loops: with pseudo-labels, before them, and making them."""
    goals = [goal.on(sizes.device) for goal in (KEPT, FUSED, ROUND)]
    if reason := missing(sizes.device):
        yield from (goal.not_measured(reason) for goal in goals)
        return
    with_maps = drawn_batch(sizes.graph())
    with_labels = given_labels(with_maps)
    plain = without(with_maps, MAPS)
    for goal, batch in ((goals[0], with_labels), (goals[1], with_maps)):
        cps4, mean_teacher = sizes.graph(), sizes.graph("methods/mean_teacher.yaml")
        ours, reference = bare_step(cps4), bare_step(mean_teacher)
        times = in_turns(partial(ours, batch), partial(reference, plain), pairs, WARM_UP, sizes.device)
        yield goal.row(times, **described(cps4))
    get, volume = cps4.get_parsed_content, drawn_batch(cps4, unlabelled=16)["unlabelled"]
    inferer, label, teacher = get("pseudo_labels#inferer"), get("pseudo_labels#label"), get("teacher")
    placed = to_device(volume, sizes.device)

    @torch.no_grad()
    def label_volume() -> None:
        teacher.eval()
        maps = upsample(placed["attention_maps"], placed["image"].shape[-2:])
        label(inferer(placed["image"], teacher).float(), maps).cpu()

    few = max(1, pairs // 4)  # each takes as long as several steps
    yield goals[2].row(in_turns(label_volume, partial(reference, plain), few, 1, sizes.device), **described(cps4))


class TakingTurns:
    """Data loader that repeats one batch, and runs a step of the reference before each.

    The trainer's time runs from one batch to its request for the next: step, events and handlers.

    Attributes:
        times: (trainer, reference) seconds of every step but the last.
        losses: of the reference.
    """

    def __init__(self, batch: dict[str, Any], reference: Callable[[], Any], device: str) -> None:
        self.batch, self.reference, self.device = batch, reference, device
        self.times: Pairs = []
        self.losses: list[float] = []

    def start_at(self, step: int) -> None:
        """Resume at a step: nothing to do, since all batches are equal."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            with torch.random.fork_rng(devices=[]):  # both draw the same random numbers
                begin = now(self.device)
                loss = self.reference()
                middle = now(self.device)
            yield self.batch
            self.times.append((now(self.device) - middle, middle - begin))
            self.losses.append(float(loss))


def bare_step(parser: ConfigParser, *, augmented: bool = False) -> Callable[[dict[str, Any]], Tensor]:
    """A stage-2 optimisation step as a plain PyTorch script has it, on the objects of a config.

    Args:
        parser: the config.
        augmented: whether batches arrive augmented.
    """
    student, objective, optimizer = (parser.get_parsed_content(k) for k in ("network", "method", "optimizer"))
    teacher, augment, device = (parser.get_parsed_content(k) for k in ("teacher", "augmentation", "device"))
    decay, buffers = parser.get_parsed_content("ema_decay"), parser.get_parsed_content("teacher_buffers")
    steps = 0

    def step(batch: dict[str, Any]) -> Tensor:
        nonlocal steps
        steps += 1
        student.train()
        batch = to_device(batch, device)
        loss = objective(batch if augmented else augment(batch, steps), 0.5)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        update_ema_(teacher, student, warmup_decay(steps, decay), buffers)
        return loss.detach()

    return step


def bare_stage1_step(parser: ConfigParser) -> Callable[[dict[str, Any]], Tensor]:
    """A stage-1 optimisation step as a plain PyTorch script has it; the losses are the bundle's functions."""
    get = parser.get_parsed_content
    model, optimizer, augment, device = (get(k) for k in ("network", "optimizer", "augmentation", "device"))
    weights, steps = get("loss_weights"), 0

    def step(batch: dict[str, Any]) -> Tensor:
        nonlocal steps
        steps += 1
        model.train()
        labelled = augment(to_device(batch, device), steps)["labelled"]
        tokens = {"input_ids": model.text.input_ids, "attention_mask": model.text.attention_mask}
        prompts = model.text_projection(model.text.bert(**tokens).last_hidden_state[:, 0])
        prompts = F.normalize(prompts - prompts.mean(0), dim=1)
        patches = F.normalize(model.image_projection(model.vision(labelled["image"])), dim=1)
        maps = (torch.einsum("behw,ne->bnhw", patches, prompts) * model.scale + model.bias).softmax(1)
        label, grid = labelled["label"][:, 0].long(), tuple(maps.shape[-2:])
        region, counted = region_targets(label, maps.shape[1], grid, get("target")), ~labelled["is_unlabelled"]
        token = token_attention_loss(maps, region, counted & (region.flatten(2).amax(-1) > 0))
        pixel = pixel_attention_loss(maps, region, counted, valid_area(label, grid))
        loss = weights["token"] * token + weights["pixel"] * pixel
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return step


def given_labels(batch: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """The batch after a round of pseudo-labelling: a label map of each unlabelled slice, no attention maps."""
    bare = without(batch, MAPS)
    labels = batch["unlabelled"]["attention_maps"].argmax(1, keepdim=True).to(torch.uint8)
    labels = labels.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)  # (B, 1, H, W)
    return {**bare, "unlabelled": {**bare["unlabelled"], "pseudo_label": labels}}


def without(batch: dict[str, dict[str, Tensor]], names: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """Copy a batch without some keys of its streams."""
    return {name: {k: v for k, v in stream.items() if k not in names} for name, stream in batch.items()}


def drawn_batch(parser: ConfigParser, unlabelled: int | None = None) -> dict[str, dict[str, Tensor]]:
    """Random labelled and unlabelled stream of the config's sizes; attention maps sum to 1 over the classes."""
    generator = torch.Generator().manual_seed(parser.get_parsed_content("seed"))
    height, width = parser.get_parsed_content("image_size")
    classes = parser.get_parsed_content("num_classes")
    grid = (height // PATCH, width // PATCH)

    def stream(size: int) -> dict[str, Tensor]:
        image = torch.randn(size, 1, height, width, generator=generator)
        return {"image": image, "is_unlabelled": torch.zeros(size, classes, dtype=torch.bool)}

    labelled = stream(parser.get_parsed_content("batch_size"))
    coarse = torch.randint(classes, (len(labelled["image"]), 1, *grid), generator=generator).to(torch.uint8)
    labelled["label"] = coarse.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)  # (B, 1, H, W)
    other = stream(unlabelled or parser.get_parsed_content("unlabelled_batch_size"))
    maps = (3 * torch.randn(len(other["image"]), classes, *grid, generator=generator)).softmax(1)
    other.update(attention_maps=maps, thresholds=otsu_thresholds(upsample(maps, (height, width))))
    return {"labelled": labelled, "unlabelled": other}


def described(parser: ConfigParser) -> dict[str, Any]:
    """Config values that a step's time depends on."""
    values = {
        k: parser.get_parsed_content(k)
        for k in ("image_size", "channels", "batch_size", "unlabelled_batch_size", "device")
        if k in parser
    }
    return {**values, "device": str(values["device"])}
