"""Names of a whole cohort of volumes together: the geometry that labelled and unlabelled spines share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.transforms import Transform
from torch import Tensor, nn

from ..bundle.model_file import load_weights
from ..data.cache import SliceDataset
from ..labels import ClassTable
from ..ops.levels.geometry import ChainGeometry, OddDistance, find_places, fit_geometry, odd_distances
from ..ops.levels.landmarks import Array, Landmarks
from ..ops.levels.naming import ChainNames, name_tissue
from ..ops.levels.ordering import chain_index
from ..ops.levels.tissue import group_index
from ..ops.precision import autocast
from ..weights import SETTINGS, WEIGHTS, model_settings, write_model_files

MOST_VOLUMES = 200
"""Unlabelled volumes that the kept geometry is fitted to; more of them would change it little and take long."""
MOST_IN_VALIDATION = 25
"""The same at each validation, which comes often."""
logger = logging.getLogger(__name__)


class Seen(NamedTuple):
    """What naming needs of a volume: its landmarks, and the network's evidence for each place, (n, P)."""

    landmarks: Landmarks
    evidence: Array


def gathered(seen: dict[int, Seen]) -> dict[int, Seen]:
    """What all processes have seen of their volumes, case -> of it, in each of them."""
    if idist.get_world_size() == 1:
        return seen
    parts: list[Any] = [None] * idist.get_world_size()
    torch.distributed.all_gather_object(parts, seen)
    return dict(sorted((case, volume) for part in parts for case, volume in part.items()))


class CohortNaming:
    """Names all volumes of a cohort together: labelled spines begin, unlabelled ones give means and spreads (EM).

    Args:
        labelled: labelled slices of the training; no others, so that what is validated or tested stays unseen.
        groups: (N,) int64 tissue type of every class, see `scripts.ops.levels.tissue.group_index`.
        chain: class ids from the lowest structure upwards, see `scripts.ops.levels.ordering.chain_index`.
        pixel_mm: size of a pixel.
        gamma: weight of the class prompts' levels beside the network's own, ≥ 0, where no round measures it.
        prior: geometry of another cohort that this one begins with, see `geometry_beside`.
    """

    def __init__(
        self,
        labelled: SliceDataset,
        groups: Tensor,
        chain: Sequence[int] | Tensor,
        pixel_mm: float,
        gamma: float = 0.5,
        prior: ChainGeometry | None = None,
    ) -> None:
        self.labelled, self.names, self.pixel_mm = labelled, ChainNames(groups, chain), pixel_mm
        self.gamma, self.prior = gamma, prior

    def see(self, probs: Tensor, maps: Tensor | None = None, gamma: float | None = None) -> tuple[Tensor, Seen]:
        """Tissue types (S, H, W) of a volume, and what naming needs of it.

        Args:
            probs: (S, N, H, W) class probabilities.
            maps: (S, N, H, W) attention maps in [0, 1], or None without class prompts.
            gamma: weight of their levels; None is the cohort's own.
        """
        spine = self.names.spine(probs, self.pixel_mm)
        evidence = self.names.evidence(probs, spine)
        if maps is not None:
            evidence += (self.gamma if gamma is None else gamma) * self.names.evidence(maps, spine)
        return spine.tissue, Seen(spine.landmarks, evidence)

    def fit(self, seen: Sequence[Seen]) -> ChainGeometry | None:
        """Geometry of the labelled volumes and of those that were seen; None if no label shows a landmark."""
        if not any((places >= 0).any() for _, places in self._known):
            return None
        landmarks, evidence = [s.landmarks for s in seen], [s.evidence for s in seen]
        return fit_geometry(self._known, landmarks, self.names.num_places, evidence, self.prior)

    def certainty(self, seen: Seen, geometry: ChainGeometry) -> float:
        """Mean posterior in [0, 1] of the places of a volume's landmarks; 0 where there is none."""
        places = find_places(seen.landmarks, geometry, seen.evidence)
        has = places.best >= 0
        return float(places.posterior[has, places.best[has]].mean()) if has.any() else 0.0

    def odd(self, seen: Seen, geometry: ChainGeometry) -> list[OddDistance]:
        """Distances between a volume's landmarks that the cohort's spines do not have."""
        return odd_distances(seen.landmarks, find_places(seen.landmarks, geometry, seen.evidence).best, geometry)

    def label(self, tissue: Tensor, seen: Seen, geometry: ChainGeometry) -> Tensor:
        """Label map (S, H, W) int64 of a volume's tissue types by the geometry."""
        places = find_places(seen.landmarks, geometry, seen.evidence)
        spine = self.names.spine_of_tissue(tissue, self.pixel_mm)
        return name_tissue(spine, self.names.table(seen.landmarks, places.best, geometry))

    @cached_property
    def _known(self) -> list[tuple[Landmarks, np.ndarray]]:
        """Landmarks and their places of all labelled volumes."""
        labels = map(self.labelled.label, range(len(self.labelled.data)))
        return [self._places(torch.from_numpy(np.array(label))) for label in labels if label is not None]

    def _places(self, label: Tensor) -> tuple[Landmarks, np.ndarray]:
        spine = self.names.spine_of_label(label, self.pixel_mm)
        return spine.landmarks, self.names.places_of_label(label, spine)


