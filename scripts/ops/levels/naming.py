"""Names of a spine's structures by the geometry of its cohort: which landmark is which, and what lies between them.

No paper; the model is that of `scripts.ops.levels.geometry`, and tissue stays what the network says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..check_shape import check_shape
from .geometry import ChainGeometry, OddDistance, Places, find_places, odd_distances
from .landmarks import HALF_HEIGHT_MM, Array, Landmarks, find_landmarks
from .tissue import top_class, type_probability

REACH_MM = 12.0
"""Distance from a landmark's row up to which its tissue has its name; what lies farther is of what lies between."""
UNLIKELY = -4.0
"""Least log-probability of a level in a pixel: single pixels are often certain and wrong."""
NETWORK_WEIGHT = 0.35
"""Of the network's own levels beside the geometry: pixels and landmarks of one volume are wrong together. Chosen by the
levels right on the validation volumes of three networks, trained on one patient each."""


@dataclass(frozen=True)
class Spine:
    """What names are given to: one volume's tissue on the network's grid.

    Attributes:
        tissue: (S, H, W) int64 tissue types, 0 is background.
        rows: (S, H, W) int64 row of the centre line that belongs to each pixel.
        landmarks: found in it.
    """

    tissue: Tensor
    rows: Tensor
    landmarks: Landmarks


class ChainNames:
    """Tissue types and places of the chain's classes: what a place of `ChainGeometry` is called.

    Landmarks are the classes of the type that has most of them in the chain, the lower one of two: the discs, or in a
    table without discs the vertebrae.

    Args:
        groups: (N,) int64 tissue type of every class, see `scripts.ops.levels.tissue.group_index`.
        chain: (J,) class ids from the lowest structure upwards, see `scripts.ops.levels.ordering.chain_index`; zeros
            are left out. Without a class there is no landmark.
    """

    def __init__(self, groups: Tensor, chain: Sequence[int] | Tensor) -> None:
        ids = [int(c) for c in chain if c]
        kinds = [int(groups[c]) for c in ids]
        self.known = torch.zeros_like(groups)  # classes outside the chain are background
        self.known[ids] = groups[ids]
        self.kind = max(dict.fromkeys(kinds), key=kinds.count, default=-1)
        self.landmarks = [0] + [c for c, kind in zip(ids, kinds, strict=True) if kind == self.kind]
        """Class of the landmark at each place; 0 for the one below the chain."""
        ends = [k for k, kind in enumerate(kinds) if kind == self.kind] + [len(ids)]
        self.between = [ids[: ends[0]]] + [ids[a + 1 : b] for a, b in pairwise(ends)]
        """Classes between the landmark at each place and the next, from below."""
        self.groups = groups

    @property
    def num_places(self) -> int:
        """Places of the chain, the one below it included."""
        return len(self.landmarks)

    def spine(self, probs: Tensor, pixel_mm: float) -> Spine:
        """Tissue and landmarks of class probabilities (S, N, H, W)."""
        return self.spine_of_tissue(top_class(type_probability(probs, self.known)), pixel_mm)

    def spine_of_label(self, label: Tensor, pixel_mm: float) -> Spine:
        """Tissue and landmarks of a label map (S, H, W); classes outside the chain, and 255, are background."""
        known = torch.cat([self.known, self.known.new_zeros(256 - len(self.known))])
        return self.spine_of_tissue(known[label.long()], pixel_mm)

    def spine_of_tissue(self, tissue: Tensor, pixel_mm: float) -> Spine:
        """Landmarks of tissue types (S, H, W)."""
        landmarks, rows = find_landmarks(tissue, self.kind, pixel_mm)
        return Spine(tissue, rows, landmarks)

    def places_of_label(self, label: Tensor, spine: Spine) -> np.ndarray:
        """Place of every landmark of a label map (S, H, W) by its majority; -1 where it has none. (n,) int64."""
        places = np.full(len(spine.landmarks), -1, np.int64)
        for k, row in enumerate(spine.landmarks.rows):
            votes = torch.bincount(label[self._near(spine, row)].long(), minlength=256)[self.landmarks]
            votes[0] = 0
            if votes.any():
                places[k] = int(votes.argmax())
        return places

    def evidence(self, probs: Tensor, spine: Spine) -> Array:
        """Log-likelihood of each landmark at each place by the network's own levels, weighted, (n, P).

        Mean over the landmark's pixels of the log-probability of the class given the type, ≥ `UNLIKELY`; -1, which is
        rather likely, for the place below the chain, whose class no label names.

        Args:
            probs: (S, N, H, W) class probabilities, or prompt-guided attention maps.
            spine: of the same volume.
        """
        found = np.full((len(spine.landmarks), self.num_places), -1.0)
        for k, row in enumerate(spine.landmarks.rows):
            at = self._near(spine, row).nonzero(as_tuple=True)
            of_kind = probs[at[0], :, at[1], at[2]][:, self.landmarks[1:]].float() + 1e-6
            level = (of_kind / of_kind.sum(1, keepdim=True)).log().clamp_min(UNLIKELY)
            found[k, 1:] = level.mean(0).cpu().numpy()
        return NETWORK_WEIGHT * found

    def _near(self, spine: Spine, row: float) -> Tensor:
        """(S, H, W) bool, the tissue of the landmark at a row."""
        near = (spine.rows - int(row)).abs() <= HALF_HEIGHT_MM / spine.landmarks.pixel_mm
        return near & (spine.tissue == self.kind)

    def table(self, landmarks: Landmarks, places: np.ndarray, geometry: ChainGeometry) -> Tensor:
        """Class of every tissue type at every row of the centre line, (G, H) int64.

        Landmarks that were not found are put where the geometry expects them between and beyond those that were.

        Args:
            landmarks: of a volume.
            places: (n,) of its landmarks; -1 where one is none.
            geometry: of the cohort.
        """
        num_types = int(self.known.max()) + 1
        names = torch.zeros(num_types, landmarks.height, dtype=torch.int64)
        if not (places >= 0).any():
            return names
        at = self._rows_of_places(landmarks, places, geometry)  # (P + 1,), falling
        rows = np.arange(landmarks.height)
        nearest = np.abs(rows[:, None] - at).argmin(1)
        below = (rows[:, None] < at).sum(1)  # landmarks below each row; the highest of them ends what lies between
        for row in rows:
            section = max(below[row] - 1, 0)  # the sacrum goes on below its rudimentary disc
            classes = self.between[section] if section < self.num_places else []
            for kind in range(1, num_types):
                fitting = [c for c in classes if int(self.groups[c]) == kind] or classes
                names[kind, row] = fitting[0] if fitting else 0
            if abs(row - at[nearest[row]]) * landmarks.pixel_mm <= REACH_MM or not classes:
                names[self.kind, row] = [*self.landmarks, 0][nearest[row]]
        return names

    def _rows_of_places(self, landmarks: Landmarks, places: np.ndarray, geometry: ChainGeometry) -> Array:
        """Row of the landmark at every place and of the one above the chain, (P + 1,), falling."""
        climb = geometry.climb / landmarks.pixel_mm  # (P + 1,) pixels
        has = places >= 0
        known, rows = places[has], landmarks.rows[has]
        at = np.interp(climb, climb[known], rows)
        at[: known[0]] = rows[0] + climb[known[0]] - climb[: known[0]]
        at[known[-1] + 1 :] = rows[-1] + climb[known[-1]] - climb[known[-1] + 1 :]
        return at


