"""Pictures that runs leave behind: overlays of label maps, attention maps of class prompts, and training targets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import LoadImage, Orientation
from torch import Tensor

from ..data.attention_map_cache import PromptMaps
from ..data.output_folder import PICTURES, OutputFolder
from ..data.transforms import result_name, source_of
from ..files import storage_problem
from ..labels import ClassTable
from ..ops.batch_norm import batch_norm_statistics
from ..ops.otsu import otsu_thresholds
from ..ops.prompt_map import average_slices, upsample
from ..report.figures import attention_panel, overlay_volume, prompt_map_panel, representative_slices

CHUNK = 32
"""Slices that go through a network at once, as in validation."""


class RunPictures:
    """Draw pictures of a volume: all when training ends, the first kind after each validation, too.

    What cannot be drawn is logged and stops nothing. Of several processes the first draws.

    Args:
        volumes: items `image` (S, 1, H, W) and `label` (S, 1, H, W); the first is drawn.
        draws: each is called as `draw(image, label, folder)`, with `label` (S, H, W), and writes its pictures.
        folder: where they go; those of epoch 7 into `epochs/0007` below it.
        show: called with each picture of a validation as `show(path, epoch)`; None for nobody.
    """

    def __init__(
        self,
        volumes: Any,
        draws: Sequence[Callable[..., Any]],
        folder: str | Path,
        show: Callable[[Path, int], Any] | None = None,
    ) -> None:
        self.volumes, self.draws, self.folder, self.show = volumes, draws, Path(folder), show

    def attach(self, engine: Engine, evaluator: Engine | None = None) -> None:
        """Register with a trainer, and with the engine of its validation."""
        engine.add_event_handler(Events.COMPLETED, self)
        if evaluator is not None:
            evaluator.add_event_handler(Events.COMPLETED, self.validated, engine)

    def __call__(self, engine: Engine) -> None:
        """Draw all."""
        if self._draw(self.draws, engine, self.folder):
            logging.getLogger(__name__).info("pictures are in %s", self.folder)

    def validated(self, evaluator: Engine, engine: Engine) -> None:
        """Draw the first kind into the folder of the trainer's epoch."""
        folder = self.folder / "epochs" / f"{engine.state.epoch:04d}"
        if self._draw(self.draws[:1], engine, folder) and self.show is not None:
            for path in sorted(folder.glob("*.png")):
                self.show(path, engine.state.epoch)

    def _draw(self, draws: Sequence[Callable[..., Any]], engine: Engine, folder: Path) -> bool:
        """Whether any could be drawn."""
        drawn = False
        for draw in draws if idist.get_rank() == 0 and len(self.volumes) else ():
            try:
                item = self.volumes[0]
                folder.mkdir(parents=True, exist_ok=True)
                with torch.no_grad():
                    draw(item["image"].to(engine.state.device), item["label"].squeeze(1), folder)
            except Exception as error:  # whatever it is, hours of training must not end in it
                log, problem = logging.getLogger(__name__), storage_problem(error)
                if problem:  # of the disk, which the next checkpoint will meet as well
                    log.warning("the pictures could not be drawn: %s", problem)
                else:
                    log.exception("the pictures could not be drawn")
            else:
                drawn = True
        return drawn


def draw_overlay(
    image: Tensor,
    label: Tensor,
    folder: Path,
    *,
    network: torch.nn.Module,
    table: ClassTable,
    labelled: Sequence[int],
    statistics: str,
) -> None:
    """`overlay.png`: image, truth and prediction, as validation has it, on the network's own grid."""
    with batch_norm_statistics(network.eval(), statistics):
        pred = _of_labelled(_in_chunks(network, image).argmax(1), labelled)
    overlay_volume(_slices_last(image[:, 0]), _slices_last(label), _slices_last(pred), table, folder / "overlay.png")


def draw_attention(
    image: Tensor,
    label: Tensor,
    folder: Path,
    *,
    model: torch.nn.Module,
    table: ClassTable,
    labelled: Sequence[int],
    statistics: str,
    neighbours: int,
) -> None:
    """`attention.png`: attention map of each labelled class's prompt beside its Otsu mask, on the most telling slice.

    The maps are those of validation: statistics of the volume's slices, and maps averaged over neighbouring ones.
    """
    with batch_norm_statistics(model.eval(), statistics):
        maps = _in_chunks(model, image)
    _draw_attention(image, average_slices(maps, neighbours), _telling(label), folder, table, labelled)


