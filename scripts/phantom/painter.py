"""Painting of tissues with anti-aliased edges, and smooth noise textures."""

from __future__ import annotations

import numpy as np

from .anatomy import Array
from .scanners import Scanner

SLICE_MM = 4.0
TISSUES: dict[str, dict[str, float]] = {
    "t2": {
        "air": 0.01, "skin": 0.35, "fat": 0.80, "muscle": 0.17, "fascia": 0.06, "bowel": 0.34, "vessel": 0.05,
        "lung": 0.05, "cortex": 0.06, "marrow": 0.40, "annulus": 0.10, "nucleus": 0.66, "csf": 1.00, "cord": 0.45,
        "root": 0.55, "vein": 0.75,
    },
    "t1": {
        "air": 0.01, "skin": 0.40, "fat": 1.00, "muscle": 0.33, "fascia": 0.12, "bowel": 0.38, "vessel": 0.10,
        "lung": 0.06, "cortex": 0.08, "marrow": 0.60, "annulus": 0.26, "nucleus": 0.36, "csf": 0.16, "cord": 0.38,
        "root": 0.30, "vein": 0.70,
    },
}  # fmt: skip
"""Tissue -> signal relative to the brightest one, for each contrast."""


class Painter:
    """A volume that tissues are painted on, with anti-aliased edges about a pixel wide.

    Attributes:
        image: (S, H, W) signal so far, 0 to about 1.
        pixel_mm: edge of a pixel.
        signal: tissue -> signal in this patient, on this scanner.
        rng: random generator of textures and of everything else but the anatomy.
    """

    def __init__(
        self, shape: tuple[int, int, int], pixel_mm: float, contrast: str, scanner: Scanner, rng: np.random.Generator
    ) -> None:
        self.image = np.zeros(shape, np.float32)
        self.pixel_mm = pixel_mm
        self.signal = {
            name: value * scanner.weight(name, contrast) * rng.uniform(0.85, 1.15)
            for name, value in TISSUES[contrast].items()
        }
        self.rng = rng

    def paint(self, distance: Array, signal: Array | float, strength: float = 1.0) -> None:
        """Alpha-blend a signal into the inside of a shape, given by its signed distance in mm, (S, H, W) or (H, W)."""
        cover = (0.5 - distance / self.pixel_mm).clip(0, 1).astype(np.float32, copy=False)
        cover *= np.float32(strength)
        self.image += cover * (np.asarray(signal, np.float32) - self.image)

    def rim(self, distance: Array, signal: float, width_mm: float = 1.6) -> None:
        """Draw the outline of a shape; below a pixel's width it gets fainter (partial volume)."""
        width = max(width_mm, self.pixel_mm)
        cover = np.float32(min(1, width_mm / self.pixel_mm)) * (1.2 - 2 * np.abs(distance) / width).clip(0, 1)
        self.image += cover * (np.float32(signal) - self.image)

    def texture(self, size_mm: float, stretch: float = 1.0) -> Array:
        """Smooth Gaussian noise (S, H, W) of mean 0 and standard deviation 1; `stretch` elongates it head-foot."""
        slices, rows, columns = self.image.shape
        size_mm = max(size_mm, self.pixel_mm)
        deep = _spread(slices, SLICE_MM, max(size_mm, 8.0))
        tall = _spread(rows, self.pixel_mm, size_mm * stretch)
        wide = _spread(columns, self.pixel_mm, size_mm)
        noise = self.rng.standard_normal((deep.shape[1], tall.shape[1], wide.shape[1]), np.float32)
        return tall @ np.tensordot(deep, noise @ wide.T, 1)


def _spread(count: int, step_mm: float, size_mm: float) -> Array:
    """Interpolation weights (count, knots) of coarse noise; each row has unit norm."""
    knots = np.arange(-size_mm, count * step_mm + 2 * size_mm, size_mm)
    weights = np.exp(-0.5 * ((np.arange(count)[:, None] * step_mm - knots) / (0.6 * size_mm)) ** 2)
    return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)
