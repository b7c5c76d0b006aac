"""Endplates and corners of vertebrae and discs in the sagittal plane, from a label map on any grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.floating]
Label = NDArray[np.integer]

MIDDLE_SHARE = 1 / 3
"""Share of the sagittal slices that show a structure, about their middle, from which its outline is taken."""
INWARDS = 0.9
"""Where an endplate's points lie, as a share of the width: the last tenth on either side is corner."""
STEPS, STILL = 8, 2e-3
"""Most turns of a structure's frame, and the change in radians at which it rests."""
FARTHEST_TURN = np.pi / 3
"""Largest turn in radians in one step; beyond it there is no mid-plane to be seen."""
REWEIGHTINGS, TUKEY, MAD = 6, 4.685, 1.4826
"""Steps of the robust fit; constant of Tukey's weights; standard deviation of a normal distribution by its MAD."""
PIECE_MM = 3.0
"""Length of border over which an outline errs to the same side."""
SINGULAR = 1e-9
"""Keeps the fit solvable where all points lie in fewer columns than it has coefficients."""
OWN_ERROR = 0.5
"""Error of an outline itself, in pixels of its two values' distance: it is not the plane cut of a smooth body."""
SMOOTH = 1.2
"""Standard deviation in pixels of the smoothing after which a border point is an endplate's or a wall's."""


@dataclass(frozen=True)
class Volume:
    """A label map on axes nearest to right, front and head of the patient.

    Attributes:
        label: (X, Y, Z) class ids.
        affine: (4, 4) to scanner millimetres, RAS.
        plane: (3, 3) unit vectors in RAS: forwards and upwards in the sagittal slices, and across them.
        box: first and last index along each axis, (2, 3), of what the scan shows.
    """

    label: Label
    affine: Array
    plane: Array
    box: NDArray[np.integer]

    def places(self, voxels: NDArray[np.floating] | NDArray[np.integer]) -> Array:
        """(M, 3) voxel indices -> (M, 3) millimetres along the axes of `plane`."""
        return (voxels @ self.affine[:3, :3].T + self.affine[:3, 3]) @ self.plane.T


@dataclass(frozen=True)
class Outline:
    """Endplates and walls of a structure in the plane of the sagittal slices, in millimetres forwards and upwards.

    Attributes:
        upper: (3, 2) points of the upper endplate, at the front, in the middle and at the back: a tenth of the width
            from either wall, and half-way.
        lower: (3, 2) those of the lower endplate.
        corners: (2, 2, 2) front and back corners of the upper and of the lower endplate, where these meet the walls.
    """

    upper: Array
    lower: Array
    corners: Array

    @property
    def along(self) -> Array:
        """Unit vector (2,) of the mid-plane, from the middle between the endplates at the back to that at the front."""
        return _unit(self.upper[0] + self.lower[0] - self.upper[2] - self.lower[2])

    @property
    def heights(self) -> Array:
        """(3,) mm at the front, in the middle and at the back, at right angles to the mid-plane."""
        forward, up = self.along
        return (self.upper - self.lower) @ np.array([-up, forward])

    @property
    def width(self) -> float:
        """Millimetres from back wall to front wall along the mid-plane, half-way between the endplates."""
        front, back = self.corners.mean(0)
        return float((front - back) @ self.along)


def canonical(array: NDArray[np.generic], affine: Array) -> tuple[NDArray[np.generic], Array]:
    """A volume (X, Y, Z) and its affine (4, 4) on axes nearest to right, front and head; nothing is resampled."""
    turn = ornt_transform(io_orientation(affine), axcodes2ornt("RAS"))
    return apply_orientation(array, turn), np.asarray(affine @ inv_ornt_aff(turn, array.shape))