def _draw_attention(
    image: Tensor, maps: Tensor, chosen: int, folder: Path, table: ClassTable, labelled: Sequence[int]
) -> None:
    maps = upsample(maps[chosen][None], image.shape[-2:])
    masks = maps > otsu_thresholds(maps)[..., None, None]
    arrays = (image[chosen, 0], maps[0], masks[0])
    picture, found, above = (array.cpu().numpy() for array in arrays)
    attention_panel(picture, found, above, table, folder / "attention.png", classes=sorted({0, *labelled}))


def draw_targets(
    image: Tensor,
    label: Tensor,
    folder: Path,
    *,
    prompt_maps: PromptMaps | None,
    prompt_map: Callable[[Tensor, Tensor], Tensor],
    teacher: torch.nn.Module,
    table: ClassTable,
    labelled: Sequence[int],
) -> None:
    """`targets.png` and `attention.png`: prompt-guided map beside the teacher's pseudo-label and the truth.

    Nothing is drawn without prompts (None), or before there are attention maps. A class that nobody labelled is
    background, as in scores: its probability is free wherever the labels say background, in air as well.
    """
    if prompt_maps is None or not prompt_maps.available:
        return
    model = prompt_maps.load_model(prompt_maps.model_dir).to(image.device)
    maps, thresholds = prompt_maps.compute(model, image)
    chosen = _telling(label)
    _draw_attention(image, maps, chosen, folder, table, labelled)
    guided = prompt_map(upsample(maps, image.shape[-2:]), thresholds)
    with batch_norm_statistics(teacher.eval(), "volume"):
        pseudo_label = _of_labelled(_in_chunks(teacher, image).argmax(1), labelled)
    slices = (image[:, 0], guided, pseudo_label, label)
    picture, by_prompts, by_teacher, truth = (a[chosen].cpu().numpy() for a in slices)
    prompt_map_panel(picture, by_prompts, by_teacher, truth, folder / "targets.png", table)


class CaseOverlays:
    """Draw an overlay of every case that an evaluator labels, in the scan's own grid turned to sagittal slices.

    Args:
        outputs: receives `pictures/<case>.png`.
        table: the classes.
        count: slices of each case.
    """

    def __init__(self, outputs: OutputFolder, table: ClassTable, count: int = 3) -> None:
        self.outputs, self.table, self.count = outputs, table, count

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Draw the cases of one iteration."""
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            self.draw(batch, output)

    def draw(self, batch: Mapping[str, Any], output: Mapping[str, Any]) -> None:
        """Draw one case."""
        file = str(output["pred"].meta["filename_or_obj"])
        scan = LoadImage(ensure_channel_first=True, image_only=True)(file)
        truth = output.get("label")
        volumes = [canonical(v) for v in (scan, truth, output["pred"]) if v is not None]
        spacing: Sequence[float] = affine_to_spacing(volumes[0].affine)[:2].tolist()
        arrays = [np.asarray(v[0]) for v in volumes]
        image, label, pred = arrays if truth is not None else (arrays[0], None, arrays[1])
        name = PICTURES.format(f"{result_name(batch, output['pred'])}.png")
        with TemporaryDirectory() as scratch:
            drawn = Path(scratch, "case.png")
            overlay_volume(
                image, label, pred, self.table, drawn, count=min(self.count, image.shape[-1]), spacing=spacing
            )
            self.outputs.write(name, drawn.read_bytes(), source_of(output["pred"]))


def canonical(volume: MetaTensor) -> MetaTensor:
    """Turn a volume (1, ...) so that its axes run superior-inferior, anterior-posterior, across the slices."""
    if volume.ndim == 3:
        volume = volume[..., None]
    return Orientation(axcodes="IPR", labels=(("L", "R"), ("P", "A"), ("I", "S")))(volume.cpu())


def _in_chunks(network: torch.nn.Module, image: Tensor) -> Tensor:
    """What a network makes of the slices (S, 1, H, W) of a volume."""
    return torch.cat([network(part) for part in image.split(CHUNK)])


def _of_labelled(pred: Tensor, labelled: Sequence[int]) -> Tensor:
    """Class ids of which those without training labels have become background."""
    return pred.where(torch.isin(pred, torch.tensor(list(labelled), device=pred.device)), 0)


def _telling(label: Tensor) -> int:
    """Number of the slice (of S, H, W) that shows most."""
    return representative_slices(_slices_last(label), 1)[0]


def _slices_last(volume: Tensor) -> np.ndarray:
    """(S, H, W) -> (H, W, S)."""
    return volume.detach().cpu().permute(1, 2, 0).numpy()
