"""How several processes share the volumes of a data set: slicing, validation, labelling of a large folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from pathlib import Path
from typing import Any, TypeVar

import ignite.distributed as idist
from torch.utils.data import Sampler

from ..transforms import label_map_path
from .scans import find_scans

Item = TypeVar("Item")


class VolumeShare(Sampler[int]):
    """The volumes of one process: every `ranks`-th.

    Args:
        dataset: anything with a length.
        rank: of this process.
        ranks: number of processes.
        equal: gives every process as many volumes as the others, the first ones twice where they do not divide, for
            engines that cannot run without data; scores count a volume once. Otherwise some processes have one volume
            less, or none, and no volume is seen twice.
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
    """All items, from where this process's share of them begins: processes that skip what is done meet last."""
    start = len(items) * idist.get_rank() // idist.get_world_size()
    return [*items[start:], *items[:start]]


def scans_to_label(
    folder: str | Path | None, output_dir: str | Path, rank: int = 0, ranks: int = 1, sequence: str = "t2"
) -> list[dict[str, Any]]:
    """One process's share of the scans below a folder, without those that have a label map already.

    Scans are shared before the finished ones are left out, so that processes agree whenever each of them looks.

    Args:
        folder: see `scripts.data.scans.find_scans`.
        output_dir: where the label maps are.
        rank: of this process.
        ranks: number of processes.
        sequence: of DICOM series, see `scripts.data.scans.find_scans`.

    Raises:
        DataError: see `scripts.data.scans.find_scans`.
    """
    own = find_scans(folder, sequence)[rank::ranks]
    return [scan for scan in own if not label_map_path(output_dir, scan["case"]).is_file()]