def volume_of(label: Label, affine: Array, scan: NDArray[np.generic] | None = None) -> Volume:
    """Prepare a label map.

    Args:
        label: (X, Y, Z) or (X, Y) class ids in any orientation.
        affine: (4, 4) to millimetres, RAS.
        scan: its scan, of the same shape; borders of zeros of it are not counted as shown. None: all is shown.
    """
    affine = np.asarray(affine, dtype=np.float64)
    shape = (*label.shape, *[1] * (3 - label.ndim))
    turned, own = canonical(label.reshape(shape), affine)
    box = np.array([[0, 0, 0], np.array(turned.shape) - 1])
    if scan is not None and (shown := canonical(scan.reshape(shape), affine)[0] != 0).any():
        ends = [np.flatnonzero(shown.any(tuple({0, 1, 2} - {axis})))[[0, -1]] for axis in range(3)]
        box = np.stack(ends, 1)
    forwards = _unit(own[:3, 1])
    upwards = _unit(own[:3, 2] - (own[:3, 2] @ forwards) * forwards)
    return Volume(turned, own, np.stack([forwards, upwards, np.cross(forwards, upwards)]), box)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Sections:
    """A structure in the sagittal slices about its middle.

    Attributes:
        mask: (X, Y, Z) its voxels within a box.
        start: (3,) index of the box's first voxel in the volume.
        weights: (X,) of the slices, in [0, 1].
    """

    mask: NDArray[np.bool_]
    start: NDArray[np.integer]
    weights: Array

    @property
    def box(self) -> tuple[slice, ...]:
        """Where the mask lies in the volume."""
        return tuple(slice(first, first + size) for first, size in zip(self.start, self.mask.shape, strict=True))

    @property
    def voxels(self) -> NDArray[np.integer]:
        """(M, 3) indices in the volume."""
        return np.argwhere(self.mask) + self.start

    def is_cut(self, volume: Volume) -> bool:
        """Whether they reach the border of the image within the sagittal plane, or end one voxel before it."""
        shown = self.voxels[:, 1:]
        first, last = volume.box[:, 1:] + [[1], [-1]]
        return bool((shown <= first).any() or (shown >= last).any())


def middle_slices(volume: Volume, c: int, box: tuple[slice, ...]) -> Sections:
    """The largest connected part of a structure, without holes, in each slice of the middle third that show it.

    Args:
        volume: the label map.
        c: class id of the structure.
        box: where it lies in the volume, without any margin.
    """
    count = box[0].stop - box[0].start
    half = max(MIDDLE_SHARE * count / 2, 0.5)
    ends = np.arange(count + 1) - count / 2  # of the slices, from the middle
    weights = np.diff(np.clip(ends, -half, half))
    near = np.flatnonzero(weights)
    start = np.array([box[0].start + near[0], box[1].start, box[2].start])
    mask = volume.label[box][near[0] : near[-1] + 1] == c
    for section in mask:
        parts, found = ndimage.label(section, np.ones((3, 3)))
        if found > 1:
            section &= parts == np.bincount(parts.ravel())[1:].argmax() + 1
        section |= ndimage.binary_fill_holes(section)
    return Sections(mask, start, weights[near])


def reaches_side(volume: Volume, box: tuple[slice, ...]) -> bool:
    """Whether a structure lies in the first or the last sagittal slice, so that more of it may lie beside the image."""
    return bool(box[0].start <= volume.box[0, 0] or box[0].stop > volume.box[1, 0])


