"""Curvilinear coordinates along the centreline of a synthetic spine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .anatomy import Array, Spine


@dataclass(frozen=True)
class Coordinates:
    """Coordinates of each pixel relative to the spine; S slices of H x W pixels, all in mm.

    Attributes:
        down: (H,) mm below the sacral end plate.
        back: (W,) mm behind it.
        arc: (H, W) arc length along the centreline.
        posterior: (H, W) distance behind the centreline, negative in front of it.
        lateral: (S, H, W) distance to one side of the spine's midline.
        body: (H, W) index of the body nearest along the curve.
        above: (H, W) distance along the curve above that body's centre.
        disc: (H, W) index of the disc next to the pixel (that above body `disc`).
        off_disc: (H, W) distance along the curve above that disc's middle.
    """

    down: Array
    back: Array
    arc: Array
    posterior: Array
    lateral: Array
    body: NDArray[np.integer]
    above: Array
    disc: NDArray[np.integer]
    off_disc: Array


def locate(spine: Spine, down: Array, back: Array, side: Array) -> Coordinates:
    """Coordinates along the spine of a grid of pixels.

    Args:
        spine: the patient.
        down: (H,) mm below the sacral end plate.
        back: (W,) mm behind it.
        side: (S,) mm to one side.
    """
    pixels = np.stack(np.meshgrid(down, back, indexing="ij"), -1)  # (H, W, 2)
    pixels = pixels + np.sin(pixels @ spine.waves[:, 2:4].T + spine.waves[:, 4]) @ spine.waves[:, :2]
    _, nearest = cKDTree(spine.curve).query(pixels)
    offset = pixels - spine.curve[nearest]
    tilt = spine.tilt[nearest]
    arc = spine.arc[nearest] - offset[..., 0] * np.cos(tilt) - offset[..., 1] * np.sin(tilt)
    posterior = offset[..., 1] * np.cos(tilt) - offset[..., 0] * np.sin(tilt)
    body = nearest_body(spine, arc)
    above = arc - spine.centre[body]
    disc = np.where(above > 0, body, np.maximum(body - 1, 0))
    middle = spine.centre + spine.half_height + spine.gap / 2
    return Coordinates(
        down=down,
        back=back,
        arc=arc.astype(np.float32),
        posterior=posterior.astype(np.float32),
        lateral=(side[:, None, None] - np.interp(arc, spine.arc, spine.drift)).astype(np.float32),
        body=body,
        above=above.astype(np.float32),
        disc=disc,
        off_disc=(arc - middle[disc]).astype(np.float32),
    )


def nearest_body(spine: Spine, arc: Array) -> NDArray[np.integer]:
    """Index of the vertebral body nearest to an arc length; the borders are the middles of the discs."""
    return np.searchsorted((spine.centre + spine.half_height + spine.gap / 2)[:-1], arc)