def geometry_beside(
    weights: str | Path | None, table: ClassTable, chain: Sequence[int] | Tensor
) -> ChainGeometry | None:
    """Geometry that was kept beside weights, at the places of a chain; None where there is none of its landmarks.

    Args:
        weights: a `model.pt`, or nothing.
        table: classes of the weights and of the chain.
        chain: class ids from the lowest structure upwards.

    Returns:
        (P, 4) means and spreads, NaN at places that the other training's labels did not name.
    """
    settings = (model_settings(Path(weights).parent) if weights else None) or {}
    if not settings.get("chain_geometry"):
        return None
    groups = group_index(table)
    own = ChainNames(groups, chain)
    theirs = ChainNames(groups, chain_index(table, settings["labelled_classes"]))
    if own.kind != theirs.kind:
        return None
    everything = ChainNames(groups, [c for c in chain_index(table) if groups[c] == own.kind]).landmarks

    def landmarks(names: ChainNames) -> list[int]:
        """Class at every place, also at the one below the chain where the table has one."""
        return [everything[everything.index(names.landmarks[1]) - 1], *names.landmarks[1:]]

    kept = ChainGeometry.from_json(settings["chain_geometry"])
    row_of = {c: k for k, c in enumerate(landmarks(theirs))}
    rows = [row_of.get(c, len(kept.mean)) for c in landmarks(own)]
    mean, spread = (np.vstack([values, np.full(4, np.nan)])[rows] for values in (kept.mean, kept.spread))
    return ChainGeometry(mean, spread)


class CohortGeometry:
    """Geometry of the training's spines as a network sees them at the time: of its labels and its unlabelled scans.

    Args:
        naming: of the cohort.
        network: in training.
        unlabelled: unlabelled slices; may be empty.
        inferer: (volume (S, 1, H, W), network) -> logits (S, N, H, W).
        device: where the network runs.
        amp: in mixed precision, see `scripts.ops.precision`.
    """

    def __init__(
        self,
        naming: CohortNaming,
        network: nn.Module,
        unlabelled: SliceDataset,
        inferer: Callable[[Tensor, nn.Module], Tensor],
        device: torch.device | str = "cpu",
        amp: bool = False,
    ) -> None:
        self.naming, self.network, self.unlabelled = naming, network, unlabelled
        self.inferer, self.device, self.amp = inferer, device, amp

    @property
    def can_be_fitted(self) -> bool:
        """Whether a label shows a landmark of the chain."""
        return self.naming.fit([]) is not None

    @torch.no_grad()
    def fit(self, most: int, weights: Path | None = None) -> ChainGeometry | None:
        """Fit it to at most so many unlabelled volumes, evenly chosen; None if no label shows a landmark.

        Of several processes, which all have to call it, each looks at its share of the volumes.

        Args:
            most: volumes.
            weights: a file that a copy of the network is read from; None for the network as it is.
        """
        if not self.can_be_fitted:
            return None
        network = self.network
        if weights is not None:
            network = deepcopy(network).eval()
            load_weights(weights, [network])
        mode = network.training
        network.eval()
        step = -(-len(self.unlabelled.data) // most) or 1
        cases = range(0, len(self.unlabelled.data), step)[idist.get_rank() :: idist.get_world_size()]
        seen = gathered({case: self._see(network, case) for case in cases})
        network.train(mode)
        return self.naming.fit(list(seen.values()))

    def _see(self, network: nn.Module, case: int) -> Seen:
        volume = torch.from_numpy(self.unlabelled.image(case).astype(np.float32))[:, None].to(self.device)
        with autocast(self.device, self.amp):
            logits = self.inferer(volume, network).float()
        return self.naming.see(logits.softmax(1))[1]


class KeepGeometry:
    """Fit the cohort's geometry with the network that a training kept, and add it to its `model.json`.

    Attach it behind what writes the network. Of several processes the first writes.

    Args:
        geometry: of the cohort.
        folder: of `model.pt` and `model.json`.
    """

    def __init__(self, geometry: CohortGeometry, folder: str | Path) -> None:
        self.geometry, self.folder = geometry, Path(folder)

    def __call__(self) -> None:
        """Write `chain_geometry` into the settings beside the weights; nothing where it cannot be fitted."""
        weights = self.folder / WEIGHTS
        idist.barrier()  # until the first has written the network
        if not weights.is_file():
            return
        geometry = self.geometry.fit(MOST_VOLUMES, weights)
        if idist.get_rank() == 0:
            self._keep(weights, geometry)
        idist.barrier()

    def _keep(self, weights: Path, geometry: ChainGeometry | None) -> None:
        if geometry is None:
            logger.info("no label shows a landmark of the chain: levels will be decoded, not named by geometry")
        else:
            settings = {**(model_settings(self.folder) or {}), "chain_geometry": geometry.as_json()}
            write_model_files(self.folder, weights.read_bytes(), settings)
            logger.info("geometry of the chain: kept in %s", self.folder / SETTINGS)


class NameVolumed(Transform):
    """Name the validation's volumes as inference will name scans, so that the weights are chosen by what users get.

    By the network's own names a network that sees tissue better can score worse: one volume that is named a level off
    outweighs all borders. Attach it to the evaluator, and put it before `VolumeLabelMapsd`.

    Args:
        geometry: of the cohort; fitted anew before each validation. The volumes of validation take no part.
    """

    def __init__(self, geometry: CohortGeometry) -> None:
        self.cohort = geometry
        self.fitted: ChainGeometry | None = None

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.fit)

    def fit(self) -> None:
        """Fit the geometry to what the network sees now."""
        self.fitted = self.cohort.fit(MOST_IN_VALIDATION)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with `named` (S, H, W) int64, from the logits `pred` (S, N, H, W).

        Without a geometry the names are the network's own.
        """
        logits = data["pred"].float()
        if self.fitted is None:
            return {**data, "named": logits.argmax(1)}
        naming = self.cohort.naming
        tissue, seen = naming.see(logits.softmax(1))
        return {**data, "named": naming.label(tissue, seen, self.fitted)}