def outline(volume: Volume, sections: Sections, up: Array) -> Outline | None:
    """Fit endplates and walls to the border of a structure; None where it shows too little of them.

    Border points lie half-way between the centres of a voxel of the structure and the next one beside it. A parabola
    through the upper ones is the upper endplate, a line through the front ones the front wall, and so on, each fitted
    robustly and without the rounded corners. The frame in which this is done is turned into the mid-plane until it
    rests.

    Args:
        volume: the label map.
        sections: the structure in its middle slices, at least a voxel of it.
        up: (2,) about at right angles to its endplates, in the plane of the slices.
    """
    border = _border(volume, sections)
    forwards = np.array([up[1], -up[0]]) / np.linalg.norm(up)
    frame = np.stack([forwards, [-forwards[1], forwards[0]]])
    ends = np.stack([(border.points @ frame.T).min(0), (border.points @ frame.T).max(0)])  # of width and height
    for _ in range(STEPS):
        middle, half = ends.mean(0), (ends[1] - ends[0]) / 2
        sides = []
        for side in (ENDPLATE, WALL):
            for sign in (1, -1):
                fit = border.fit(side, frame, sign, float(middle[1 - side.of]), float(half[1 - side.of]))
                if fit is None:
                    return None
                sides.append(fit)
        corners = _corners(sides)
        front, back = corners[:, :, 0].mean(0)
        along = back + (front - back) * np.array([INWARDS, 0.5, 1 - INWARDS])
        plates = np.stack([np.stack([along, sides[k] @ along ** np.arange(3)[:, None]], 1) for k in (0, 1)])
        mids = plates.mean(0)
        turn = float(np.arctan2(*(mids[0] - mids[2])[::-1]))
        ends = np.array([[back, plates[1, 1, 1]], [front, plates[0, 1, 1]]])
        if not (ends[1] > ends[0]).all() or abs(turn) > FARTHEST_TURN:
            return None
        found = [points @ frame + border.centre for points in (*plates, corners)]
        if abs(turn) < STILL:
            break
        turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) @ frame
        ends += ends.mean(0) @ (frame @ turned.T - np.eye(2))
        frame = turned
    return Outline(*found)


@dataclass(frozen=True)
class _Side:
    """How one kind of side is fitted.

    Attributes:
        of: component of the frame that it looks along: 0 for walls, 1 for endplates.
        degree: of its polynomial.
        share: of the other component's length that it is fitted over: the corners are rounded.
        fewest: different border points along it that are needed.
        usual: by how much the term of the highest power changes it at its ends, as a share of half its length.
    """

    of: int
    degree: int
    share: float
    fewest: int
    usual: float


ENDPLATE = _Side(of=1, degree=2, share=0.9, fewest=5, usual=0.1)
WALL = _Side(of=0, degree=1, share=0.8, fewest=2, usual=0.25)


@dataclass(frozen=True)
class _Border:
    """Points half-way between a voxel of the structure and one outside of it.

    Attributes:
        centre: (2,) mm, the structure's centre in these slices.
        points: (M, 2) mm from the centre in the plane of the slices.
        steps: (M, 2) mm from the one voxel's centre to the other's.
        normals: (M, 2) unit vectors outwards, of the smoothed structure.
        weights: (M,) of the slices.
    """

    centre: Array
    points: Array
    steps: Array
    normals: Array
    weights: Array

    def fit(self, side: _Side, frame: Array, sign: int, middle: float, half: float) -> Array | None:
        """Fit one side of the structure; None where it shows too little of it.

        Args:
            side: endplate or wall.
            frame: (2, 2) unit vectors: forwards along the mid-plane, and upwards.
            sign: 1 for the front wall or the upper endplate, -1 for the other.
            middle: of the structure along the side, mm in the frame.
            half: its length.

        Returns:
            (degree + 1,) coefficients from the constant up, in mm of the frame about the centre.
        """
        of = side.of
        normals, places, steps = (values @ frame.T for values in (self.normals, self.points, self.steps))
        x = (places[:, 1 - of] - middle) / half
        near = (sign * normals[:, of] > np.abs(normals[:, 1 - of])) & (np.abs(x) <= side.share)
        if len(np.unique(x[near].round(4))) < side.fewest:
            return None
        pixel = np.linalg.norm(steps[near], axis=1)
        # the border lies anywhere between two centres, and no outline is better than a part of a pixel
        error = np.sqrt((steps[near, of] ** 2 + (OWN_ERROR * pixel) ** 2) / 12)
        fit = _robust_fit(x[near], places[near, of], self.weights[near], error, half, side)
        # from shares of half the length about the middle to mm about the centre
        constant, slope, bend = (*fit, 0.0)[:3]
        slope, bend = slope / half, bend / half**2
        return np.array([constant - middle * (slope - middle * bend), slope - 2 * middle * bend, bend])[: len(fit)]


