"""Rounds of pseudo-labels: from time to time the teacher labels every unlabelled volume as a whole, in spinal order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from ..bundle.run_record import has_datalist
from ..data.cache import MAPS, SliceDataset, VolumeDataset, open_array
from ..data.datalist import DataError
from ..evaluation.metrics import mean_dice
from ..files import whole_file
from ..labels import IGNORE
from ..ops.levels.geometry import ChainGeometry
from ..ops.levels.ordering import decode_order
from ..ops.precision import autocast
from ..ops.prompt_map import upsample
from .cohort import CohortNaming, Seen, gathered

logger = logging.getLogger(__name__)
SURE = 0.9
"""Probability of a volume's names from which the log counts it as certain."""


class PseudoLabelRounds:
    """Keeps a label map of every unlabelled volume, made anew by the teacher at the beginning of some epochs.

    A slice by itself says little about which vertebra is which; a whole volume, decoded along the chain, says more, and
    more than a training step could afford to ask. Attach it to a trainer, add it to the checkpoint's objects, and let
    the optimisation step call it with every batch. Processes that train together share the volumes of a round: each
    labels some, the first puts their label maps together, all read them.

    Args:
        teacher: (S, 1, H, W) -> logits (S, N, H, W).
        dataset: unlabelled slices, with or without prompt-guided maps.
        label: (logits (S, N, H, W), attention maps (S, N, H, W) or None) -> class ids (S, H, W), 255 for none.
        folder: where the label maps are kept, one file a round.
        epochs: epochs, from 1, at whose beginning a round starts; before the first one batches stay as they are.
        inferer: (volume (S, 1, H, W), teacher) -> logits (S, N, H, W), see `scripts.inference.inferers`.
        device: where the teacher runs.
        amp: in mixed precision, see `scripts.ops.precision`.
        weigh: gives the `gamma` of `label` at each round, see `scripts.training.pseudo_labels`; None leaves its own.
        cohort: names all volumes of a round together by their geometry, in place of `label`; a slice's pseudo-label is
            then used in a batch with the probability of its volume's names, else ignored. None, or a cohort whose
            labels show no landmark: each volume is named by `label`.
        keep_maps: whether a slice that has a pseudo-label comes with its attention maps, too. False where no term of
            the objective reads them: they need not be read from disk, moved to the device and warped.
    """

    def __init__(
        self,
        teacher: nn.Module,
        dataset: SliceDataset,
        label: Callable[..., Tensor],
        folder: str | Path,
        epochs: Sequence[int],
        inferer: Callable[[Tensor, nn.Module], Tensor],
        device: torch.device | str = "cpu",
        keep_maps: bool = True,
        amp: bool = False,
        weigh: MeasuredWeight | None = None,
        cohort: CohortNaming | None = None,
    ) -> None:
        self.teacher, self.dataset, self.label, self.weigh = teacher, dataset, label, weigh
        self.cohort = cohort
        self.certainty: list[float] | None = None
        """Probability of the names of each volume in the latest round; None where none is known."""
        self.folder, self.epochs, self.device = Path(folder), frozenset(epochs), device
        self.inferer, self.keep_maps, self.amp = inferer, keep_maps, amp
        self.epoch = 0
        """Epoch of the latest round; 0 before the first."""
        self.draws = 0
        """Batches of which slices were drawn by the certainty of their names."""

    def start(self, epoch: int) -> None:
        """Label all volumes if a round begins with this epoch, but for a run that goes on without its class prompts."""
        prompts = self.dataset.prompt_maps
        if epoch not in self.epochs or len(self.dataset) == 0 or (prompts is not None and not prompts.available):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        cohort = self.cohort if self.cohort is not None and self.cohort.fit([]) is not None else None
        seen = self._label_share(cohort)
        idist.barrier()
        name, self.certainty = None, None
        if cohort is not None:
            seen = gathered(seen)
            volumes = [seen[case] for case in range(len(self.dataset.data))]
            geometry = cohort.fit(volumes)
            assert geometry is not None  # it could be fitted to the labels alone
            self.certainty = [cohort.certainty(of, geometry) for of in volumes]
            name = partial(_name, cohort, geometry, volumes)
            logger.info("names of %d volumes are certain, of %d", sum(c >= SURE for c in self.certainty), len(volumes))
        # A run that is resumed goes on in this round or in the one before; what else lies here is of earlier runs.
        needed = {self._file(epoch), self._file(self.epoch)}
        if idist.get_rank() == 0:
            self._join_shares(self._file(epoch), name)
            for old in set(self.folder.glob("epoch_*.npy")) - needed:
                old.unlink()
        idist.barrier()
        self._use(epoch)

    def _label_share(self, cohort: CohortNaming | None) -> dict[int, Seen]:
        """Write this process's volumes, every `world size`-th, into a file of its own: label maps, or types to name."""
        rank, ranks = idist.get_rank(), idist.get_world_size()
        mode = self.teacher.training
        self.teacher.eval()
        seen: dict[int, Seen] = {}
        weight = self._weight(self.label if cohort is None else partial(_named, cohort))
        label: Callable[..., Any] = self.label if cohort is None else partial(_see, cohort)
        label = label if weight is None else partial(label, gamma=weight)
        cases = range(rank, len(self.dataset.data), ranks)
        bar = tqdm(cases, desc="pseudo-labels", leave=False, disable=True if rank else None)  # None: on a terminal
        self._write(self._share(rank), cases, (self._label(case, label, seen) for case in bar))
        self.teacher.train(mode)
        return seen

    def _weight(self, label: Callable[..., Tensor]) -> float | None:
        """Weight that this round gives the class prompts, None without a measure; every process finds the same."""
        prompts = self.dataset.prompt_maps
        if self.weigh is None or prompts is None:
            return None
        prompts.build(self.weigh.volumes.slices)
        return self.weigh(self._evidence, label)

    def _join_shares(self, file: Path, name: Callable[[int, np.ndarray], np.ndarray] | None) -> None:
        """Put the volumes of all processes in their order, and give types their names."""
        ranks, cases = idist.get_world_size(), range(len(self.dataset.data))
        shares = [self._share(rank) for rank in range(ranks)]
        labels = [np.load(share, mmap_mode="r") for share in shares]
        ends = [0] * ranks

        def volumes() -> Iterator[np.ndarray]:
            for case in cases:
                rank = case % ranks
                first, ends[rank] = ends[rank], ends[rank] + len(self.dataset.image(case))
                volume = labels[rank][first : ends[rank]]
                yield volume if name is None else name(case, volume)

        self._write(file, cases, volumes())
        for share in shares:
            share.unlink()

    @torch.no_grad()
    def _label(self, case: int, label: Callable[..., Any], seen: dict[int, Seen]) -> np.ndarray:
        made = label(*self._evidence(self.dataset, case))
        if isinstance(made, tuple):
            made, seen[case] = made
        return made.to(torch.uint8).cpu().numpy()

    def _evidence(self, dataset: SliceDataset, case: int) -> tuple[Tensor, Tensor | None]:
        """The teacher's logits (S, N, H, W) of a volume, and its attention maps of that shape if there are prompts."""
        image = dataset.image(case)
        volume = torch.from_numpy(image.astype(np.float32))[:, None].to(self.device)
        with autocast(self.device, self.amp):
            logits = self.inferer(volume, self.teacher).float()
        prompts = self.dataset.prompt_maps
        if prompts is None:
            return logits, None
        slices = [prompts.read(dataset, case, number)[0] for number in range(len(image))]
        return logits, upsample(torch.stack(slices).to(self.device), image.shape[1:])

    def _write(self, path: Path, cases: Sequence[int], label_maps: Iterable[np.ndarray]) -> None:
        """A file of the label maps of some volumes' slices, written as they come: memory does not grow with them.

        No memory map: to one on a full disk the system answers by ending the process.
        """
        image = self.dataset.image
        shape = (sum(len(image(case)) for case in cases), *image(0).shape[1:])
        with whole_file(path) as file:
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for labels in label_maps:
                file.write(labels.tobytes())

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add `pseudo_label` (B, 1, H, W) uint8 to the unlabelled stream of a batch on the CPU, by its `index`."""
        stream = batch["unlabelled"]
        if not self.epoch or stream is None:
            return batch
        # opened for one batch: what was read of a memory map counts as the run's memory as long as it is open
        label_maps = np.load(self._file(self.epoch), mmap_mode="r")
        labels = torch.from_numpy(label_maps[stream["index"].numpy()])[:, None]
        if self.certainty is not None:  # in the mean over steps a volume counts as much as its names are certain
            certain = np.repeat(self.certainty, [len(self.dataset.image(case)) for case in range(len(self.certainty))])
            # for all slices, and by the number of the draw: it does not depend on how processes share the slices
            drawn = torch.rand(len(certain), generator=torch.Generator().manual_seed(self.draws))
            self.draws += 1
            labels[(drawn >= torch.from_numpy(certain))[stream["index"]]] = IGNORE
        # also here: a loader's own processes do not see that the data set has been told to leave the maps out
        kept = {name: value for name, value in stream.items() if self.keep_maps or name not in MAPS}
        return {**batch, "unlabelled": {**kept, "pseudo_label": labels}}

    def state_dict(self) -> dict[str, Any]:
        """Which round it is, and how certain its names are; its label maps stay in their file."""
        return {"epoch": self.epoch, "certainty": self.certainty, "draws": self.draws}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the label maps of the round that the checkpoint names.

        Raises:
            FileNotFoundError: they are gone.
        """
        self.certainty, self.draws = state.get("certainty"), state.get("draws", 0)
        if state["epoch"]:
            if not self._file(state["epoch"]).is_file():
                raise FileNotFoundError(
                    f"{self._file(state['epoch'])} is gone, without which this run cannot be resumed; start it anew"
                )
            self._use(state["epoch"])

    def _use(self, epoch: int) -> None:
        self.epoch = epoch
        self.dataset.with_maps = self.keep_maps
        logging.getLogger(__name__).info("pseudo-labels of epoch %d: %s", epoch, self._file(epoch))

    def _share(self, rank: int) -> Path:
        return self.folder / f".share_{rank}.npy"

    def _file(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch:06d}.npy"


