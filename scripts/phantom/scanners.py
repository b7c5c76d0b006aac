"""Scanners with their protocols: domain shift between sites for the same synthetic patient."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

ECHO_MS = {"t2": 100.0, "t1": 12.0}
"""Echo time of each contrast that the signals of `TISSUES` are those of."""
T2_MS = {
    "skin": 40.0, "fat": 130.0, "muscle": 40.0, "fascia": 20.0, "bowel": 80.0, "vessel": 100.0, "lung": 40.0,
    "cortex": 20.0, "marrow": 75.0, "annulus": 45.0, "nucleus": 130.0, "csf": 1500.0, "cord": 80.0, "root": 80.0,
    "vein": 150.0,
}  # fmt: skip
"""Tissue -> transverse relaxation time; rounded, of the order found at 1.5 T."""
FAT_SHARE = {"fat": 1.0, "marrow": 0.5, "skin": 0.3}
"""Tissue -> share of its signal that comes from fat."""


@dataclass(frozen=True)
class Scanner:
    """One scanner with its protocol; what varies from patient to patient on it varies around these values.

    Attributes:
        echo: echo time relative to `ECHO_MS`; a later one darkens all tissues but fluid.
        fat: signal of fat relative to a plain spin echo; below 1 it is suppressed.
        coil_mm: depth at which the signal of the coil under the back has fallen to 1/e.
        coil_gain: what that coil adds at the skin to the even part of the reception, which is 0.35.
        field: standard deviation of the slow unevenness, of the signal's logarithm.
        noise: standard deviation of the noise relative to the brightest tissue.
        gamma: exponent by which the console maps signal to grey values.
        blur_mm: width at half height of a point in the plane.
        crosstalk: standard deviation of the slice profile in slices.
        saturation: share of the signal taken by a saturation band in front of the column; 0 is no band.
    """

    echo: float = 1.0
    fat: float = 1.0
    coil_mm: float = 90.0
    coil_gain: float = 1.2
    field: float = 0.16
    noise: float = 0.022
    gamma: float = 1.0
    blur_mm: float = 0.0
    crosstalk: float = 0.0
    saturation: float = 0.0

    def weight(self, tissue: str, contrast: str) -> float:
        """Factor of a tissue's signal: T2 decay exp(-ΔTE / T2) and fat suppression."""
        later = (self.echo - 1) * ECHO_MS[contrast] / T2_MS[tissue] if tissue in T2_MS else 0.0
        return exp(-later) * (1 - FAT_SHARE.get(tissue, 0.0) * (1 - self.fat))


SCANNERS: dict[str, Scanner] = {
    "tse_1.5t": Scanner(),
    "tse_3t": Scanner(echo=1.3, coil_mm=65.0, field=0.28, noise=0.014, gamma=1.1),
    "space": Scanner(echo=1.1, coil_mm=60.0, coil_gain=1.6, noise=0.03, blur_mm=1.5, saturation=0.75),
    "fat_suppressed": Scanner(echo=0.9, fat=0.25, field=0.22, noise=0.03),
    "open_0.3t": Scanner(
        echo=0.75, coil_mm=200.0, coil_gain=0.6, field=0.1, noise=0.04, gamma=0.9, blur_mm=3.0, crosstalk=0.4
    ),
}
"""Fast spin echo at 1.5 T and, with a late echo, at 3 T; a 3D fast spin echo with a surface coil and a saturation band
over the abdomen; fat suppression; an open magnet of low field with an early echo, little signal and thick slices."""


def scanner_of(seed: int, index: int) -> str:
    """Name of the scanner that a patient of a set was on; they take turns, whatever the numbers of volumes are."""
    return list(SCANNERS)[(seed + index) % len(SCANNERS)]
