"""Random data augmentation of batches on the device: affine, elastic, intensity; one warp for image, label, maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..labels import IGNORE


class BatchAugmentation:
    """Random affine and elastic deformation and intensity augmentation, with parameters per sample.

    MONAI's random transforms work on one slice at a time and would here cost more than the network. There is no
    flipping. The kinds are nnU-Net's but for mirroring and low resolution, and a bias field (Isensee et al., nnU-Net: a
    self-configuring method for deep learning-based biomedical image segmentation, Nature Methods 2021).

    Args:
        rotate_degrees: rotation within ±this angle.
        scale: zoom factor within 1 ± this.
        shift: translation within ± this share of the slice's (height, width); one number is for both.
        elastic_px: standard deviation in pixels of the elastic displacement at `elastic_nodes` nodes; 0 for none.
        elastic_nodes: nodes of the displacement field along (H, W).
        contrast: factor of the grey values within 1 ± this.
        brightness: shift of the grey values within ± this (standard deviations of the volume).
        gamma: exponent on the grey values scaled to [0, 1], within exp(± this); for half of the slices counted from
            white instead of black.
        bias: standard deviation of the logarithm of a smooth field that multiplies the scaled grey values; 0 for none.
        bias_nodes: nodes of that field along (H, W).
        blur: largest weight of the slice averaged over 3 x 3 pixels beside itself, in [0, 1].
        noise: largest standard deviation of added Gaussian noise.
        seed: seed and step fix all random draws, so that a resumed run repeats those of an unbroken one. Noise is drawn
            on the batch's device: a GPU draws other numbers than a CPU.
        rank: of this process. Draws are made for the batch of all processes, so that they do not depend on `ranks`.
        ranks: number of processes that share the batch equally.

    Convention: images (B, 1, H, W) float; labels (B, 1, H, W) integer, nearest neighbour; attention maps
    (B, N, h, w) are up-sampled and warped to (B, N, H, W) in one bilinear interpolation.
    """

    def __init__(
        self,
        rotate_degrees: float = 10.0,
        scale: float = 0.1,
        shift: float | Sequence[float] = 0.05,
        elastic_px: float = 1.0,
        elastic_nodes: tuple[int, int] = (6, 4),
        contrast: float = 0.25,
        brightness: float = 0.25,
        gamma: float = 0.3,
        bias: float = 0.0,
        bias_nodes: tuple[int, int] = (4, 3),
        blur: float = 0.0,
        noise: float = 0.1,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.rotate_degrees, self.scale = rotate_degrees, scale
        self.shift = (shift, shift) if isinstance(shift, float | int) else tuple(shift)
        self.elastic_px, self.elastic_nodes = elastic_px, tuple(elastic_nodes)
        self.contrast, self.brightness, self.gamma, self.noise = contrast, brightness, gamma, noise
        self.bias, self.bias_nodes, self.blur = bias, tuple(bias_nodes), blur
        self.seed, self.rank, self.ranks = seed, rank, ranks

    def __call__(self, batch: dict[str, Any], step: int) -> dict[str, Any]:
        """Return the batch with both streams (`labelled`, `unlabelled`) augmented by the draws of (seed, step)."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step) % 2**63)
        return {name: stream and self._stream(stream, generator) for name, stream in batch.items()}

    def _stream(self, stream: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        image = stream["image"]
        grid = self.grid(image.shape[0], image.shape[-2:], generator, image.device)
        out = dict(stream, image=self.grey_values(warp(image, grid), generator))
        for name in ("label", "pseudo_label"):
            if name in stream:
                out[name] = warp_label(stream[name], grid)
        if "attention_maps" in stream:
            out["attention_maps"] = warp(stream["attention_maps"], grid)
        return out

    def grid(
        self,
        batch: int,
        size: tuple[int, int] | torch.Size,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Random sampling grid (B, H, W, 2) for `torch.nn.functional.grid_sample`.

        Its few numbers are drawn on the CPU, so that they are the same everywhere; it is made on the device.
        """
        height, width = size

        def uniform(bound: float) -> Tensor:
            return (2 * self._own(torch.rand, batch, generator=generator) - 1) * bound

        angle, zoom = uniform(math.radians(self.rotate_degrees)), 1 + uniform(self.scale)
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        # grid_sample's axes run from -1 to 1 whatever the sides' lengths, hence the aspect ratio in the mixed terms.
        theta = torch.stack(
            [
                torch.stack([cos, -sin * height / width, 2 * uniform(self.shift[1])], 1),
                torch.stack([sin * width / height, cos, 2 * uniform(self.shift[0])], 1),
            ],
            1,
        )  # (B, 2, 3)
        theta = theta.to(device, non_blocking=True)
        grid = F.affine_grid(theta, [batch, 1, height, width], align_corners=False)
        if self.elastic_px > 0:
            nodes = self._own(torch.randn, batch, 2, *self.elastic_nodes, generator=generator) * self.elastic_px
            nodes *= torch.tensor([2 / width, 2 / height])[:, None, None]
            grid = grid + _smooth(nodes.to(device, non_blocking=True), size).permute(0, 2, 3, 1)
        return grid

    def grey_values(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Random gamma, bias field, blur, contrast, brightness and Gaussian noise; (B, 1, H, W) in and out."""

        def uniform(bound: float) -> Tensor:
            draws = (2 * self._own(torch.rand, image.shape[0], 1, 1, 1, generator=generator) - 1) * bound
            return draws.to(image.device, non_blocking=True)

        low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
        unit = ((image - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
        from_white = uniform(1.0) > 0
        unit = torch.where(from_white, 1 - unit, unit) ** uniform(self.gamma).exp()
        unit = torch.where(from_white, 1 - unit, unit)
        if self.bias > 0:
            nodes = self._own(torch.randn, image.shape[0], 1, *self.bias_nodes, generator=generator) * self.bias
            unit = unit * _smooth(nodes.to(image.device, non_blocking=True), image.shape[-2:]).exp()
        image = low + (high - low) * unit
        if self.blur > 0:
            blurred = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1)
            image = image + uniform(self.blur).abs() * (blurred - image)
        image = image * (1 + uniform(self.contrast)) + uniform(self.brightness)
        noise = self._normal(image, generator)
        return image + uniform(self.noise).abs() * noise

    def _normal(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Standard normal numbers of the image's shape, drawn where the image is."""
        if image.device.type != "cpu":  # a number for every pixel: to move them would take longer than to draw them
            seed = int(torch.randint(2**62, (), generator=generator))
            generator = torch.Generator(image.device).manual_seed(seed)
        return self._own(torch.randn, *image.shape, generator=generator, device=image.device)

    def _own(
        self, draw: Callable[..., Tensor], batch: int, *size: int, generator: torch.Generator, device: Any = "cpu"
    ) -> Tensor:
        """Random numbers (batch, *size) of this process, out of those for the batch of all processes."""
        return draw(self.ranks * batch, *size, generator=generator, device=device)[self.rank * batch :][:batch]


def _smooth(nodes: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Field (B, C, H, W) through values at nodes (B, C, h, w), which span the slice to its corners."""
    return F.interpolate(nodes, size=tuple(size), mode="bicubic", align_corners=True)


def warp(image: Tensor, grid: Tensor) -> Tensor:
    """Bilinear sampling of (B, C, h, w) at a grid (B, H, W, 2) with border padding, (B, C, H, W)."""
    return F.grid_sample(image, grid.to(image.dtype), mode="bilinear", padding_mode="border", align_corners=False)


def warp_label(label: Tensor, grid: Tensor) -> Tensor:
    """Nearest-neighbour sampling of a label map (B, 1, H, W); 255 (ignored) outside the slice."""
    shifted = label.to(grid.dtype) - IGNORE  # so that grid_sample's zeros outside mean 255
    sampled = F.grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return (sampled + IGNORE).round().to(label.dtype)
