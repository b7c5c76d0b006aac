"""Data loaders of training: infinite, resumable batches of labelled and unlabelled slices; distributed sampling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from pathlib import Path
from typing import Any, TypeVar

import ignite.distributed as idist
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from .datalist import DataError
from .output_folder import OutputFolder
from .scans import find_scans
from .transforms import LABEL_MAP, file_stem


class EndlessBatches(Sampler[list[int]]):
    """Infinite batch sampler: shuffled epochs one after another.

    Batch `step` depends on (seed, step) only, so that training can be resumed at any step.

    Args:
        dataset: anything with a length, which is read when iteration begins.
        batch_size: indices in each batch; a batch may reach into the next epoch, so that all have equal size.
        seed: of the shuffling.
        rank: of this process; it gets the `rank`-th of `ranks` equal parts of every batch.
        ranks: number of processes that share each batch.

    Raises:
        DataError: the batch cannot be divided equally, as averaging gradients over processes requires.
    """

    def __init__(self, dataset: Any, batch_size: int, seed: int = 0, rank: int = 0, ranks: int = 1) -> None:
        if batch_size % ranks:
            raise DataError(
                f"a batch of {batch_size} slices cannot be shared equally by {ranks} processes; "
                f"set --batch_size and --unlabelled_batch_size to multiples of {ranks}"
            )
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        share = batch_size // ranks
        self.share = slice(rank * share, (rank + 1) * share)
        self.start_step = 0

    def __iter__(self) -> Iterator[list[int]]:
        size = len(self.dataset)
        if size == 0:
            raise ValueError("there are no slices to draw batches from; check the datalist's sections")
        position = self.start_step * self.batch_size
        passed, order = -1, torch.empty(0)
        while True:
            batch = []
            for _ in range(self.batch_size):
                if position // size != passed:
                    passed = position // size
                    generator = torch.Generator().manual_seed(self.seed * 1_000_003 + passed)
                    order = torch.randperm(size, generator=generator)
                batch.append(int(order[position % size]))
                position += 1
            yield batch[self.share]


class TwoStreamLoader:
    """Two-stream loader for semi-supervised training: infinite `{"labelled": batch, "unlabelled": batch or None}`.

    Args:
        labelled: labelled slices.
        unlabelled: unlabelled slices; None or an empty list of volumes gives None in every pair.
        batch_size: labelled slices a step, of all processes together.
        unlabelled_batch_size: unlabelled slices a step, of all processes together.
        seed: of the shuffling.
        rank: of this process; see `EndlessBatches`.
        ranks: number of processes that share each batch.
        num_workers: loader processes per stream; slices are read from a memory map, so 0 is usually fastest.
    """

    def __init__(
        self,
        labelled: Dataset[Any],
        unlabelled: Dataset[Any] | None,
        batch_size: int,
        unlabelled_batch_size: int,
        seed: int = 0,
        num_workers: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        has_unlabelled = unlabelled is not None and len(unlabelled.data) > 0  # type: ignore[attr-defined]
        self.samplers = [EndlessBatches(labelled, batch_size, seed, rank, ranks)]
        if has_unlabelled:
            self.samplers.append(EndlessBatches(unlabelled, unlabelled_batch_size, seed + 1, rank, ranks))
        self.loaders = [
            DataLoader(
                s.dataset, batch_sampler=s, num_workers=num_workers, pin_memory=torch.cuda.is_available(),
                persistent_workers=num_workers > 0,
                generator=torch.Generator(),  # else starting an iterator draws from the global generator
            )
            for s in self.samplers
        ]  # fmt: skip

    def start_at(self, step: int) -> None:
        """Begin the next iteration at this step (0-based)."""
        for sampler in self.samplers:
            sampler.start_step = step

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if len(self.loaders) == 1:
            for batch in self.loaders[0]:
                yield {"labelled": batch, "unlabelled": None}
        else:
            for labelled, unlabelled in zip(*self.loaders, strict=True):
                yield {"labelled": labelled, "unlabelled": unlabelled}


Item = TypeVar("Item")


class VolumeShare(Sampler[int]):
    """Distributed sampler of volumes: every `ranks`-th for each process.

    Args:
        dataset: anything with a length.
        rank: of this process.
        ranks: number of processes.
        equal: pad with the first volumes so that all processes have equally many, for engines that cannot run without
            data (scores count a volume once). Otherwise some processes have one volume less, or none.
    """

    def __init__(self, dataset: Sized, rank: int = 0, ranks: int = 1, equal: bool = False) -> None:
        count = len(dataset)
        total = -(-count // ranks) * ranks if equal else count
        self.volumes = [number % count for number in range(rank, total, ranks)]

    def __len__(self) -> int:
        return len(self.volumes)

    def __iter__(self) -> Iterator[int]:
        return iter(self.volumes)


def own_share_first(items: Sequence[Item]) -> list[Item]:
    """All items, rotated to start at this process's share, so that processes that skip finished items divide them."""
    start = len(items) * idist.get_rank() // idist.get_world_size()
    return [*items[start:], *items[:start]]


def scans_to_label(
    folder: str | Path | None, outputs: OutputFolder, rank: int = 0, ranks: int = 1, sequence: str = "t2"
) -> list[dict[str, Any]]:
    """One process's share of the scans below a folder, without those that have a label map already.

    Scans are shared before finished ones are left out, so that the shares do not depend on when a process starts.

    Args:
        folder: see `scripts.data.scans.find_scans`.
        outputs: folder of the label maps.
        rank: of this process.
        ranks: number of processes.
        sequence: of DICOM series, see `scripts.data.scans.find_scans`.

    Raises:
        DataError: see `scripts.data.scans.find_scans`; or the label map of a scan's name was made from another scan.
    """
    own = find_scans(folder, sequence)[rank::ranks]
    return [scan for scan in own if not outputs.holds(file_stem(scan["case"]) + LABEL_MAP, scan["image"])]
