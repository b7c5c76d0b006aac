from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.labels import IGNORE
from scripts.ops.levels.geometry import GAP, ChainGeometry, find_places, fit_geometry
from scripts.ops.levels.naming import (
    NETWORK_WEIGHT,
    ChainNames,
    ChainNaming,
    NameEvidence,
    name_probabilities,
    name_tissue,
)
from tests.drawn_spines import CHAIN, GROUPS, PIXEL_MM, TABLE, one_level_up, unsure, volume

NAMES = ChainNames(GROUPS, CHAIN)


def probabilities(label: Tensor, certainty: float = 4.0) -> Tensor:
    return (certainty * F.one_hot(label, TABLE.num_classes).movedim(-1, 1).float()).softmax(1)


@pytest.fixture(scope="module")
def geometry() -> ChainGeometry:
    spines = [(NAMES.spine_of_label(label, PIXEL_MM), label) for label in (volume(k, 5) for k in range(8))]
    return fit_geometry([(s.landmarks, NAMES.places_of_label(label, s)) for s, label in spines], [], NAMES.num_places)


class TestChainNames:
    def test_value(self) -> None:
        """Sacrum 1, L5 to T10 2 to 10 without the highest, L5/S to T9/T10 11 to 19."""
        assert NAMES.kind == 3
        assert NAMES.landmarks == [0, *range(11, 20)]
        assert NAMES.between == [[1], *[[c] for c in range(2, 11)]]
        assert NAMES.num_places == 10

    def test_without_discs_vertebrae_are_the_landmarks(self) -> None:
        names = ChainNames(torch.tensor([0, 1, 2, 2, 2]), [1, 2, 3, 4])
        assert (names.kind, names.landmarks) == (2, [0, 2, 3, 4])
        assert names.between == [[1], [], [], []]

    def test_what_no_label_names_is_left_out(self) -> None:
        names = ChainNames(GROUPS, [0, *CHAIN.tolist()[1:5]])
        assert names.landmarks == [0, 11, 12]
        assert names.between == [[], [2], [3]]
        assert names.known.nonzero()[:, 0].tolist() == [2, 3, 11, 12]

    def test_a_table_without_a_chain_has_no_landmark(self) -> None:
        names = ChainNames(GROUPS, [0])
        assert (names.landmarks, names.between) == ([0], [[]])
        spine = names.spine(probabilities(volume(0)), PIXEL_MM)
        assert len(spine.landmarks) == 0
        assert names.evidence(probabilities(volume(0)), spine).shape == (0, 1)

    @pytest.mark.parametrize("index", range(4))
    def test_places_of_a_label(self, index: int) -> None:
        label = volume(index)
        spine = NAMES.spine_of_label(label, PIXEL_MM)
        places = NAMES.places_of_label(label, spine)
        shown = sorted(c for c in label.unique().tolist() if GROUPS[c] == 3)
        assert [NAMES.landmarks[place] for place in places] == shown[: len(places)]
        assert len(shown) - len(places) <= 1  # the highest may be cut by the border
        assert NAMES.places_of_label(torch.zeros_like(label), spine).tolist() == [-1] * len(places)

    def test_ignored_pixels_are_background(self) -> None:
        label = torch.full((1, 20, 9), IGNORE, dtype=torch.uint8)
        assert not NAMES.spine_of_label(label, PIXEL_MM).tissue.any()

    def test_evidence(self) -> None:
        """The mean of log p(class | disc) over a disc's pixels, not below -4; -1 for the place below the chain."""
        label = volume(0)
        probs = probabilities(label, 2.0)
        spine = NAMES.spine_of_label(label, PIXEL_MM)
        found, places = NAMES.evidence(probs, spine) / NETWORK_WEIGHT, NAMES.places_of_label(label, spine)
        own = 2.0 - np.log(np.exp(2.0) + 8)
        for row, place in zip(found, places, strict=True):
            assert row[0] == -1
            assert row[place] == pytest.approx(own, abs=0.05)  # neighbours within reach may lend a pixel
            assert np.delete(row, [0, place]) == pytest.approx(own - 2.0, abs=0.05)
        sure = NAMES.evidence(probabilities(label, 40.0), spine) / NETWORK_WEIGHT
        assert sure.min() == pytest.approx(-4)

    @pytest.mark.parametrize("index", range(4))
    def test_the_true_places_give_the_true_names(self, index: int, geometry: ChainGeometry) -> None:
        label = volume(index)
        spine = NAMES.spine_of_label(label, PIXEL_MM)
        table = NAMES.table(spine.landmarks, NAMES.places_of_label(label, spine), geometry)
        named = name_tissue(spine, table)
        assert (named == label)[label > 0].float().mean() > 0.98

    def test_a_landmark_that_was_missed_is_put_where_it_is_expected(self, geometry: ChainGeometry) -> None:
        label = volume(1)
        spine = NAMES.spine_of_label(label, PIXEL_MM)
        places = NAMES.places_of_label(label, spine)
        places[2] = -1
        named = name_tissue(spine, NAMES.table(spine.landmarks, places, geometry))
        assert (named == label)[label > 0].float().mean() > 0.95

    def test_no_place_no_name(self, geometry: ChainGeometry) -> None:
        spine = NAMES.spine_of_label(volume(0), PIXEL_MM)
        assert not NAMES.table(spine.landmarks, np.full(len(spine.landmarks), -1), geometry).any()


