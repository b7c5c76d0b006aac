"""Geometry of the chain that a cohort of spines shares, fitted by EM, and which place each landmark of a spine has.

A hidden Markov model over the landmarks of a volume: a path gives them rising places from the lowest upwards. Landmarks
may be missed, doubled or no landmarks at all, which costs. What differs from level to level, and is nearly the same in
all spines, is the tilt of the discs, their distances and their sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .landmarks import Array, Landmarks

TILT, SIZE, GAP, PLACE = range(4)
"""Features: degrees; log of the area over the volume's median; mm to the next landmark; mm below the middle."""
FIRST_SPREAD = np.array([8.0, 0.5, 5.0, 60.0])
"""Standard deviations at one level over patients before any is seen. The last says nothing: a cohort has to show it."""
SPREAD_WEIGHT = np.array([8.0, 8.0, 8.0, 2.0])
"""Patients that the first spreads count as."""
MEAN_WEIGHT = 2.0
"""Patients that the labelled ones' mean counts as."""
PRIOR_WEIGHT = 10.0
"""Patients that another cohort's mean counts as: more than a few labelled spines, fewer than a cohort of its own."""
BELOW = np.array([-14.0, -0.8, 27.0, 27.0])
"""From the lowest named disc to the rudimentary one below it (S1/S2): steeper, smaller, and its distance."""
POSTURES = np.linspace(-8.0, 8.0, 9)
"""Degrees by which the whole spine of a volume may be turned against the cohort's mean."""
POSTURE_SPREAD = 4.0
MISSED, SPURIOUS, SHORT, ABOVE = -4.0, -6.0, -1.5, -2.0
"""Log-odds of a landmark that was not found, of a detection that is none, of each level missing at the lower end, and
of a landmark above the highest class."""
LARGEST = 2.0
"""Most that one feature of one landmark may cost, in nats: a single odd disc must not decide."""
OUTLIER = 4.0
"""Spreads from which a landmark does not count for the fit."""
STEPS = 15
ODD = 3.0
"""Spreads from which a distance between two landmarks is none of the cohort's spines."""


