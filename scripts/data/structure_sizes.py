"""Plausible sizes of the structures, learned from the labelled volumes of training in their own grids."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from ..labels import ClassTable, LabelMap
from ..ops.levels.sizes import learn_sizes
from ..ops.levels.structures import Field, Measured, field_of, measure
from .cache import SliceDataset
from .check.volumes import UnusableError, read_volume


class StructureSizes:
    """Ranges of volume and height over all labelled volumes, computed at the first call (when a model is written).

    Args:
        dataset: labelled slices; the volumes' own label files are read.
        table: class table.
    """

    def __init__(self, dataset: SliceDataset, table: ClassTable) -> None:
        self.dataset, self.table = dataset, table
        self._found: dict[str, Any] | None = None

    def __call__(self) -> dict[str, Any]:
        """Return what :func:`scripts.ops.levels.sizes.learn_sizes` does."""
        if self._found is None:
            cases = []
            for entry in self.dataset.data:
                with contextlib.suppress(UnusableError, OSError):  # the volume is cached and its label is gone
                    if "label" in entry:
                        label_map = LabelMap.load(entry.get("label_map"), self.table)
                        cases.append(measure_label(entry["label"], label_map, self.table))
            self._found = learn_sizes(cases, self.table)
        return self._found


def measure_label(path: str, label_map: LabelMap, table: ClassTable) -> tuple[dict[int, Measured], Field]:
    """Size and place of the structures in a label file, and what its grid shows.

    Raises:
        UnusableError: the file cannot be read.
    """
    array, affine = read_volume(path, single_slices=True)
    values, where = np.unique(np.round(array).astype(np.int64), return_inverse=True)
    ids = [c if 0 < (c := label_map.mapping.get(v, 0)) < table.num_classes else 0 for v in values.tolist()]
    label = np.array(ids, dtype=np.uint8)[where].reshape(array.shape)
    return measure(label, affine), field_of(label.shape, affine)