class TestTransitionalAnatomy:
    def test_a_sacralised_l5_is_doubted(self, geometry: ChainGeometry) -> None:
        """Its rudimentary disc could be S1/S2: the posterior is split, and names that are wrong are not certain."""
        certain: dict[str | None, list[float]] = {None: [], "sacralised_l5": []}
        for anomaly, found in certain.items():
            for index in range(8, 28):
                label = volume(index, 3, anomaly)
                spine = NAMES.spine_of_label(label, PIXEL_MM)
                places, truth = find_places(spine.landmarks, geometry), NAMES.places_of_label(label, spine)
                has = places.best >= 0
                found.append(float(places.posterior[has, places.best[has]].mean()))
                assert np.array_equal(places.best[has], truth[has]) or found[-1] < 0.95
        regular, sacralised = certain.values()
        assert np.mean(np.array(regular) < 0.9) <= 0.2
        assert np.mean(np.array(sacralised) < 0.9) > np.mean(np.array(regular) < 0.9)
        assert np.mean(sacralised) < np.mean(regular) - 0.03


class TestNameProbabilities:
    def test_types_keep_their_probability_under_the_rows_name(self, geometry: ChainGeometry) -> None:
        label = volume(2)
        probs = probabilities(one_level_up(label), 3.0)
        spine = NAMES.spine_of_label(label, PIXEL_MM)
        table = NAMES.table(spine.landmarks, NAMES.places_of_label(label, spine), geometry)
        named = name_probabilities(probs, NAMES.known, spine, table)
        assert torch.allclose(named.sum(1), torch.ones_like(named.sum(1)), atol=1e-5)
        at = torch.rand(40, generator=torch.Generator().manual_seed(0))
        for s, y, x in (spine.tissue > 0).nonzero()[(at * (spine.tissue > 0).sum()).long()].tolist():  # naive twin
            expected = torch.zeros(TABLE.num_classes)
            expected[0] = probs[s, 0, y, x]
            for kind in range(1, 4):
                expected[table[kind, spine.rows[s, y, x]]] += probs[s, kind == GROUPS, y, x].sum()
            torch.testing.assert_close(named[s, :, y, x], expected)
        assert torch.equal(named.argmax(1)[spine.tissue > 0], name_tissue(spine, table)[spine.tissue > 0])


class TestChainNaming:
    @pytest.mark.parametrize("index", range(8, 12))
    def test_a_spine_named_one_level_off_is_put_right(self, index: int, geometry: ChainGeometry) -> None:
        naming = ChainNaming(GROUPS, CHAIN, PIXEL_MM, geometry.as_json())
        label = volume(index)
        named = naming(unsure(one_level_up(label))).argmax(1)
        assert (named == label)[label > 0].float().mean() > 0.9

    def test_confidence(self, geometry: ChainGeometry) -> None:
        """High where geometry and network agree, lower where they do not; that of a landmark is its own."""
        naming, label = ChainNaming(GROUPS, CHAIN, PIXEL_MM, geometry.as_json()), volume(9)
        agree, differ = (naming.evidence(unsure(shown)).posterior for shown in (label, one_level_up(label)))
        shown = [c for c in label.unique().tolist() if c in range(12, 17)]
        assert all(0.9 < agree[c] <= 1 + 1e-9 for c in shown)
        assert np.mean([agree[c] for c in shown]) > np.mean([differ[c] for c in shown])
        assert agree[2] == pytest.approx(agree[4])

    def test_a_distance_that_no_spine_of_the_training_has(self, geometry: ChainGeometry) -> None:
        """Here all others have a vertebra L3 that is higher by 30 mm."""
        mean = geometry.mean.copy()
        mean[3, GAP] += 30
        label = volume(9)
        usual, odd = (
            ChainNaming(GROUPS, CHAIN, PIXEL_MM, of.as_json()).evidence(unsure(label)).odd
            for of in (geometry, ChainGeometry(mean, geometry.spread))
        )
        assert usual == []
        ((lower, upper, mm, usual_mm),) = odd
        assert (TABLE.names[lower], TABLE.names[upper]) == ("L3/L4", "L2/L3")
        assert usual_mm == pytest.approx(mean[3, GAP], abs=1e-3)
        assert mm == pytest.approx(usual_mm - 30, abs=12)

    def test_nothing_to_name(self, geometry: ChainGeometry) -> None:
        naming = ChainNaming(GROUPS, CHAIN, PIXEL_MM, geometry.as_json())
        empty = probabilities(torch.zeros(2, 40, 20, dtype=torch.int64))
        assert naming.evidence(empty) == NameEvidence({}, [])
        assert not naming(empty).argmax(1).any()

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match="kept without a geometry of the chain; decode the levels instead"):
            ChainNaming(GROUPS, CHAIN, PIXEL_MM, None)(probabilities(volume(0)))
