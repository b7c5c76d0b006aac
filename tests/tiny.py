"""Small things that several tests share: a network, batches drawn on the spot, volumes on disk, and a slice cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.transforms import Compose, LoadImaged
from torch import Tensor

from scripts.data.cache import SliceCache
from scripts.networks.resunet import ResUNet2d

CLASSES = 4
SIZE = 16


def network(classes: int = CLASSES, seed: int = 0, dropout: float = 0.0) -> ResUNet2d:
    """The bundle's network in two narrow levels."""
    torch.manual_seed(seed)
    return ResUNet2d(out_channels=classes, channels=(4, 8), dropout=dropout)


def stream(batch: int = 2, classes: int = CLASSES, seed: int = 0, labelled: bool = True) -> dict[str, Tensor]:
    """Slices whose grey value follows the class; classes lie below each other in bands of random height."""
    generator = torch.Generator().manual_seed(seed)
    heights = torch.rand(batch, SIZE, 1, generator=generator).expand(batch, SIZE, SIZE).cumsum(1)
    label = (heights / heights[:, -1:] * classes).long().clamp(max=classes - 1)[:, None]  # (B, 1, H, W)
    image = label - classes / 2 + 0.1 * torch.randn(label.shape, generator=generator)
    made = {"image": image, "is_unlabelled": torch.zeros(batch, classes, dtype=torch.bool)}
    return {**made, "label": label.to(torch.uint8)} if labelled else made


def batch(unlabelled: bool = True) -> dict[str, Any]:
    """A labelled and an unlabelled stream."""
    return {"labelled": stream(seed=1), "unlabelled": stream(seed=2, labelled=False) if unlabelled else None}


def train(
    objective: Any, parameters: Any, batch: dict[str, Any], steps: int = 40, progress: float = 1.0
) -> list[float]:
    """The losses of some steps on one batch."""
    optimiser = torch.optim.Adam(parameters, 0.02)
    losses = []
    for _ in range(steps):
        loss = objective(batch, progress)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def write_volume(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> str:
    """Write a NIfTI file and return its path."""
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return str(path)


def volumes(folder: Path, slices: tuple[int, ...] = (3, 2), labelled: bool = True) -> list[dict[str, Any]]:
    """Volumes (SIZE, SIZE, S) of coarse and fine noise on disk, as entries of a datalist."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(slices))
    entries = []
    for number, count in enumerate(slices):
        image = rng.normal(size=(SIZE // 4, SIZE // 4, count)).repeat(4, axis=0).repeat(4, axis=1)
        image = (image + 0.1 * rng.normal(size=image.shape)).astype(np.float32)
        entry: dict[str, Any] = {"image": write_volume(folder / f"{number}.nii.gz", image), "unlabelled_classes": ()}
        if labelled:
            label = rng.integers(0, CLASSES, image.shape).astype(np.uint8)
            entry["label"] = write_volume(folder / f"{number}_seg.nii.gz", label)
        entries.append(entry)
    return entries


def load_transform() -> Compose:
    """Read image and label and nothing else."""
    return Compose(
        [LoadImaged(["image", "label"], allow_missing_keys=True, ensure_channel_first=True, image_only=True)]
    )


def cache(folder: Path) -> SliceCache:
    """A slice cache that changes nothing on the way."""
    return SliceCache(folder, load_transform())