@dataclass(frozen=True)
class ChainGeometry:
    """Mean and spread of every feature at every place of the chain.

    Place 0 is the landmark below the lowest that has a name (S1/S2), place 1 the lowest with a name (L5/S), and so on.

    Attributes:
        mean: (P, 4) tilt in degrees; log of the area over the volume's median area; distance to the next landmark above
            in mm; place below the middle of the field of view in mm.
        spread: (P, 4) standard deviations, > 0.
    """

    mean: Array
    spread: Array

    @property
    def climb(self) -> Array:
        """Millimetres from the lowest place up to each, and to the one above the chain, (P + 1,)."""
        return np.concatenate([[0.0], np.cumsum(self.mean[:, GAP])])

    @property
    def climb_variance(self) -> Array:
        """Variance of `climb` in mm², (P + 1,)."""
        return np.concatenate([[0.0], np.cumsum(self.spread[:, GAP] ** 2)])

    def as_json(self) -> dict[str, Any]:
        """Plain lists, for `model.json`."""
        return {"mean": self.mean.round(3).tolist(), "spread": self.spread.round(3).tolist()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ChainGeometry:
        """The inverse of :meth:`as_json`."""
        return cls(np.array(values["mean"], dtype=float), np.array(values["spread"], dtype=float))


class Places(NamedTuple):
    """Places of one volume's landmarks.

    Attributes:
        best: (n,) int64, on the most likely path; -1 where the detection is taken for no landmark.
        posterior: (n, P) probability of each place; rows sum to 1 less the probability of being no landmark.
        log_likelihood: of the volume under the geometry.
    """

    best: np.ndarray
    posterior: Array
    log_likelihood: float


class OddDistance(NamedTuple):
    """A distance that the cohort's spines do not have, between the landmarks of two places.

    Attributes:
        lower: place.
        upper: place.
        mm: between them.
        usual_mm: the cohort's mean.
    """

    lower: int
    upper: int
    mm: float
    usual_mm: float


def find_places(landmarks: Landmarks, geometry: ChainGeometry, evidence: Array | None = None) -> Places:
    """Most likely places of a volume's landmarks, with their posterior.

    Args:
        landmarks: of the volume.
        geometry: of the cohort.
        evidence: (n, P) further log-likelihood of each landmark at each place, up to a constant for each landmark.
    """
    x = features(landmarks)
    if not len(x):
        return Places(np.zeros(0, np.int64), np.zeros((0, len(geometry.mean))), 0.0)
    paths = _Paths(x, geometry, evidence)
    return Places(paths.best(), paths.posterior.sum(0), paths.log_likelihood)


def odd_distances(landmarks: Landmarks, places: np.ndarray, geometry: ChainGeometry) -> list[OddDistance]:
    """Distances of more than `ODD` spreads from the mean: a collapsed or an additional vertebra, or a false landmark.

    The posterior cannot doubt what shifts a part of the spine alone: one odd distance costs little on any path. What
    lies below the chain may be at any distance.

    Args:
        landmarks: of a volume.
        places: (n,) of its landmarks; -1 where one is none.
        geometry: of the cohort.
    """
    climb, variance = geometry.climb, geometry.climb_variance
    at = features(landmarks)[:, PLACE]
    found = []
    for i, k in pairwise(np.flatnonzero(places > 0)):
        lower, upper = int(places[i]), int(places[k])
        mm, usual = float(at[i] - at[k]), float(climb[upper] - climb[lower])
        if abs(mm - usual) > ODD * np.sqrt(variance[upper] - variance[lower]):
            found.append(OddDistance(lower, upper, mm, usual))
    return found


def fit_geometry(
    labelled: Sequence[tuple[Landmarks, np.ndarray]],
    unlabelled: Sequence[Landmarks],
    num_places: int,
    evidence: Sequence[Array | None] | None = None,
    prior: ChainGeometry | None = None,
) -> ChainGeometry:
    """Fit the chain's geometry to a cohort by expectation maximisation.

    One labelled spine gives the first means: its posture and its shape. The unlabelled spines, whose places are hidden,
    move them to the cohort's and give the spreads; both are shrunk to the first ones.

    Args:
        labelled: volumes with the place of every landmark, -1 for none.
        unlabelled: volumes whose places are hidden.
        num_places: P ≥ 2, places of the chain, the one below it included.
        evidence: on the unlabelled volumes' places, see :func:`find_places`.
        prior: of another cohort; it takes the place of the labelled spines' first means. NaN where it has no such
            place. Its place in the field of view is not taken: that is the other scanner's.

    Raises:
        ValueError: no labelled volume has a landmark with a place.

    References: Dempster, Laird and Rubin, Maximum likelihood from incomplete data via the EM algorithm, 1977.
    """
    known = [_known(landmarks, places, num_places) for landmarks, places in labelled if len(landmarks)]
    if not any(k.at.any() for k in known):
        raise ValueError("no labelled volume shows a landmark of the chain")
    first, weight = _first_guess(known, num_places), np.full((num_places, 4), MEAN_WEIGHT)
    if prior is not None:
        taken = ~np.isnan(prior.mean) & (np.arange(4) != PLACE)
        first = ChainGeometry(np.where(taken, prior.mean, first.mean), np.where(taken, prior.spread, first.spread))
        weight[taken] = PRIOR_WEIGHT
    geometry = first
    hidden = [features(landmarks) for landmarks in unlabelled]
    extra = evidence or [None] * len(hidden)
    for _ in range(STEPS):
        guessed = [_Paths(x, geometry, e).expected() for x, e in zip(hidden, extra, strict=True) if len(x)]
        geometry = _maximise([*known, *guessed], first, weight, geometry)
    return geometry


def features(landmarks: Landmarks) -> Array:
    """Features of a volume's landmarks, (n, 4), as in `ChainGeometry`; the highest has NaN for its distance."""
    if not len(landmarks):
        return np.zeros((0, 4))
    size = np.log(landmarks.area)
    gap = np.append(-np.diff(landmarks.place), np.nan)
    return np.stack([landmarks.tilt, size - np.median(size), gap, landmarks.place], 1)


class _Expected(NamedTuple):
    """What the M-step needs of one volume: features (n, 4), places (n, P), pairs of neighbours (n - 1, P), turn."""

    x: Array
    at: Array
    next_to: Array
    turn: float


def _known(landmarks: Landmarks, places: np.ndarray, num_places: int) -> _Expected:
    at = (places[:, None] == np.arange(num_places)).astype(float)
    next_to = np.zeros((len(at) - 1, num_places))
    next_to[:, :-1] = at[:-1, :-1] * at[1:, 1:]
    return _Expected(features(landmarks), at, next_to, 0.0)


def _first_guess(known: Sequence[_Expected], num_places: int) -> ChainGeometry:
    """Means of the labelled volumes; what they do not show continues what they show."""
    mean = np.full((num_places, 4), np.nan)
    for feature in range(4):
        x, weight = _weighted(known, feature)
        with np.errstate(invalid="ignore"):
            mean[:, feature] = weight.T @ x / weight.sum(0)
    seen = np.flatnonzero(~np.isnan(mean[:, TILT]))
    for feature in (TILT, SIZE, GAP):
        given = np.flatnonzero(~np.isnan(mean[:, feature]))
        mean[:, feature] = np.interp(range(num_places), given, mean[given, feature]) if len(given) else 36.0
    if seen[0] > 0:  # the lowest place is that below the chain, which no label names
        mean[0, [TILT, SIZE]] = mean[1, [TILT, SIZE]] + BELOW[[TILT, SIZE]]
        mean[0, GAP] = BELOW[GAP]
    for place in [*range(seen[0] - 1, -1, -1), *range(seen[0] + 1, num_places)]:
        if np.isnan(mean[place, PLACE]):
            step = mean[place, GAP] if place < seen[0] else -mean[place - 1, GAP]
            mean[place, PLACE] = mean[place + 1 if place < seen[0] else place - 1, PLACE] + step
    spread = np.tile(FIRST_SPREAD, (num_places, 1))
    spread[0] *= 1.5  # seen in few volumes, and in none with its name
    return ChainGeometry(mean, spread)


def _weighted(volumes: Sequence[_Expected], feature: int) -> tuple[Array, Array]:
    """Values (M,) of a feature over all volumes, and the weight (M, P) of each at each place."""
    if feature == GAP:
        return np.concatenate([v.x[:-1, GAP] for v in volumes]), np.concatenate([v.next_to for v in volumes])
    turn = [v.turn if feature == TILT else 0.0 for v in volumes]
    x = np.concatenate([v.x[:, feature] - t for v, t in zip(volumes, turn, strict=True)])
    return x, np.concatenate([v.at for v in volumes])


def _maximise(
    volumes: Sequence[_Expected], first: ChainGeometry, mean_weight: Array, last: ChainGeometry
) -> ChainGeometry:
    """Weighted means and spreads, shrunk to the first ones; outliers under the last ones do not count.

    The first means count as `mean_weight` patients, (P, 4).
    """
    mean, spread = np.empty_like(last.mean), np.empty_like(last.spread)
    for feature in range(4):
        x, weight = _weighted(volumes, feature)
        weight = weight * (np.abs(x[:, None] - last.mean[:, feature]) < OUTLIER * last.spread[:, feature])
        total, shrink, spread_weight = weight.sum(0), mean_weight[:, feature], SPREAD_WEIGHT[feature]
        mean[:, feature] = (shrink * first.mean[:, feature] + weight.T @ x) / (shrink + total)
        square = (weight * (x[:, None] - mean[:, feature]) ** 2).sum(0)
        variance = (spread_weight * first.spread[:, feature] ** 2 + square) / (spread_weight + total)
        spread[:, feature] = np.sqrt(variance)
    return ChainGeometry(mean, spread)


class _Paths:
    """All ways to give the n landmarks of a volume places among P, for each of C postures; weights are logarithms."""

    def __init__(self, x: Array, geometry: ChainGeometry, evidence: Array | None) -> None:
        self.x, self.mean, self.spread = x, geometry.mean, geometry.spread
        self.n, self.num_places = len(x), len(geometry.mean)
        self.emission = self._emission(evidence)  # (C, n, P)
        places = np.arange(self.num_places)
        prior = -0.5 * (POSTURES / POSTURE_SPREAD) ** 2
        self.prior = prior - np.logaddexp.reduce(prior)
        self.first = SHORT * np.maximum(places - 1.0, 0)  # some networks see what lies below the chain, some do not
        behind = (self.n - 1.0 - np.arange(self.n))[:, None]  # landmarks above each, if it is the last on the path
        self.last = behind * np.where(places == self.num_places - 1, ABOVE, SPURIOUS)  # (n, P)
        self.moves = self._moves(geometry)
        self.forward, self.backward = self._forward(), self._backward()
        self.log_likelihood = float(np.logaddexp.reduce(self.forward + self.last, axis=None))
        self.posterior = np.exp(self.forward + self.backward - self.log_likelihood)  # (C, n, P)

    def _emission(self, evidence: Array | None) -> Array:
        tilt = self._cost(self.x[:, TILT] - POSTURES[:, None], TILT)
        place = self._cost(self.x[:, PLACE], PLACE) / self.n  # all landmarks of a volume move together: counted once
        cost = tilt + self._cost(self.x[:, SIZE], SIZE) + place
        return -cost if evidence is None else evidence - cost

    def _cost(self, x: Array, feature: int) -> Array:
        """(..., n) -> (..., n, P) negative log-likelihood, up to a constant of the feature."""
        z = (x[..., None] - self.mean[:, feature]) / self.spread[:, feature]
        return np.minimum(0.5 * z**2, LARGEST) + np.log(self.spread[:, feature] / FIRST_SPREAD[feature])

    def _moves(self, geometry: ChainGeometry) -> Array:
        """(n, n, P, P) weight of landmark i at one place and k, the next on the path, at another."""
        climb, climb_variance = geometry.climb[:-1], geometry.climb_variance[:-1]
        rise = climb - climb[:, None]  # mm from place to place
        variance = np.maximum(climb_variance - climb_variance[:, None], 1.0)
        distance = (self.x[:, None, PLACE] - self.x[:, PLACE])[..., None, None]
        cost = np.minimum(0.5 * (distance - rise) ** 2 / variance, 2 * LARGEST)
        cost += 0.5 * np.log(variance / FIRST_SPREAD[GAP] ** 2)
        steps = np.arange(self.num_places) - np.arange(self.num_places)[:, None]
        left_out = (np.arange(self.n) - np.arange(self.n)[:, None] - 1.0)[..., None, None]  # landmarks between the two
        return np.where((steps > 0) & (left_out >= 0), MISSED * (steps - 1.0) + SPURIOUS * left_out - cost, -np.inf)

    def _begin(self, k: int) -> Array:
        """(C, P) weight of a path that begins with landmark k."""
        return self.first + SPURIOUS * k + self.prior[:, None]

    def _forward(self) -> Array:
        """Weight of all paths up to landmark k at each place, (C, n, P)."""
        forward = np.full(self.emission.shape, -np.inf)
        for k in range(self.n):
            ways = np.logaddexp.reduce(forward[:, :k, :, None] + self.moves[:k, k], axis=(1, 2))
            forward[:, k] = np.logaddexp(self._begin(k), ways) + self.emission[:, k]
        return forward

    def _backward(self) -> Array:
        """Weight of all paths from landmark i at each place on, (C, n, P)."""
        backward = np.full(self.emission.shape, -np.inf)
        for i in reversed(range(self.n)):
            ahead = self.emission + backward
            ways = np.logaddexp.reduce(self.moves[i, i + 1 :] + ahead[:, i + 1 :, None], axis=(1, 3))
            backward[:, i] = np.logaddexp(self.last[i], ways)
        return backward

    def expected(self) -> _Expected:
        """What the E-step expects of the volume."""
        ahead = self.emission + self.backward
        next_to = np.zeros((self.n - 1, self.num_places))
        for i in range(self.n - 1):
            pair = self.forward[:, i, :-1] + np.diagonal(self.moves[i, i + 1], 1) + ahead[:, i + 1, 1:]
            next_to[i, :-1] = np.exp(pair - self.log_likelihood).sum(0)
        posture = self.posterior.sum((1, 2))
        turn = float(posture @ POSTURES / max(posture.sum(), 1e-12))
        return _Expected(self.x, self.posterior.sum(0), next_to, turn)

    def best(self) -> np.ndarray:
        """Places on the most likely path at the most likely posture, (n,); Viterbi."""
        posture = int(self.posterior.sum((1, 2)).argmax())
        score, came_from = np.empty((self.n, self.num_places)), np.full((self.n, self.num_places, 2), -1)
        for k in range(self.n):
            ways = np.stack(
                [self._begin(k)[posture], *((score[i][:, None] + self.moves[i, k]).max(0) for i in range(k))]
            )
            way = ways.argmax(0)
            score[k] = ways.max(0) + self.emission[posture, k]
            for at in np.flatnonzero(way):
                i = int(way[at]) - 1
                came_from[k, at] = i, (score[i] + self.moves[i, k][:, at]).argmax()
        places = np.full(self.n, -1, np.int64)
        k, place = divmod(int((score + self.last).argmax()), self.num_places)
        while k >= 0:
            places[k] = place
            k, place = map(int, came_from[k, place])
        return places
