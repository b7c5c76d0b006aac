"""Evaluation of whole volumes: scores per case, gathered over processes, written as summary.json and per_case.csv."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch.distributed
from scipy.stats import binomtest

from ..files import write_whole
from ..labels import LEVEL_RIGHT, ClassTable
from .metrics import LabelArray, confusion_matrix, level_agnostic_dice, missed, per_class_scores, spurious, wrong_level

MEASURES = ("dice", "iou", "hd95_mm", "assd_mm")
COUNTS = ("missed", "spurious", "wrong_level")


@dataclass(frozen=True)
class CaseScore:
    """Scores of one volume: one row per class, level-agnostic Dice per group, class ids per kind of error."""

    rows: list[dict[str, Any]]
    level_agnostic_dice: dict[str, float]
    mistakes: dict[str, list[int]]

    def levels_right(self, judged: Sequence[int]) -> bool | None:
        """Whether every judged structure of the truth has a Dice above `LEVEL_RIGHT`; None where the truth has none."""
        dice = [row["dice"] for row in self.rows if row["class_id"] in judged and not math.isnan(row["dice"])]
        return all(of > LEVEL_RIGHT for of in dice) if dice else None


class CaseScores:
    """Scores of many volumes.

    Args:
        table: class table; None is the bundle's own.
        distances: whether to compute HD95 and ASSD, which is slower.
    """

    def __init__(self, table: ClassTable | None = None, *, distances: bool = True) -> None:
        self.table = table or ClassTable.load()
        self.distances = distances
        self.scores: dict[str, dict[str, CaseScore]] = {}
        """Variant of the prediction -> case -> scores."""

    def add(
        self,
        case: str,
        pred: LabelArray,
        truth: LabelArray,
        spacing_mm: Sequence[float],
        unlabelled_classes: Iterable[int] = (),
        variant: str = "raw",
    ) -> None:
        """Score one volume.

        Args:
            case: name of the case.
            pred: (...) class ids in the volume's own grid.
            truth: same shape, class ids or `IGNORE`.
            spacing_mm: voxel spacing along each axis.
            unlabelled_classes: ids of classes that the case does not label.
            variant: "raw", or another way to predict the same case ("decoded").

        Raises:
            ValueError: the case was added before, or its arrays do not fit (see `metrics.clean_pair`).
        """
        cases = self.scores.setdefault(variant, {})
        if case in cases:
            raise ValueError(f"case {case} was scored twice ({variant}): give every case of the datalist its own name")
        unlabelled = tuple(unlabelled_classes)
        try:
            confusion = confusion_matrix(pred, truth, self.table.num_classes, unlabelled)
        except ValueError as error:
            raise ValueError(f"case {case}: {error}") from error
        cases[case] = CaseScore(
            per_class_scores(
                pred, truth, spacing_mm, self.table, unlabelled_classes=unlabelled, distances=self.distances
            ),
            level_agnostic_dice(confusion, self.table),
            {
                "missed": missed(confusion),
                "spurious": spurious(confusion),
                "wrong_level": wrong_level(confusion, self.table),
            },
        )

    def gather(self) -> None:
        """Gather the scores of all processes in the order of a single one; duplicate cases count once."""
        if idist.get_world_size() > 1:
            parts: list[Any] = [None] * idist.get_world_size()
            torch.distributed.all_gather_object(parts, self.scores)
            variants = sorted({variant for part in parts for variant in part})
            dealt = {v: zip_longest(*(part.get(v, {}).items() for part in parts)) for v in variants}
            self.scores = {v: dict(one for turn in turns for one in turn if one) for v, turns in dealt.items()}

    def summary(self) -> dict[str, Any]:
        """Contents of summary.json; NaN where there is nothing to score.

        Raises:
            ValueError: no case was added.
        """
        if not self.scores.get("raw"):
            raise ValueError("no case was scored: the datalist has no image with a label in the chosen split")
        others = {v: self._summary_of(list(cases.values())) for v, cases in self.scores.items() if v != "raw"}
        return self._summary_of(list(self.scores["raw"].values())) | others

    def write(self, output_dir: str | Path, write: Callable[[Path, str], Any] = write_whole) -> Path:
        """Write summary.json, per_case.csv and per_case_<variant>.csv by `write`, each atomically.

        Returns:
            The path of summary.json.
        """
        folder = Path(output_dir)
        summary = self.summary()
        folder.mkdir(parents=True, exist_ok=True)
        for variant, cases in self.scores.items():
            name = "per_case.csv" if variant == "raw" else f"per_case_{variant}.csv"
            write(folder / name, _as_csv(cases))
        write(folder / "summary.json", json.dumps(_without_nan(summary), indent=1) + "\n")
        return folder / "summary.json"

    def _summary_of(self, cases: list[CaseScore]) -> dict[str, Any]:
        groups = list(cases[0].level_agnostic_dice)
        return {
            "mdice": _mean(_mean(row["dice"] for row in c.rows) for c in cases),
            "miou": _mean(_mean(row["iou"] for row in c.rows) for c in cases),
            "n_cases": len(cases),
            "per_class": {c.name: self._class_summary(cases, c.id) for c in self.table.foreground},
            "groups": {group: self._group_summary(cases, group) for group in self.table.groups},
            "level_agnostic_dice": {g: _mean(c.level_agnostic_dice[g] for c in cases) for g in groups},
            **self._levels_right(cases),
            **{kind: sum(len(c.mistakes[kind]) for c in cases) for kind in COUNTS},
        }

    def _levels_right(self, cases: list[CaseScore]) -> dict[str, Any]:
        """Share of cases whose levels are all right, its 95 % interval (Wilson), mean Dice of these and of others."""
        right = [(c, of) for c in cases if (of := c.levels_right(self.table.judged_levels)) is not None]
        count = sum(of for _, of in right)
        interval = binomtest(count, len(right)).proportion_ci(method="wilson") if right else (math.nan, math.nan)
        return {
            "levels_right": count / len(right) if right else math.nan,
            "levels_right_interval": [float(bound) for bound in interval],
            **{
                f"mdice_levels_{word}": _mean(_mean(row["dice"] for row in c.rows) for c, of in right if of is wanted)
                for word, wanted in (("right", True), ("wrong", False))
            },
        }

    def _class_summary(self, cases: list[CaseScore], class_id: int) -> dict[str, Any]:
        rows = [row for c in cases for row in c.rows if row["class_id"] == class_id]
        scores = {measure: _mean(row[measure] for row in rows) for measure in MEASURES}
        n = {"n": sum(not math.isnan(row["dice"]) for row in rows)}
        return {"class_id": class_id} | scores | n | {k: sum(class_id in c.mistakes[k] for c in cases) for k in COUNTS}

    def _group_summary(self, cases: list[CaseScore], group: str) -> dict[str, Any]:
        ids = set(self.table.group(group))
        rows = [[row for row in c.rows if row["class_id"] in ids] for c in cases]
        scores = {measure: _mean(_mean(row[measure] for row in of_case) for of_case in rows) for measure in MEASURES}
        return scores | {"n": sum(any(not math.isnan(row["dice"]) for row in of_case) for of_case in rows)}


def _mean(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    counted = [v for v in values if not math.isnan(v)]
    return sum(counted) / len(counted) if counted else math.nan


def _as_csv(cases: Mapping[str, CaseScore]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["case", "class_id", "class", *MEASURES], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"case": case} | row for case, score in cases.items() for row in score.rows)
    return text.getvalue()


def _without_nan(value: Any) -> Any:
    """Replace NaN by None, since JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