def name_tissue(spine: Spine, names: Tensor) -> Tensor:
    """Label map (S, H, W) int64 of a volume's tissue by the names of its rows (G, H), see :meth:`ChainNames.table`."""
    return names.to(spine.tissue.device)[spine.tissue, spine.rows]


def name_probabilities(probs: Tensor, known: Tensor, spine: Spine, names: Tensor) -> Tensor:
    """Class probabilities by name: every type's probability is the class's that has its name at the pixel's row.

    Args:
        probs: (S, N, H, W) class probabilities.
        known: (N,) int64 type of every class, 0 for those outside the chain.
        spine: of the same volume.
        names: (G, H), see :meth:`ChainNames.table`.

    Returns:
        (S, N, H, W) probabilities that sum to 1.
    """
    check_shape("probs", probs, "S N H W")
    types = type_probability(probs, known)
    named = torch.zeros_like(probs)
    for kind in range(types.shape[1]):
        label = names.to(probs.device)[kind][spine.rows] if kind else torch.zeros_like(spine.rows)
        named.scatter_add_(1, label[:, None], types[:, kind : kind + 1])
    return named


class NameEvidence(NamedTuple):
    """What speaks for and against the names that a geometry gives a volume.

    Attributes:
        posterior: class id -> probability in [0, 1] of its name, of the classes that a landmark has and of all others
            alike. A landmark has the posterior of its own place, what lies between landmarks the mean of all: a spine
            is shifted as a whole. Empty where no landmark was found.
        odd: distances between landmarks that no spine of the training has; places are class ids.
    """

    posterior: dict[int, float]
    odd: list[OddDistance]


class ChainNaming:
    """Names a volume by a cohort's geometry and the network's own levels, one volume at a time.

    Args:
        groups: see `ChainNames`.
        chain: see `ChainNames`.
        pixel_mm: size of a pixel of the network's grid.
        geometry: value of `ChainGeometry.as_json`, as training kept it in `model.json`; None where it kept none.
    """

    def __init__(
        self, groups: Tensor, chain: Sequence[int] | Tensor, pixel_mm: float, geometry: Mapping[str, Any] | None
    ) -> None:
        self.names, self.pixel_mm = ChainNames(groups, chain), pixel_mm
        self.geometry = None if geometry is None else ChainGeometry.from_json(geometry)

    def __call__(self, probs: Tensor) -> Tensor:
        """Class probabilities (S, N, H, W) of a volume -> the same with levels by the cohort's geometry."""
        spine, places, geometry = self._places(probs)
        table = self.names.table(spine.landmarks, places.best, geometry)
        return name_probabilities(probs, self.names.known, spine, table)

    def evidence(self, probs: Tensor) -> NameEvidence:
        """What speaks for and against the names of a volume, from class probabilities (S, N, H, W)."""
        spine, places, geometry = self._places(probs)
        placed, of = np.flatnonzero(places.best >= 0), self.names.landmarks
        if not len(placed):
            return NameEvidence({}, [])
        posterior = places.posterior[placed, places.best[placed]]
        found = {c: float(posterior.mean()) for classes in self.names.between for c in classes}
        found |= {c: float(posterior.mean()) for c in of[1:]}
        found |= {of[place]: float(p) for place, p in zip(places.best[placed], posterior, strict=True)}
        odd = odd_distances(spine.landmarks, places.best, geometry)
        return NameEvidence(found, [o._replace(lower=of[o.lower], upper=of[o.upper]) for o in odd])

    def _places(self, probs: Tensor) -> tuple[Spine, Places, ChainGeometry]:
        if self.geometry is None:
            raise ValueError("the network was kept without a geometry of the chain; decode the levels instead")
        spine = self.names.spine(probs, self.pixel_mm)
        return spine, find_places(spine.landmarks, self.geometry, self.names.evidence(probs, spine)), self.geometry
