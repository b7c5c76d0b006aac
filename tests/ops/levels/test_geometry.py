"""The hidden Markov model against all paths counted one by one; the fit against cohorts of known geometry."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from scipy.special import logsumexp

from scripts.ops.levels import geometry as model
from scripts.ops.levels.geometry import (
    GAP,
    PLACE,
    SIZE,
    TILT,
    ChainGeometry,
    OddDistance,
    features,
    find_places,
    fit_geometry,
    odd_distances,
)
from scripts.ops.levels.landmarks import Landmarks

TRUE_TILT = np.array([-45.0, -35.0, -14.0, -2.0, 3.0, 6.0, 7.0, 7.0])
TRUE_SIZE = np.array([-0.9, 0.0, 0.2, 0.15, 0.1, 0.0, -0.15, -0.3])
TRUE_GAP = np.array([27.0, 34.0, 36.0, 37.0, 36.0, 34.0, 32.0, 31.0])
PLACES = len(TRUE_TILT)


def spine(rng: np.random.Generator, first: int, count: int, offset_mm: float = 0.0, noise: float = 1.0) -> Landmarks:
    """Landmarks of a drawn spine whose lowest has the place `first`."""
    at = slice(first, first + count)
    climb = np.cumsum(np.concatenate([[0.0], TRUE_GAP[:-1]]))
    rows = 200.0 + offset_mm - climb[at] - np.cumsum(np.concatenate([[0.0], rng.normal(0, 2 * noise, count - 1)]))
    tilt = TRUE_TILT[at] + rng.normal(0, 3) * noise + rng.normal(0, 4, count) * noise
    area = 300 * np.exp(TRUE_SIZE[at] + rng.normal(0, 0.12, count) * noise)
    return Landmarks(rows, tilt, area, height=300, pixel_mm=1.0)


def drawn_geometry(rng: np.random.Generator, places: int) -> ChainGeometry:
    mean = np.stack([rng.normal(0, 20, places), rng.normal(0, 0.4, places), rng.uniform(25, 40, places),
                     np.linspace(60, -60, places)], 1)  # fmt: skip
    return ChainGeometry(mean, np.tile([7.0, 0.4, 4.0, 30.0], (places, 1)))


def paths(marks: Landmarks, geometry: ChainGeometry, evidence: np.ndarray | None) -> dict[tuple, float]:
    """(posture, landmarks on the path, their places) -> log-weight, by the definition, one path at a time."""
    x, n, p = features(marks), len(marks), len(geometry.mean)
    prior = -0.5 * (model.POSTURES / model.POSTURE_SPREAD) ** 2
    prior = prior - logsumexp(prior)

    def cost(value: float, place: int, feature: int) -> float:
        spread = geometry.spread[place, feature]
        z = (value - geometry.mean[place, feature]) / spread
        return min(0.5 * z * z, model.LARGEST) + np.log(spread / model.FIRST_SPREAD[feature])

    def emission(k: int, place: int, turn: float) -> float:
        total = (
            cost(x[k, TILT] - turn, place, TILT) + cost(x[k, SIZE], place, SIZE) + cost(x[k, PLACE], place, PLACE) / n
        )
        return (0.0 if evidence is None else evidence[k, place]) - total

    def move(i: int, a: int, k: int, b: int) -> float:
        variance = max((geometry.spread[a:b, GAP] ** 2).sum(), 1.0)
        off = x[i, PLACE] - x[k, PLACE] - geometry.mean[a:b, GAP].sum()
        value = min(0.5 * off**2 / variance, 2 * model.LARGEST) + 0.5 * np.log(variance / model.FIRST_SPREAD[GAP] ** 2)
        return model.MISSED * (b - a - 1) + model.SPURIOUS * (k - i - 1) - value

    weights = {}
    for c, turn in enumerate(model.POSTURES):
        for length in range(1, min(n, p) + 1):
            for chosen in combinations(range(n), length):
                for places in combinations(range(p), length):
                    weight = prior[c] + model.SPURIOUS * chosen[0] + model.SHORT * max(places[0] - 1, 0)
                    weight += sum(emission(k, place, turn) for k, place in zip(chosen, places, strict=True))
                    for (i, a), (k, b) in pairwise(zip(chosen, places, strict=True)):
                        weight += move(i, a, k, b)
                    above = n - 1 - chosen[-1]
                    weight += above * (model.ABOVE if places[-1] == p - 1 else model.SPURIOUS)
                    weights[c, chosen, places] = weight
    return weights


class TestFindPlaces:
    @pytest.mark.parametrize("with_evidence", [False, True])
    @pytest.mark.parametrize(("count", "places", "seed"), [(1, 3, 0), (2, 4, 1), (3, 3, 2), (4, 4, 3), (4, 2, 4)])
    def test_all_paths_counted(self, count: int, places: int, seed: int, with_evidence: bool) -> None:
        rng = np.random.default_rng(seed)
        geometry, marks = drawn_geometry(rng, places), spine(rng, 1, count)
        evidence = rng.normal(0, 2, (count, places)) if with_evidence else None
        weights = paths(marks, geometry, evidence)
        total = logsumexp(list(weights.values()))
        posterior, postures = np.zeros((count, places)), np.zeros(len(model.POSTURES))
        for (c, chosen, at), weight in weights.items():
            posterior[list(chosen), list(at)] += np.exp(weight - total)
            postures[c] += np.exp(weight - total) * len(chosen)
        found = find_places(marks, geometry, evidence)
        assert found.log_likelihood == pytest.approx(total)
        np.testing.assert_allclose(found.posterior, posterior, atol=1e-9)
        _, chosen, at = max((k for k in weights if k[0] == postures.argmax()), key=weights.__getitem__)
        expected = np.full(count, -1)
        expected[list(chosen)] = at
        assert found.best.tolist() == expected.tolist()

    def test_a_constant_of_a_landmark_says_nothing(self) -> None:
        rng = np.random.default_rng(0)
        geometry, marks, evidence = drawn_geometry(rng, 4), spine(rng, 0, 3), rng.normal(0, 1, (3, 4))
        one, other = (find_places(marks, geometry, evidence + c).posterior.sum(1) for c in (0.0, 50.0))
        assert (other > 0.999).all()  # a landmark that is very likely somewhere is none's mistake
        assert (one <= 1 + 1e-9).all()

    def test_nothing(self) -> None:
        found = find_places(Landmarks(*np.zeros((3, 0)), 10, 1.0), drawn_geometry(np.random.default_rng(0), 3))
        assert (found.best.shape, found.posterior.shape, found.log_likelihood) == ((0,), (0, 3), 0.0)


class TestFeatures:
    def test_value(self) -> None:
        marks = Landmarks(np.array([8.0, 5.0, 1.0]), np.array([-3.0, 0, 2]), np.array([100.0, 200, 400]), 11, 2.0)
        expected = [[-3, np.log(0.5), 6, 6], [0, 0, 8, 0], [2, np.log(2), np.nan, -8]]
        np.testing.assert_allclose(features(marks), expected)


def right_share(geometry: ChainGeometry, cohort: list[tuple[Landmarks, np.ndarray]]) -> float:
    return float(np.mean([np.array_equal(find_places(marks, geometry).best, truth) for marks, truth in cohort]))


def cohort_of(seed: int, offset_mm: float, count: int = 30) -> list[tuple[Landmarks, np.ndarray]]:
    """Drawn spines of five to seven landmarks, with their places; the field of view varies by ± `offset_mm`."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        first, number = int(rng.random() < 0.9), int(rng.integers(5, 8))
        number = min(number, PLACES - first)
        found.append((spine(rng, first, number, rng.uniform(-offset_mm, offset_mm)), np.arange(first, first + number)))
    return found


