"""MR signal of a synthetic patient: tissues, then coil sensitivity, bias field, blur, Rician noise and scaling."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from .anatomy import L3, NAMES, S1, T12, Array, Spine
from .coordinates import Coordinates, nearest_body
from .outlines import Shapes, rounded
from .painter import Painter
from .scanners import Scanner
from .surroundings import draw_skin, paint_back, paint_front

FWHM = 2.3548
"""Width at half height of a Gaussian of standard deviation 1."""


def paint_volume(
    spine: Spine,
    where: Coordinates,
    shapes: Shapes,
    pixel_mm: float,
    contrast: str,
    scanner: Scanner,
    rng: np.random.Generator,
) -> Array:
    """Simulate the MR signal of one volume.

    Args:
        spine: the patient.
        where: coordinates of the pixels along the spine.
        shapes: signed distances of bodies and discs.
        pixel_mm: edge of a pixel.
        contrast: "t2" or "t1".
        scanner: scanner and protocol; random draws do not depend on it, so all scanners image the same patient.
        rng: random generator of everything but the anatomy.

    Returns:
        (S, H, W) float32 signal ≥ 0 in units of the scanner.
    """
    painter = Painter(where.lateral.shape, pixel_mm, contrast, scanner, rng)
    skin = draw_skin(spine, where, rng)
    paint_front(painter, spine, where, shapes)
    paint_back(painter, spine, where, shapes, skin)
    _paint_posterior_elements(painter, spine, where, shapes)
    _paint_canal(painter, spine, where, shapes)
    _paint_column(painter, spine, where, shapes)
    painter.paint(-skin, painter.signal["air"])
    return _acquire(painter, where, shapes, skin, scanner)


def _paint_posterior_elements(painter: Painter, spine: Spine, where: Coordinates, shapes: Shapes) -> None:
    """Spinous processes in the midline, joints and ribs beside it, pedicles, and the fat of the foramina."""
    rng, signal, scale = painter.rng, painter.signal, spine.scale
    lateral = np.abs(where.lateral)
    posterior = where.posterior - shapes.depth - 17 * scale
    thoracic = np.clip((np.arange(len(NAMES)) - L3) / 5, 0, 1)
    sacral = np.arange(len(NAMES)) <= S1
    half = spine.half_height + spine.gap / 2
    steep = np.interp(where.arc, spine.centre, 0.25 + 0.75 * thoracic)
    shifted = where.arc + (steep * posterior).clip(0) + np.interp(where.arc, spine.centre, 0.45 * half)
    body = nearest_body(spine, shifted)
    length = np.where(sacral, 7, 27 + 6 * thoracic) * scale * rng.normal(1, 0.1, len(NAMES))
    tall = np.where(sacral, 0.85, 0.62 - 0.25 * thoracic) * half
    off = np.abs(shifted - spine.centre[body])
    marrow = signal["marrow"] * (1.05 + 0.10 * painter.texture(6.0))
    _paint_foramina(painter, spine, where, shapes, marrow)

    between = np.maximum(np.maximum(-posterior + 1, posterior - 26 * scale), lateral - 5 * scale)
    painter.paint(between, 0.55 * signal["fat"] + 0.15 * painter.texture(4.0))
    across = np.maximum(off - tall[body], lateral - 4 * scale)
    process = rounded(across, np.maximum(-posterior, posterior - length[body]), 3.0)
    painter.paint(process, marrow)
    painter.rim(process, signal["cortex"])

    # facet joints lie behind the disc and are divided by an oblique gap
    upwards = where.off_disc + 3 * scale
    leaning = posterior + 1 + 0.45 * upwards + 2 * painter.texture(9.0)
    joint = np.hypot(np.hypot((lateral - 15 * scale) / 9, leaning / 8), upwards / 15) / scale - 1
    joint = np.where(where.arc < -15 * scale, 9, joint * 8 * scale)
    painter.paint(joint, 0.7 * marrow)
    painter.rim(joint, signal["cortex"], 2.2)
    gap = np.abs(upwards - 0.9 * leaning) * 0.7
    painter.paint(np.maximum(gap - 0.8, joint), signal["cortex"], min(1, 1.6 / painter.pixel_mm))


def _paint_foramina(painter: Painter, spine: Spine, where: Coordinates, shapes: Shapes, marrow: Array) -> None:
    """Neural foramina beside the canal: fat with a nerve root between the pedicles; rib heads at thoracic levels."""
    signal, scale = painter.signal, spine.scale
    lateral, posterior = np.abs(where.lateral), where.posterior - shapes.depth
    height = spine.half_height[where.body]
    beside = np.abs(lateral - 15 * scale) - 6 * scale
    hole = np.hypot(posterior - 6 * scale, 0.5 * (where.above + 0.75 * height)) - 7.5 * scale
    hole = np.where(where.arc < -30 * scale, 9, np.maximum(beside, np.maximum(-posterior, hole)))
    painter.paint(np.where(where.arc < -30 * scale, 9, np.maximum(beside, np.abs(posterior - 7) - 8)), signal["muscle"])
    painter.paint(hole, signal["fat"] * 0.8)
    root = np.hypot(posterior - 6 * scale, where.above + 0.55 * height) - 3.2 * scale
    painter.paint(np.maximum(root, beside), 1.3 * signal["muscle"])
    vertical = np.abs(where.above - 0.30 * height) - 0.42 * height
    pedicle = np.maximum(vertical, np.maximum(beside, posterior - 16 * scale))
    pedicle = rounded(pedicle, -posterior - 6 * scale, 1.5)
    painter.paint(pedicle, marrow)
    painter.rim(pedicle, signal["cortex"])
    rib = np.hypot(np.hypot(where.off_disc, posterior - 2 * scale), lateral - 25 * scale) - 7.5 * scale
    rib = np.where(where.arc > spine.centre[T12], rib, 9)
    painter.paint(rib, 0.8 * marrow)
    painter.rim(rib, signal["cortex"])


def _paint_canal(painter: Painter, spine: Spine, where: Coordinates, shapes: Shapes) -> None:
    """Epidural fat, the thecal sac down to S2, the cord with its conus, and the roots of the cauda equina."""
    signal, scale, lateral = painter.signal, spine.scale, where.lateral
    end = spine.centre[S1 - 1]
    narrow = ((where.arc - end) / (55 * scale)).clip(0, 1) ** 0.5
    middle = where.posterior - shapes.depth - 9.5 * scale
    fat = np.hypot((middle + 4 - 4 * narrow) / (11 * scale), lateral / (11 * scale)) - 0.6 - 0.4 * narrow
    painter.paint(np.where(where.arc > spine.centre[0], fat, 1) * 10, signal["fat"] * 0.85)
    sac = (np.hypot((middle + 2 - 2 * narrow) / (7.2 * scale), lateral / (10 * scale)) - narrow) * 8
    painter.paint(sac, signal["csf"])
    painter.rim(sac, signal["cortex"], 1.0)
    thick = 4.6 * scale * ((where.arc - spine.conus) / (22 * scale)).clip(0, 1) ** 0.6
    roots = 0.45 * (0.5 + 0.5 * painter.texture(1.6, 18.0)).clip(0, 1) * (middle > -2.5 * scale)
    below = np.where(where.arc < spine.conus + 25, roots, 0)
    painter.image += below * (sac < -1) * (signal["root"] - painter.image)
    cord = np.hypot(middle - 0.5 * scale, lateral * 0.85) - thick
    painter.paint(np.where(thick > 0, cord, 9), signal["cord"])


def _paint_column(painter: Painter, spine: Spine, where: Coordinates, shapes: Shapes) -> None:
    """Discs whose nucleus signal depends on health; bodies with end plates, veins, fatty changes and small lesions."""
    rng, signal = painter.rng, painter.signal
    health = spine.health[where.disc] * np.where(where.disc < S1, 0.6, 1)
    radius = np.hypot(where.posterior / (0.68 * shapes.depth), where.off_disc / (0.62 * spine.gap[where.disc] + 0.5))
    radius = np.hypot(radius, where.lateral / (0.75 * spine.at(spine.half_width, where.arc)))
    core = (health * (1.25 - radius) * 1.6).clip(0, 1)
    disc = signal["annulus"] + core * (signal["nucleus"] - signal["annulus"]) * (1 + 0.06 * painter.texture(4.0))
    painter.paint(shapes.disc, disc)
    own = rng.normal(1, 0.05, len(NAMES))[where.body]
    fatty = (rng.random(len(NAMES)) < 0.12)[where.disc] * (np.abs(where.off_disc) < 9)
    marrow = signal["marrow"] * (own + 0.35 * fatty + 0.07 * painter.texture(5.0) + 0.05 * painter.texture(16.0))
    painter.paint(shapes.body, marrow)
    vein = np.hypot(where.above / 2.5, (where.posterior - shapes.depth + 2) / 6) - 1
    vein = np.where((where.body > S1) & (np.abs(where.lateral) < 6), 3 * vein, 9)
    painter.paint(vein, signal["vein"], 0.6)
    for index in np.flatnonzero(rng.random(len(NAMES)) < 0.10):
        height, depth, side = rng.uniform(-0.6, 0.6, 3) * [spine.half_height[index], spine.half_depth[index], 14]
        in_plane = np.hypot(where.arc - spine.centre[index] - height, where.posterior - depth)
        spot = np.hypot(in_plane, where.lateral - side)
        painter.paint(np.maximum(spot - rng.uniform(3, 7), shapes.body + 1), signal["fat"] * 0.85)
    painter.rim(shapes.body, signal["cortex"])


def _acquire(painter: Painter, where: Coordinates, shapes: Shapes, skin: Array, scanner: Scanner) -> Array:
    """Acquisition: saturation band, surface coil, bias field, blur, Rician noise and an arbitrary intensity scale."""
    rng = painter.rng
    in_front = 1 / (1 + np.exp((where.posterior + shapes.depth + 14) / 5))
    band = 1 - scanner.saturation * in_front / (1 + np.exp(-(where.arc + 10) / 8))
    coil = 0.35 + scanner.coil_gain * np.exp(np.minimum(skin, 0) / (scanner.coil_mm * rng.uniform(0.75, 1.3)))
    field = np.exp(scanner.field * painter.texture(90.0) + rng.normal(0, 0.08, (len(painter.image), 1, 1)))
    image = (painter.image.clip(0) * band) ** (scanner.gamma * rng.uniform(0.93, 1.07)) * coil * field
    sigma = scanner.blur_mm / FWHM / painter.pixel_mm
    image = gaussian_filter(image, (scanner.crosstalk, sigma, sigma), mode="nearest")
    level = scanner.noise * rng.uniform(0.75, 1.35)
    noise = level * rng.standard_normal((2, *image.shape), np.float32)
    return (np.hypot(image + noise[0], noise[1]) * np.exp(rng.uniform(np.log(200), np.log(2500)))).astype(np.float32)
