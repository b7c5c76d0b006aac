"""Disk cache of attention maps of unlabelled slices, computed by the frozen stage-1 model."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import ignite.distributed as idist
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..files import whole_folder
from ..ops.otsu import otsu_thresholds
from ..ops.precision import autocast, half_precision
from ..ops.prompt_map import average_slices, upsample
from .cache import SliceDataset, open_array
from .loaders import own_share_first

MAPS, THRESHOLDS = "maps.npy", "thresholds.npy"


class PromptMaps:
    """Attention maps (N, h, w) and Otsu thresholds (N,) of every slice of a data set.

    Args:
        model_dir: folder of the stage-1 checkpoint, read by `build`.
        load_model: `load_model(model_dir)` returns a frozen network (B, 1, H, W) -> (B, N, h, w).
        folder: folder of the cache, one sub-folder per stage-1 checkpoint and volume.
        batch_size: slices per forward pass.
        device: of the stage-1 model.
        neighbours: slices on either side over which maps are averaged; 0, as in the paper, for none.
        amp: in mixed precision, see `scripts.ops.precision`.

    Convention: maps are stored as float16 on the patch grid. Thresholds are those of the up-sampled map without
    augmentation; augmentation warps the maps and keeps the thresholds.
    """

    def __init__(
        self,
        model_dir: str | Path,
        load_model: Callable[[str | Path], torch.nn.Module],
        folder: str | Path,
        batch_size: int = 32,
        device: str | torch.device = "cpu",
        neighbours: int = 0,
        amp: bool = False,
    ) -> None:
        self.model_dir, self.folder = Path(model_dir), Path(folder)
        self.load_model, self.batch_size, self.device = load_model, batch_size, device
        self.neighbours, self.amp = neighbours, amp
        self._folders: dict[str, Path] = {}
        self._model: torch.nn.Module | None = None

    @property
    def checkpoint(self) -> Path:
        """File of the stage-1 weights."""
        return self.model_dir / "model.pt"

    @property
    def available(self) -> bool:
        """Whether maps were built (or found) in this run."""
        return bool(self._folders)

    def build(self, dataset: SliceDataset) -> None:
        """Compute the maps of all volumes that are not cached; processes share the work.

        Raises:
            FileNotFoundError: there is no stage-1 checkpoint.
        """
        root = self.folder / self._key()
        dataset.prepare()
        todo: list[tuple[int, Path]] = []
        for case, entry in enumerate(dataset.data):
            key = dataset.cache.key(entry)
            self._folders[str(entry["image"])] = root / key
            if not (root / key).is_dir():
                todo.append((case, root / key))
        if not todo:
            logging.getLogger(__name__).info("attention maps of %d volumes found in %s", len(dataset.data), root)
            return
        model = self.load_model(self.model_dir).to(self.device).eval()
        bar = tqdm(
            own_share_first(todo), desc="attention maps of unlabelled volumes", disable=idist.get_rank() > 0 or None
        )  # None: on a terminal
        for case, target in bar:
            if target.is_dir():  # another process was there
                continue
            image = torch.from_numpy(dataset.image(case).astype(np.float32))[:, None]
            maps, thresholds = self.compute(model, image)
            _write(target, maps.to(torch.float16).numpy(), thresholds.numpy())

    def _key(self) -> str:
        """Hash of the checkpoint's content and of all settings that change the maps."""
        precision = half_precision(self.device) if self.amp else torch.float32
        how = [getattr(self.load_model, "keywords", {}), self.neighbours, self.batch_size, precision]
        return hashlib.sha1(self.checkpoint.read_bytes() + repr(how).encode()).hexdigest()[:16]

    @torch.no_grad()
    def compute(self, model: torch.nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (S, N, h, w) and thresholds (S, N) of the slices (S, 1, H, W), on the CPU."""
        with autocast(self.device, self.amp):
            maps = torch.cat([model(part.to(self.device)).float().cpu() for part in image.split(self.batch_size)])
        # Rounded to float16, as stored, before the thresholds are computed.
        maps = average_slices(maps, self.neighbours).to(torch.float16).float()
        thresholds = [otsu_thresholds(upsample(part, image.shape[-2:])) for part in maps.split(self.batch_size)]
        return maps, torch.cat(thresholds)

    @torch.no_grad()
    def compute_online(self, unlabelled: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        """Maps (B, N, H, W) and thresholds (B, N) of the augmented slices of a batch, without the cache.

        An `attention_source` of `scripts.methods.cps4.CPS4`; None without a stage-1 checkpoint. With `statistics:
        volume` batch statistics are over slices of several volumes.
        """
        if not self.available:
            return None
        if self._model is None:
            self._model = self.load_model(self.model_dir).eval()
        image = unlabelled["image"]
        maps = upsample(self._model.to(image.device)(image), image.shape[-2:])
        return maps, otsu_thresholds(maps)

    def read(self, dataset: SliceDataset, case: int, number: int) -> tuple[Tensor, Tensor]:
        """Maps (N, h, w) and thresholds (N,) of one slice, float32."""
        folder = self._folders[str(dataset.data[case]["image"])]
        maps, thresholds = open_array(folder / MAPS), open_array(folder / THRESHOLDS)
        return torch.from_numpy(maps[number].astype(np.float32)), torch.from_numpy(thresholds[number].copy())


def _write(target: Path, maps: np.ndarray, thresholds: np.ndarray) -> None:
    with whole_folder(target) as part:
        np.save(part / MAPS, maps)
        np.save(part / THRESHOLDS, thresholds)