def _see(cohort: CohortNaming, logits: Tensor, maps: Tensor | None, gamma: float | None = None) -> tuple[Tensor, Seen]:
    return cohort.see(logits.softmax(1), maps, gamma)


def _named(cohort: CohortNaming, logits: Tensor, maps: Tensor | None, gamma: float) -> Tensor:
    """Label map of a volume by the labelled volumes' geometry alone."""
    geometry = cohort.fit([])
    assert geometry is not None
    return cohort.label(*_see(cohort, logits, maps, gamma), geometry)


def _name(
    cohort: CohortNaming, geometry: ChainGeometry, seen: Sequence[Seen], case: int, tissue: np.ndarray
) -> np.ndarray:
    label = cohort.label(torch.from_numpy(tissue.astype(np.int64)), seen[case], geometry)
    return label.to(torch.uint8).numpy()


class PseudoLabelledSlices(Dataset[dict[str, Any]]):
    """Unlabelled slices with the labels that the last round of a run gave them.

    Args:
        dataset: the slices, in the order that they had in the run.
        run: the run's folder.
        datalist: the datalist of the slices, which the run must have had, too.
        labelled: ids of the classes that its training labels contained; others count as not labelled here.
    """

    def __init__(self, dataset: SliceDataset, run: str | Path, datalist: str | Path, labelled: Sequence[int]) -> None:
        self.dataset, self.run, self.datalist = dataset, Path(run), datalist
        self.is_unlabelled = torch.ones(dataset.num_classes, dtype=torch.bool)
        self.is_unlabelled[list(labelled)] = False

    @cached_property
    def file(self) -> Path:
        """The label maps (S, H, W) uint8 of all slices.

        Raises:
            DataError: there are none, or they are of another datalist or of other slices.
        """
        files = sorted((self.run / "pseudo_labels").glob("epoch_*.npy"))
        if not files:
            raise DataError(f"{self.run} holds no pseudo-labels; name the folder of a run with `rounds` of them")
        if not has_datalist(self.run, self.datalist):
            raise DataError(
                f"{self.run} did not end with {self.datalist} as it is now; its pseudo-labels may be of other scans"
            )
        shape = (len(self.dataset), *self.dataset.image(0).shape[1:])
        if open_array(files[-1]).shape != shape:
            raise DataError(f"{files[-1]} must be of {shape} slices (S, H, W), got {open_array(files[-1]).shape}")
        return files[-1]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """As of `SliceDataset`, with `label` (1, H, W)."""
        label = torch.from_numpy(open_array(self.file)[index].copy())[None]
        return {**self.dataset[index], "label": label, "is_unlabelled": self.is_unlabelled}


