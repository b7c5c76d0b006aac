"""Disk cache of preprocessed volumes, and data sets that read slices or volumes from it by memory map."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import ignite.distributed as idist
import numpy as np
import torch
from monai.data.utils import pickle_hashing
from monai.transforms import Compose
from torch.utils.data import Dataset
from tqdm import tqdm

from ..files import whole_folder
from ..labels import label_map_file
from .check.remembered import stamps
from .loaders import own_share_first

IMAGE, LABEL = "image.npy", "label.npy"
MAPS = ("attention_maps", "thresholds")
"""Keys of an item that `prompt_maps` adds."""
OPEN_ARRAYS = 128
"""Largest number of open memory maps, which bounds memory and file handles."""


class SliceCache:
    """Disk cache of preprocessed volumes, one folder per volume, kept between runs.

    Args:
        folder: folder of the cache.
        transform: deterministic preprocessing, dictionary -> `image` (1, H, W, S) and optional `label` (1, H, W, S).

    Convention: `image.npy` is (S, H, W) float16, `label.npy` (S, H, W) uint8. A folder is named by a hash of the files
    (path, size, times), the label map and the transforms, so that changes invalidate it.
    """

    def __init__(self, folder: str | Path, transform: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        self.folder = Path(folder)
        self.transform = transform
        # Without the Compose itself, whose random state would change the hash.
        steps = list(transform.flatten().transforms) if isinstance(transform, Compose) else transform
        self._transform_hash = pickle_hashing(steps).decode()

    def key(self, entry: Mapping[str, Any]) -> str:
        """Name of the folder of one volume."""
        label_map = entry.get("label_map")
        if isinstance(label_map, str | Path):
            label_map = label_map_file(label_map).read_text(encoding="utf-8")
        files = [stamps(Path(entry[name])) for name in ("image", "label") if name in entry]
        content = json.dumps([self._transform_hash, label_map, files], sort_keys=True)
        return hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()

    def build(self, entry: Mapping[str, Any]) -> Path:
        """Preprocess a volume unless it is cached; return its folder. Atomic, and safe with several processes."""
        target = self.folder / self.key(entry)
        if target.is_dir():
            return target
        out = self.transform({k: entry[k] for k in ("image", "label", "label_map") if k in entry})
        arrays = {}
        for name, file, dtype in (("image", IMAGE, np.float16), ("label", LABEL, np.uint8)):
            if name in entry:
                slices = np.moveaxis(np.asarray(out[name])[0], -1, 0)  # (H, W, S) -> (S, H, W)
                arrays[file] = np.ascontiguousarray(slices, dtype=dtype)
        with whole_folder(target) as part:
            for file, array in arrays.items():
                np.save(part / file, array)
        return target

    def build_all(self, entries: Sequence[Mapping[str, Any]]) -> list[Path]:
        """Preprocess all missing volumes with a progress bar; processes share the work."""
        missing = [e for e in entries if not (self.folder / self.key(e)).is_dir()]
        hidden = not missing or idist.get_rank() > 0 or None  # None: on a terminal
        for entry in tqdm(own_share_first(missing), desc="slicing volumes", disable=hidden):
            self.build(entry)
        return [self.folder / self.key(entry) for entry in entries]


@functools.lru_cache(maxsize=OPEN_ARRAYS)
def open_array(path: Path) -> np.ndarray:
    """Read-only memory map of a `.npy` file that never changes."""
    return np.load(path, mmap_mode="r")


class SliceDataset(Dataset[dict[str, Any]]):
    """Data set of all slices of a list of volumes, read from a `SliceCache`.

    Args:
        data: entries with `image` and optional `label` and `unlabelled_classes`.
        cache: disk cache; volumes are preprocessed at first access, not at construction.
        num_classes: N, background included.
        prompt_maps: cache of attention maps (`scripts.data.attention_map_cache`), or None.

    An item holds `image` (1, H, W) float32, `is_unlabelled` (N,) bool, its `index`, `label` (1, H, W) uint8 where the
    entry has one, and with `prompt_maps` also `attention_maps` (N, h, w) float32 and `thresholds` (N,) float32.

    Attributes:
        with_maps: whether items hold these two; may be switched off during training.
    """

    def __init__(
        self, data: Sequence[Mapping[str, Any]], cache: SliceCache, num_classes: int, prompt_maps: Any | None = None
    ) -> None:
        self.data = list(data)
        self.cache = cache
        self.num_classes = num_classes
        self.prompt_maps, self.with_maps = prompt_maps, True
        self._folders: list[Path] | None = None
        self._first: np.ndarray = np.zeros(1, dtype=np.int64)

    def prepare(self) -> SliceDataset:
        """Preprocess all volumes and count the slices, once."""
        if self._folders is None:
            self._folders = self.cache.build_all(self.data)
            self._first = np.cumsum([0] + [len(open_array(folder / IMAGE)) for folder in self._folders])
        return self

    def image(self, case: int) -> np.ndarray:
        """(S, H, W) float16 memory map of a volume."""
        return open_array(self._folder(case) / IMAGE)

    def label(self, case: int) -> np.ndarray | None:
        """(S, H, W) uint8 memory map of a volume's label, None where there is none."""
        return open_array(self._folder(case) / LABEL) if "label" in self.data[case] else None

    def _folder(self, case: int) -> Path:
        self.prepare()
        assert self._folders is not None
        return self._folders[case]

    def __len__(self) -> int:
        self.prepare()
        return int(self._first[-1])

    def labelled_classes(self) -> list[int]:
        """Ids of the classes that at least one case labels."""
        hidden = [set(entry.get("unlabelled_classes", ())) for entry in self.data]
        never = set.intersection(*hidden) if hidden else set()
        return [i for i in range(self.num_classes) if i not in never]

    def is_unlabelled(self, case: int) -> torch.Tensor:
        """(N,) bool, true for classes that the case shows but does not label."""
        flags = torch.zeros(self.num_classes, dtype=torch.bool)
        flags[list(self.data[case].get("unlabelled_classes", ()))] = True
        return flags

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.prepare()
        if not 0 <= index < len(self):
            raise IndexError(index)
        case = int(np.searchsorted(self._first, index, side="right")) - 1
        number = index - int(self._first[case])
        item: dict[str, Any] = {
            "image": torch.from_numpy(self.image(case)[number].astype(np.float32))[None],
            "is_unlabelled": self.is_unlabelled(case),
            "index": index,
        }
        label = self.label(case)
        if label is not None:
            item["label"] = torch.from_numpy(label[number].copy())[None]
        if self.with_maps and self.prompt_maps is not None and self.prompt_maps.available:
            item.update(zip(MAPS, self.prompt_maps.read(self, case, number), strict=True))
        return item