class TestOddDistances:
    """Distances of 30, 32, ... mm with spreads of 3 mm and, for the third, 4 mm; a place left out adds them."""

    GEOMETRY = ChainGeometry(
        np.array([[0.0, 0.0, gap, 0.0] for gap in (27.0, 30.0, 32.0, 34.0, 36.0)]),
        np.array([[1.0, 1.0, spread, 1.0] for spread in (1.0, 3.0, 3.0, 4.0, 3.0)]),
    )

    def found(self, gaps: list[float], places: list[int]) -> list[OddDistance]:
        rows = 200.0 - np.cumsum([0.0, *gaps]) / 2.0
        marks = Landmarks(rows, np.zeros(len(rows)), np.ones(len(rows)), height=300, pixel_mm=2.0)
        return odd_distances(marks, np.array(places), self.GEOMETRY)

    def test_more_than_three_spreads(self) -> None:
        assert self.found([38.9, 23.1, 45.9], [1, 2, 3, 4]) == []
        odd = self.found([39.1, 22.9, 46.1], [1, 2, 3, 4])
        assert [(o.lower, o.upper) for o in odd] == [(1, 2), (2, 3), (3, 4)]
        assert [o.mm for o in odd] == pytest.approx([39.1, 22.9, 46.1])
        assert [o.usual_mm for o in odd] == pytest.approx([30.0, 32.0, 34.0])

    def test_a_place_that_was_missed(self) -> None:
        """From place 2 to 4 it is 66 mm, ± 5 mm."""
        assert self.found([30.0, 80.9], [1, 2, 4]) == []
        (odd,) = self.found([30.0, 81.1], [1, 2, 4])
        assert odd == (2, 4, pytest.approx(81.1), pytest.approx(66.0))

    def test_what_is_no_landmark_is_passed_over(self) -> None:
        assert self.found([15.0, 15.0, 32.0], [1, -1, 2, 3]) == []
        assert self.found([], [1]) == []
        assert self.found([30.0], [-1, -1]) == []

    def test_what_lies_below_the_chain_may_be_anywhere(self) -> None:
        assert self.found([60.0, 30.0], [0, 1, 2]) == []


