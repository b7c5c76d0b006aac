"""Metrics of label maps: Dice, IoU, HD95 and ASSD per structure, missed, spurious and mislabelled structures.

All but the surface distances are computed from one confusion matrix per volume. Background is not scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics import CumulativeIterationMetric, get_mask_edges, get_surface_distance
from scipy.ndimage import find_objects
from torch import Tensor

from ..labels import IGNORE, LEVEL_RIGHT, ClassTable

LabelArray = np.ndarray | Tensor
NAN = float("nan")


def clean_pair(
    pred: LabelArray, truth: LabelArray, num_classes: int, unlabelled_classes: Iterable[int] = ()
) -> tuple[Tensor, Tensor]:
    """Prediction and truth as int64, with ignored pixels and unlabelled classes set to background in both.

    Args:
        pred: (...) class ids in 0..num_classes - 1, of any integer or floating type.
        truth: same shape, class ids or `IGNORE`.
        num_classes: number of classes, background included.
        unlabelled_classes: ids of structures that the case shows but does not label.

    Raises:
        ValueError: the shapes differ, or a value is no class id.
    """
    pred, truth = _as_long(pred), _as_long(truth)
    if pred.shape != truth.shape:
        raise ValueError(f"pred must have the shape of truth {tuple(truth.shape)}, got {tuple(pred.shape)}")
    ignored = truth == IGNORE
    pred, truth = pred.masked_fill(ignored, 0), truth.masked_fill(ignored, 0)
    for name, labels in (("pred", pred), ("truth", truth)):
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            values = f"{int(labels.min())}..{int(labels.max())}"
            raise ValueError(f"{name} must hold class ids 0..{num_classes - 1}, got values in {values}")
    for class_id in unlabelled_classes:
        pred, truth = pred.masked_fill(pred == class_id, 0), truth.masked_fill(truth == class_id, 0)
    return pred, truth


def confusion_matrix(
    pred: LabelArray, truth: LabelArray, num_classes: int, unlabelled_classes: Iterable[int] = ()
) -> Tensor:
    """Pixel counts (N, N), truth in rows and prediction in columns; after :func:`clean_pair`."""
    pred, truth = clean_pair(pred, truth, num_classes, unlabelled_classes)
    pairs = (truth * num_classes + pred).flatten()
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def dice_per_class(confusion: Tensor) -> Tensor:
    """Dice of each foreground class (N - 1,) in [0, 1]: NaN where absent in both, 0 where present in one only."""
    return 2 * confusion.diagonal()[1:].double() / (confusion.sum(0) + confusion.sum(1))[1:]  # 0 / 0 is NaN


def iou_per_class(confusion: Tensor) -> Tensor:
    """Intersection over union of each foreground class (N - 1,); NaN and 0 as in :func:`dice_per_class`."""
    both = confusion.diagonal()[1:].double()
    return both / ((confusion.sum(0) + confusion.sum(1))[1:] - both)


def mean_dice(pred: LabelArray, truth: LabelArray, num_classes: int, excluded: Iterable[int] = ()) -> float:
    """Mean Dice of one volume over the foreground classes present in prediction or truth; NaN if there are none.

    Args:
        pred: (...) class ids of a whole volume.
        truth: same shape, class ids or `IGNORE`.
        num_classes: number of classes, background included.
        excluded: ids of classes that the case does not label.
    """
    return float(dice_per_class(confusion_matrix(pred, truth, num_classes, excluded)).nanmean())


def missed(confusion: Tensor) -> list[int]:
    """Ids of the structures in the truth that are not predicted (false negatives)."""
    return _ids((confusion.sum(1) > 0) & (confusion.sum(0) == 0))


def spurious(confusion: Tensor) -> list[int]:
    """Ids of the predicted structures that are not in the truth (false positives)."""
    return _ids((confusion.sum(1) == 0) & (confusion.sum(0) > 0))


def wrong_level(confusion: Tensor, table: ClassTable) -> list[int]:
    """Ids of true structures with a wrong level on over half of the pixels predicted as their group."""
    wrong = []
    for structure in table.foreground:
        in_group = int(confusion[structure.id, list(table.group(structure.group))].sum())
        if 2 * (in_group - int(confusion[structure.id, structure.id])) > in_group:
            wrong.append(structure.id)
    return wrong


def level_agnostic_dice(confusion: Tensor, table: ClassTable) -> dict[str, float]:
    """Dice of each group (vertebrae, discs) taken as one structure, whatever the level."""
    scores = {}
    for group in table.groups:
        ids = list(table.group(group))
        if len(ids) > 1:
            total = int(confusion[ids].sum() + confusion[:, ids].sum())
            scores[group] = 2 * int(confusion[ids][:, ids].sum()) / total if total else NAN
    return scores


def surface_distances(pred: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float]) -> tuple[float, float]:
    """HD95 and symmetric average surface distance of two masks, in mm.

    Args:
        pred: (...) bool, not empty; may be cropped to the structures for speed.
        truth: same shape, bool, not empty.
        spacing_mm: voxel spacing along each axis.
    """
    edges_pred, edges_truth = get_mask_edges(pred, truth)[:2]
    spacing = [float(s) for s in spacing_mm]
    there = np.asarray(get_surface_distance(edges_pred, edges_truth, "euclidean", spacing))
    back = np.asarray(get_surface_distance(edges_truth, edges_pred, "euclidean", spacing))
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return float(hd95), float(np.concatenate([there, back]).mean())


def per_class_scores(
    pred: LabelArray,
    truth: LabelArray,
    spacing_mm: Sequence[float],
    table: ClassTable,
    *,
    unlabelled_classes: Iterable[int] = (),
    distances: bool = True,
) -> list[dict[str, Any]]:
    """One row per foreground class that the case labels: class_id, class, dice, iou, hd95_mm, assd_mm.

    Args:
        pred: (...) class ids of a whole volume in its own grid.
        truth: same shape, class ids or `IGNORE`.
        spacing_mm: distance of neighbouring pixels along each axis.
        table: the classes.
        unlabelled_classes: ids of structures that the case shows but does not label; they get no row.
        distances: False leaves hd95_mm and assd_mm NaN, which is much faster.

    Convention: dice and iou are NaN where the class is absent in both and 0 where it is in one only;
    the distances are NaN unless it is in both.
    """
    unlabelled = set(unlabelled_classes)
    pred, truth = clean_pair(pred, truth, table.num_classes, unlabelled)
    if distances and len(spacing_mm) != truth.ndim:
        raise ValueError(f"spacing_mm must have one value per axis of {tuple(truth.shape)}, got {list(spacing_mm)}")
    confusion = confusion_matrix(pred, truth, table.num_classes)
    dice, iou = dice_per_class(confusion).tolist(), iou_per_class(confusion).tolist()
    measured = _all_distances(pred, truth, spacing_mm, table.num_classes) if distances else {}
    rows = []
    for c in table.foreground:
        if c.id not in unlabelled:
            hd95, assd = measured.get(c.id, (NAN, NAN))
            overlap = {"dice": dice[c.id - 1], "iou": iou[c.id - 1]}
            rows.append({"class_id": c.id, "class": c.name, **overlap, "hd95_mm": hd95, "assd_mm": assd})
    return rows


class VolumeScores(CumulativeIterationMetric):
    """Mean Dice over whole volumes, cumulative over processes; numbered volumes count once.

    Args:
        num_classes: number of classes, background included.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def _compute_tensor(
        self, y_pred: Tensor, y: Tensor, unlabelled_classes: Iterable[int] = (), volume: int = -1
    ) -> tuple[Tensor, Tensor]:
        """Dice (B, N - 1) of volumes (B, ...) with the same unlabelled classes, and their number (-1: none)."""
        excluded = tuple(unlabelled_classes)
        pairs = zip(y_pred, y, strict=True)
        dice = torch.stack([dice_per_class(confusion_matrix(p, t, self.num_classes, excluded)) for p, t in pairs])
        return dice, torch.full((len(dice),), volume, device=dice.device)

    def get_buffer(self) -> Tensor | None:
        """Dice (V, N - 1) of the volumes of all processes, ordered by number; None if there are none."""
        buffers = super().get_buffer()
        if buffers is None:
            return None
        dice, volumes = buffers
        numbers = volumes.tolist()
        first = [n for n, number in enumerate(numbers) if number < 0 or number not in numbers[:n]]
        return dice[sorted(first, key=numbers.__getitem__)]

    def aggregate(self) -> Tensor:
        """Mean over the classes of a volume, then over volumes with structures; ValueError without volumes."""
        dice = self.get_buffer()
        if dice is None:
            raise ValueError("no volume was scored: is the list of volumes empty?")
        return self.over_volumes(dice)

    def over_volumes(self, dice: Tensor) -> Tensor:
        """The score () of volumes by their Dice (V, N - 1)."""
        return dice.nanmean(dim=1).nanmean()