class Slices(Protocol):
    """Interface of a data set of slices with a length."""

    def __len__(self) -> int:
        """Number of slices."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One slice."""


class JoinedSlices(Dataset[dict[str, Any]]):
    """Concatenation of data sets of slices.

    Args:
        parts: data sets with items as of `SliceDataset`; their length is read at first access.
        keys: keys of an item.
    """

    def __init__(self, parts: Sequence[Slices], keys: Sequence[str] = ("image",)) -> None:
        self.parts, self.keys = list(parts), tuple(keys)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        for part in self.parts:
            if index < len(part):
                break
            index -= len(part)
        item = part[index]
        return {key: item[key] for key in self.keys}


class VolumeDataset(Dataset[dict[str, Any]]):
    """Data set of whole volumes: `image`, `label` (S, 1, H, W), `is_unlabelled` (N,) and `index`."""

    def __init__(self, data: Sequence[Mapping[str, Any]], cache: SliceCache, num_classes: int) -> None:
        self.data = list(data)
        self.slices = SliceDataset(data, cache, num_classes)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, case: int) -> dict[str, Any]:
        if not 0 <= case < len(self):
            raise IndexError(case)
        slices = self.slices.prepare()
        item: dict[str, Any] = {
            "image": torch.from_numpy(slices.image(case).astype(np.float32))[:, None],
            "is_unlabelled": slices.is_unlabelled(case),
            "index": case,
        }
        label = slices.label(case)
        if label is not None:
            item["label"] = torch.from_numpy(np.array(label))[:, None]
        return item
