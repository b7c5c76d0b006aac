"""Names of a whole cohort of volumes together: the geometry that labelled and unlabelled spines share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import ignite.distributed as idist
import numpy as np
import torch
from torch import Tensor, nn

from ..bundle.model_file import load_weights
from ..data.cache import SliceDataset
from ..ops.levels.geometry import ChainGeometry, find_places, fit_geometry
from ..ops.levels.landmarks import Array, Landmarks
from ..ops.levels.naming import ChainNames, name_tissue
from ..ops.precision import autocast
from ..weights import WEIGHTS, model_settings, write_model_files

MOST_VOLUMES = 200
"""Unlabelled volumes that the kept geometry is fitted to; more of them would change it little and take long."""
logger = logging.getLogger(__name__)


class Seen(NamedTuple):
    """What naming needs of a volume: its landmarks, and the network's evidence for each place, (n, P)."""

    landmarks: Landmarks
    evidence: Array


class CohortNaming:
    """Names all volumes of a cohort together: labelled spines begin, unlabelled ones give means and spreads (EM).

    Args:
        labelled: labelled slices of the training; no others, so that what is validated or tested stays unseen.
        groups: (N,) int64 tissue type of every class, see `scripts.ops.levels.tissue.group_index`.
        chain: class ids from the lowest structure upwards, see `scripts.ops.levels.ordering.chain_index`.
        pixel_mm: size of a pixel.
        gamma: weight of the class prompts' levels beside the network's own, ≥ 0, where no round measures it.
    """

    def __init__(
        self, labelled: SliceDataset, groups: Tensor, chain: Sequence[int] | Tensor, pixel_mm: float, gamma: float = 0.5
    ) -> None:
        self.labelled, self.names, self.pixel_mm = labelled, ChainNames(groups, chain), pixel_mm
        self.gamma = gamma

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
        known = [volume for volume in map(self._known, range(len(self.labelled.data))) if volume is not None]
        if not any((places >= 0).any() for _, places in known):
            return None
        return fit_geometry(known, [s.landmarks for s in seen], self.names.num_places, [s.evidence for s in seen])

    def certainty(self, seen: Seen, geometry: ChainGeometry) -> float:
        """Mean posterior in [0, 1] of the places of a volume's landmarks; 0 where there is none."""
        places = find_places(seen.landmarks, geometry, seen.evidence)
        has = places.best >= 0
        return float(places.posterior[has, places.best[has]].mean()) if has.any() else 0.0

    def label(self, tissue: Tensor, seen: Seen, geometry: ChainGeometry) -> Tensor:
        """Label map (S, H, W) int64 of a volume's tissue types by the geometry."""
        places = find_places(seen.landmarks, geometry, seen.evidence)
        spine = self.names.spine_of_tissue(tissue, self.pixel_mm)
        return name_tissue(spine, self.names.table(seen.landmarks, places.best, geometry))

    def _known(self, case: int) -> tuple[Landmarks, np.ndarray] | None:
        kept = self.labelled.label(case)
        if kept is None:
            return None
        label = torch.from_numpy(np.array(kept))
        spine = self.names.spine_of_label(label, self.pixel_mm)
        return spine.landmarks, self.names.places_of_label(label, spine)


class KeepGeometry:
    """Fit the cohort's geometry with the network that a training kept, and add it to its `model.json`.

    Attach it behind what writes the network. Of several processes the first does it.

    Args:
        naming: of the cohort.
        network: of the kept weights' form; a copy of it is used.
        unlabelled: unlabelled slices; may be empty.
        folder: of `model.pt` and `model.json`.
        inferer: (volume (S, 1, H, W), network) -> logits (S, N, H, W).
        device: where the network runs.
        amp: in mixed precision, see `scripts.ops.precision`.
    """

    def __init__(
        self,
        naming: CohortNaming,
        network: nn.Module,
        unlabelled: SliceDataset,
        folder: str | Path,
        inferer: Callable[[Tensor, nn.Module], Tensor],
        device: torch.device | str = "cpu",
        amp: bool = False,
    ) -> None:
        self.naming, self.network, self.unlabelled, self.folder = naming, network, unlabelled, Path(folder)
        self.inferer, self.device, self.amp = inferer, device, amp

    @torch.no_grad()
    def __call__(self) -> None:
        """Write `chain_geometry` into the settings beside the weights; nothing where it cannot be fitted."""
        if self.naming.fit([]) is None:
            logger.info("no label shows a landmark of the chain: levels will be decoded, not named by geometry")
        elif idist.get_rank() == 0 and (self.folder / WEIGHTS).is_file():
            network = deepcopy(self.network).eval()
            load_weights(self.folder / WEIGHTS, [network])
            step = -(-len(self.unlabelled.data) // MOST_VOLUMES) or 1
            cases = range(0, len(self.unlabelled.data), step)
            geometry = self.naming.fit([self._see(network, case) for case in cases])
            assert geometry is not None  # it could be fitted to the labels alone
            settings = {**(model_settings(self.folder) or {}), "chain_geometry": geometry.as_json()}
            write_model_files(self.folder, (self.folder / WEIGHTS).read_bytes(), settings)
            count = len(self.naming.labelled.data), len(cases)
            logger.info("geometry of the chain: %d labelled and %d unlabelled volumes", *count)
        idist.barrier()

    def _see(self, network: nn.Module, case: int) -> Seen:
        volume = torch.from_numpy(self.unlabelled.image(case).astype(np.float32))[:, None].to(self.device)
        with autocast(self.device, self.amp):
            logits = self.inferer(volume, network).float()
        return self.naming.see(logits.softmax(1))[1]