class TestFitGeometry:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("offset_mm", [5.0, 80.0])
    def test_one_labelled_spine_and_a_cohort(self, seed: int, offset_mm: float) -> None:
        """The unlabelled ones give what one spine cannot; where fields of view vary, place says little by itself."""
        (first, places), *rest = cohort_of(seed, offset_mm)
        geometry = fit_geometry([(first, places)], [marks for marks, _ in rest], PLACES)
        assert right_share(geometry, rest) >= 0.9
        assert np.abs(geometry.mean[1:6, TILT] - TRUE_TILT[1:6]).max() < 6
        assert np.abs(geometry.mean[1:5, GAP] - TRUE_GAP[1:5]).max() < 3
        spread = geometry.spread[1:6, PLACE].mean()
        assert spread < 30 if offset_mm == 5 else spread > 40

    def test_a_cohort_knows_more_than_its_labelled_spine(self) -> None:
        """An atypical labelled spine, turned by 9 degrees: alone it misleads more."""
        rng = np.random.default_rng(5)
        first = spine(rng, 1, 6, noise=0.0)
        first = Landmarks(first.rows, first.tilt + 12, first.area, first.height, first.pixel_mm)
        rest = cohort_of(5, 80.0)
        alone = fit_geometry([(first, np.arange(1, 7))], [], PLACES)
        together = fit_geometry([(first, np.arange(1, 7))], [marks for marks, _ in rest], PLACES)
        error = [np.abs(g.mean[1:6, TILT] - TRUE_TILT[1:6]).mean() for g in (alone, together)]
        assert error[1] < 0.6 * error[0]

    def test_missed_doubled_and_false_landmarks(self) -> None:
        cohort = cohort_of(1, 20.0)
        geometry = fit_geometry(cohort[:3], [marks for marks, _ in cohort[3:]], PLACES)
        marks, places = spine(np.random.default_rng(8), 1, 7, noise=0.5), np.arange(1, 8)

        def of(rows: np.ndarray, index: list[int]) -> Landmarks:
            return Landmarks(rows, marks.tilt[index], marks.area[index], marks.height, marks.pixel_mm)

        without = [0, 1, 2, 4, 5, 6]
        assert find_places(of(marks.rows[without], without), geometry).best.tolist() == places[without].tolist()
        twice = [0, 1, 2, 2, 3, 4, 5, 6]
        rows = marks.rows[twice].copy()
        rows[3] -= 12.0
        found = find_places(of(rows, twice), geometry).best
        assert (found == -1).sum() == 1
        assert found[found >= 0].tolist() == places.tolist()

    def test_labels_alone(self) -> None:
        """Without unlabelled volumes: means of the labelled ones, drawn to nothing else."""
        marks = spine(np.random.default_rng(0), 1, 6)
        geometry = fit_geometry([(marks, np.arange(1, 7))], [], PLACES)
        np.testing.assert_allclose(geometry.mean[1:7, TILT], marks.tilt)
        np.testing.assert_allclose(geometry.mean[1:6, GAP], -np.diff(marks.rows))
        assert geometry.mean[0, TILT] == pytest.approx(marks.tilt[0] + model.BELOW[TILT])
        assert geometry.mean[0, PLACE] == pytest.approx(geometry.mean[1, PLACE] + model.BELOW[GAP])
        assert geometry.mean[7, PLACE] == pytest.approx(geometry.mean[6, PLACE] - geometry.mean[6, GAP])

    def test_weights_of_the_first_spreads(self) -> None:
        """Eight patients' worth of the first spread beside the one that is seen, which lies on its mean."""
        marks = spine(np.random.default_rng(0), 1, 6)
        spread = fit_geometry([(marks, np.arange(1, 7))], [], PLACES).spread
        np.testing.assert_allclose(spread[1:7, TILT], 8 * np.sqrt(8 / 9))
        np.testing.assert_allclose(spread[1:7, PLACE], 60 * np.sqrt(2 / 3))
        assert spread[0, TILT] == pytest.approx(12.0)

    def test_prior_of_another_cohort(self) -> None:
        """Ten patients' worth of its means beside the one that is seen, by hand; its spreads in place of the first."""
        marks = spine(np.random.default_rng(0), 1, 6)
        prior = drawn_geometry(np.random.default_rng(1), PLACES)
        prior.mean[2:7, TILT] = marks.tilt[1:] + 5.0
        prior.mean[5], prior.spread[5] = np.nan, np.nan
        geometry = fit_geometry([(marks, np.arange(1, 7))], [], PLACES, prior=prior)
        np.testing.assert_allclose(geometry.mean[2:5, TILT], marks.tilt[1:4] + 5.0 * 10 / 11)
        np.testing.assert_allclose(geometry.spread[2:5, TILT] ** 2, (8 * 7.0**2 + (5.0 * 10 / 11) ** 2) / 9)
        alone = fit_geometry([(marks, np.arange(1, 7))], [], PLACES)
        np.testing.assert_allclose(geometry.mean[5, TILT], alone.mean[5, TILT])
        np.testing.assert_allclose(geometry.mean[:, PLACE], alone.mean[:, PLACE])
        np.testing.assert_allclose(geometry.spread[:, PLACE], alone.spread[:, PLACE])

    @pytest.mark.parametrize("seed", range(3))
    def test_few_labelled_spines_begin_with_what_another_cohort_showed(self, seed: int) -> None:
        """Two atypical spines: alone they mislead; beside the prior, made where fields of view were others, less."""
        cohort = cohort_of(seed, 80.0)
        prior = fit_geometry(cohort, [], PLACES)
        few = []
        for k in (0, 1):
            marks = spine(np.random.default_rng(k), 1, 6, offset_mm=90.0)
            few.append((Landmarks(marks.rows, marks.tilt + 12, marks.area, marks.height, 1.0), np.arange(1, 7)))
        rest = cohort_of(seed + 10, 80.0)
        alone, begun = fit_geometry(few, [], PLACES), fit_geometry(few, [], PLACES, prior=prior)
        error = [np.abs(g.mean[1:6, TILT] - TRUE_TILT[1:6]).mean() for g in (alone, begun)]
        assert error[1] < 0.4 * error[0]
        assert right_share(begun, rest) >= max(0.9, right_share(alone, rest))

    def test_json(self) -> None:
        geometry = drawn_geometry(np.random.default_rng(0), 4)
        again = ChainGeometry.from_json(geometry.as_json())
        np.testing.assert_allclose(again.mean, geometry.mean, atol=5e-4)
        np.testing.assert_allclose(again.spread, geometry.spread, atol=5e-4)

    def test_exception(self) -> None:
        marks = spine(np.random.default_rng(0), 1, 3)
        with pytest.raises(ValueError, match="no labelled volume shows a landmark of the chain"):
            fit_geometry([(marks, np.full(3, -1))], [marks], PLACES)