def _border(volume: Volume, sections: Sections) -> _Border:
    """The border of a structure in the plane of the slices."""
    margin = 3
    core = np.pad(sections.mask, ((0, 0), (margin, margin), (margin, margin)))
    start = sections.start - [0, margin, margin]
    columns = volume.affine[:3, 1:3].T @ volume.plane[:2].T  # (2, 2) mm in the plane of a step along either axis
    pixel = np.linalg.norm(columns, axis=1)
    smooth = ndimage.gaussian_filter(core.astype(np.float32), (0, *(SMOOTH * pixel.max() / pixel)))
    # a gradient by index becomes one by mm with the inverse of the steps
    gradient = np.stack(np.gradient(smooth, axis=(1, 2)), -1) @ np.linalg.inv(columns).T
    centre = volume.places(sections.voxels).mean(0)[:2]
    found = []
    for axis in (0, 1):
        for side in (-1, 1):
            voxels = np.argwhere(core & ~np.roll(core, -side, axis + 1))
            beside = voxels.copy()
            beside[:, axis + 1] += side
            normals = -(gradient[tuple(voxels.T)] + gradient[tuple(beside.T)])
            normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
            points = volume.places((voxels + beside) / 2 + start)[:, :2] - centre
            steps = np.broadcast_to(columns[axis], points.shape)
            found.append((points, steps, normals, sections.weights[voxels[:, 0]]))
    return _Border(centre, *(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _robust_fit(x: Array, y: Array, weight: Array, error: Array, half: float, side: _Side) -> Array:
    """Coefficients (degree + 1,) of a polynomial from the constant up: least absolute deviations, then Tukey's weights.

    Outlines err in pieces of `PIECE_MM`, so that their points count for as many as there are pieces; the term of the
    highest power has a normal prior of the width `usual`.

    Args:
        x: (M,) places in [-1, 1].
        y: (M,) mm.
        weight: (M,) of the points.
        error: (M,) standard deviation of the values in mm, as far as it is known.
        half: mm of x = 1.
        side: what is fitted.
    """
    powers = x[:, None] ** np.arange(side.degree + 1)
    known = weight / error**2
    count = max(2 * half * side.share / PIECE_MM, 1.0)
    prior = np.zeros(side.degree + 1)
    prior[-1] = (side.usual * half) ** -2.0
    rest, spread = np.zeros_like(y), 1.0
    fit = prior
    for step in range(REWEIGHTINGS):
        if step == 0:
            robust = np.ones_like(y)
        elif step <= REWEIGHTINGS // 2:
            robust = 1 / np.maximum(rest, 1.0)
        else:
            robust = np.clip(1 - (rest / (TUKEY * spread)) ** 2, 0, None) ** 2
        total = known * robust
        # as many independent points as there are pieces, each as wrong as the border is about the fit
        total *= count / max(float((total * error**2).sum()), 1e-9) / spread**2
        normal = (powers * total[:, None]).T @ powers + np.diag(prior + SINGULAR)
        fit = np.linalg.solve(normal, powers.T @ (total * y))
        rest = np.abs(y - powers @ fit) / error
        spread = max(MAD * float(np.partition(rest, len(rest) // 2)[len(rest) // 2]), 1.0)  # faster than np.median
    return fit


def _corners(sides: Sequence[Array]) -> Array:
    """Front and back corner of the upper and of the lower endplate, (2, 2, 2), in the frame.

    Args:
        sides: coefficients of the upper and lower endplate (3,) and of the front and back wall (2,).
    """
    found = np.empty((2, 2, 2))
    for k, endplate in enumerate(sides[:2]):
        for m, wall in enumerate(sides[2:]):
            height = float(endplate[0])
            for _ in range(8):  # a wall is steep and an endplate flat: this converges fast
                along = float(wall[0] + wall[1] * height)
                height = float(endplate[0] + along * (endplate[1] + along * endplate[2]))
            found[k, m] = along, height
    return found


def _unit(vector: Array) -> Array:
    return np.asarray(vector / np.linalg.norm(vector))