def round_epochs(max_epochs: int, ramp: Callable[[float], float], rounds: int, at_once: bool = False) -> list[int]:
    """Epochs at which rounds start: as many, at equal distances, after as long a time without, while the ramp is not 0.

    One round begins in the middle of the epochs in which the ramp is not 0, two after each third of them: a teacher
    that has not seen unlabelled slices yet gives whole spines wrong names, to be learned for the rest of the run.

    Args:
        max_epochs: of the training.
        ramp: progress in [0, 1) -> weight of the unlabelled terms.
        rounds: number of rounds; 0 for none.
        at_once: one round more, at the first of these epochs, for a teacher that begins with trained weights.
    """
    active = [epoch for epoch in range(1, max_epochs + 1) if ramp(epoch / max_epochs - 1e-9) > 0]
    if not active or not rounds:
        return []
    return sorted({active[len(active) * k // (rounds + 1)] for k in range(0 if at_once else 1, rounds + 1)})


def ordered_label(
    logits: Tensor, maps: Tensor | None, *, groups: Tensor, chain: Tensor, gamma: float = 0.5, level_weight: float = 0.1
) -> Tensor:
    """Label map of a volume: the teacher's types, and levels decoded from teacher and prompts in the spine's order.

    Args:
        logits: (S, N, H, W) of the teacher.
        maps: (S, N, H, W) attention maps ≥ 0, or None.
        groups: (N,) int64 type of every class.
        chain: (J,) class ids from the lowest structure upwards.
        gamma: exponent of the prompts' level, ≥ 0.
        level_weight: see `scripts.ops.levels.ordering.decode_order`.

    Returns:
        (S, H, W) int64 class ids.
    """
    probs = logits.softmax(1)
    evidence = (probs + 1e-4).log()
    if maps is not None and gamma > 0:
        evidence.add_((maps + 1e-3).log_(), alpha=gamma)
    return decode_order(probs, evidence, groups=groups, chain=chain, level_weight=level_weight, pooled=True)


class MeasuredWeight:
    """Exponent of the prompts' level that makes the best pseudo-labels of held-out volumes.

    Args:
        volumes: labelled volumes that were held out, as validation's are.
        weights: exponents to choose among, ≥ 0; 0 is for prompts that are best left out.
    """

    def __init__(self, volumes: VolumeDataset, weights: Sequence[float]) -> None:
        self.volumes, self.weights = volumes, sorted(weights)

    @torch.no_grad()
    def __call__(
        self, evidence: Callable[[SliceDataset, int], tuple[Tensor, Tensor | None]], label: Callable[..., Tensor]
    ) -> float | None:
        """The weight of the highest mean Dice, the least of equal ones; None if no volume was held out.

        Args:
            evidence: (data set, number of a volume) -> teacher's logits (S, N, H, W) and attention maps.
            label: (logits, maps, gamma=weight) -> class ids (S, H, W).
        """
        if not len(self.volumes):
            return None
        scores = torch.zeros(len(self.volumes), len(self.weights), dtype=torch.float64)
        for case in range(len(self.volumes)):
            volume = self.volumes[case]
            logits, maps = evidence(self.volumes.slices, case)
            hidden = volume["is_unlabelled"].nonzero().flatten().tolist()
            for number, weight in enumerate(self.weights):
                pred = label(logits, maps, gamma=weight).cpu()
                scores[case, number] = mean_dice(pred, volume["label"][:, 0], logits.shape[1], hidden)
        means = scores.nanmean(0)
        best = self.weights[int(means.nan_to_num().argmax())]
        told = ", ".join(f"{weight:g}: {100 * mean:.1f}" for weight, mean in zip(self.weights, means, strict=True))
        logger.info("weight %g for the class prompts; mean Dice of held-out volumes by weight: %s", best, told)
        return best