class LevelsRight(VolumeScores):
    """Share of whole volumes whose judged structures all have a Dice above `LEVEL_RIGHT`, cumulative as `VolumeScores`.

    Args:
        num_classes: number of classes, background included.
        judged: ids of the structures that count, where a volume has them (`ClassTable.judged_levels`).
    """

    def __init__(self, num_classes: int, judged: Iterable[int]) -> None:
        super().__init__(num_classes)
        self.judged = [class_id - 1 for class_id in judged]

    def over_volumes(self, dice: Tensor) -> Tensor:
        """The share () in [0, 1] of the volumes with a judged structure; NaN if there are none."""
        of_judged = dice[:, self.judged]
        known = of_judged[~of_judged.isnan().all(1)]
        return ((known > LEVEL_RIGHT) | known.isnan()).all(1).double().mean()


def _as_long(labels: LabelArray) -> Tensor:
    if isinstance(labels, Tensor):
        return labels.detach().as_subclass(Tensor).long()  # a MetaTensor would track every operation
    return torch.from_numpy(np.asarray(labels).astype(np.int64))


def _ids(is_in: Tensor) -> list[int]:
    return [i for i in is_in.nonzero().flatten().tolist() if i != 0]


def _all_distances(
    pred: Tensor, truth: Tensor, spacing_mm: Sequence[float], num_classes: int
) -> dict[int, tuple[float, float]]:
    """HD95 and ASSD of the classes in both, each computed in the bounding box of the two structures."""
    arrays = [labels.cpu().numpy().astype(np.uint8) for labels in (pred, truth)]
    boxes = [find_objects(array, max_label=num_classes - 1) for array in arrays]
    distances = {}
    for class_id, (box_pred, box_truth) in enumerate(zip(*boxes, strict=True), start=1):
        if box_pred and box_truth:
            sides = zip(box_pred, box_truth, strict=True)
            box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in sides)
            distances[class_id] = surface_distances(arrays[0][box] == class_id, arrays[1][box] == class_id, spacing_mm)
    return distances
