"""Ignite handlers for whole volumes: result files of an evaluation, mean Dice as a validation metric."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.handlers import IgniteMetricHandler

from ..files import write_whole
from ..labels import ClassTable
from ..report.tables import summary_table
from .cases import CaseScores
from .metrics import LabelArray, LevelsRight, VolumeScores

logger = logging.getLogger(__name__)


class ScoreWriter:
    """Ignite handler that scores every case of an evaluator and writes the results at the end.

    Takes decollated outputs with label maps of prediction and truth, (1, ...) or (...), in the volume's own grid, and
    optional `case` and `unlabelled_classes`.

    Args:
        output_dir: folder for summary.json and per_case.csv.
        table: class table; None is the bundle's own.
        variants: variant -> key of its label map in the output; missing keys are skipped.
        distances: whether to compute HD95 and ASSD, which is slower.
        write: `write(path, text)` writes a file.
    """

    def __init__(
        self,
        output_dir: str | Path,
        table: ClassTable | None = None,
        variants: Mapping[str, str] | None = None,
        *,
        distances: bool = True,
        write: Callable[[Path, str], Any] = write_whole,
    ) -> None:
        self.output_dir, self.write = Path(output_dir), write
        self.make_scores: Callable[[], CaseScores] = lambda: CaseScores(table, distances=distances)
        self.scores = self.make_scores()
        self.variants = dict(variants or {"raw": "pred"})

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.score)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Forget the cases of an earlier run."""
        self.scores = self.make_scores()

    def score(self, engine: Engine) -> None:
        """Score the cases of one iteration."""
        # Inputs of a case (name, unlabelled classes) are in the batch, results in the output.
        for batch, output in zip(_items(engine.state.batch), _items(engine.state.output), strict=True):
            item = {**batch, **output}
            truth = item["label"]
            for variant, key in self.variants.items():
                if key in item:
                    self.scores.add(
                        case_name(item),
                        _spatial(item[key]),
                        _spatial(truth),
                        spacing_of(truth),
                        class_ids(item.get("unlabelled_classes", ())),
                        variant,
                    )

    def finish(self, engine: Engine) -> None:
        """Gather the scores; the first process writes them and logs a table."""
        self.scores.gather()
        if idist.get_rank() == 0:
            path = self.scores.write(self.output_dir, self.write)
            logger.info("Scores of %s:\n%s", path, summary_table(json.loads(path.read_text(encoding="utf-8"))))


class VolumeScoresHandler(IgniteMetricHandler):
    """Mean Dice of whole volumes as an evaluator's metric (`key_val_metric`): see :class:`.metrics.VolumeScores`.

    With `judged` the share of volumes whose levels are right, see :class:`.metrics.LevelsRight`.

    Takes outputs as :class:`ScoreWriter` does, of any geometry; `engine.state.metric_details` has all values.

    Args:
        num_classes: number of classes, background included.
        pred_key: key of the predicted label map in the output.
        label_key: key of the true label map.
        judged: ids of the structures whose levels count; None for mean Dice.
    """

    def __init__(
        self, num_classes: int, pred_key: str = "pred", label_key: str = "label", judged: Sequence[int] | None = None
    ) -> None:
        metric = VolumeScores(num_classes) if judged is None else LevelsRight(num_classes, judged)
        super().__init__(metric_fn=metric, output_transform=_items)
        self.pred_key = pred_key
        self.label_key = label_key

    def update(self, output: Any) -> None:
        """Score the volumes of one iteration."""
        for item in _items(output):
            volumes = (torch.as_tensor(_spatial(item[key]))[None] for key in (self.pred_key, self.label_key))
            unlabelled = class_ids(item.get("unlabelled_classes", ()))
            self.metric_fn(*volumes, unlabelled_classes=unlabelled, volume=item.get("volume", -1))


def case_name(item: Mapping[str, Any]) -> str:
    """Name of a case: `case`, or the file name of its label; a ValueError if it has neither."""
    meta = getattr(item["label"], "meta", {})
    name = item.get("case") or meta.get("filename_or_obj")
    if not name:
        raise ValueError("a case to score needs the key 'case', or a label that was read from a file")
    return str(name) if "case" in item else Path(str(name)).name.removesuffix(".gz").removesuffix(".nii")


def class_ids(ids: Any) -> tuple[int, ...]:
    """Class ids as a tuple, from a tuple, a tensor, or a collated tuple (a list of tensors)."""
    if ids is None:  # a decollated empty tuple
        return ()
    entries = ids if isinstance(ids, list | tuple) else [ids]
    return tuple(int(i) for entry in entries for i in torch.as_tensor(entry).flatten())


def spacing_of(volume: Any) -> tuple[float, ...]:
    """Voxel spacing in mm along each axis of a `MetaTensor` (1, ...); 1 mm for a plain tensor."""
    n_axes = _spatial(volume).ndim
    affine = volume.affine if isinstance(volume, MetaTensor) else torch.eye(n_axes + 1)
    return tuple(float(s) for s in affine_to_spacing(affine, r=n_axes))


def _items(output: Any) -> list[Mapping[str, Any]]:
    return [output] if isinstance(output, Mapping) else list(output)


def _spatial(volume: LabelArray) -> LabelArray:
    """A label map without its channel axis."""
    plain = volume.as_tensor() if isinstance(volume, MetaTensor) else volume
    if plain.ndim == 4 and plain.shape[0] != 1:
        raise ValueError(f"a label map to score must be (1, ...) or (...), one volume, got {tuple(plain.shape)}")
    return plain[0] if plain.ndim == 4 else plain
