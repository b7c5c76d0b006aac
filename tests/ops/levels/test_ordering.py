from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scripts.labels import IGNORE, ClassTable
from scripts.ops.levels.ordering import (
    chain_index,
    decode_order,
    order_predictions,
    order_probabilities,
    spine_rows,
    viterbi_path,
)
from scripts.ops.levels.tissue import group_index
from scripts.phantom.volume import make_phantom

TABLE = ClassTable.load()
GROUPS = group_index(TABLE)
CHAIN = chain_index(TABLE)
WITHOUT_SACRUM = chain_index(TABLE, [c.id for c in TABLE.foreground if c.name != "S"])


def slices(count: int = 2) -> Tensor:
    """Slices (B, 96, 48) from the middle of drawn spines, as class ids."""
    drawn = []
    for number in range(count):
        _, label, _ = make_phantom(0, number, shape_hw=(96, 48), pixel_mm=3.1)  # (W, H, S)
        drawn.append(torch.from_numpy(label[..., label.shape[2] // 2].T.astype(np.int64)))
    label = torch.stack(drawn)
    return label.masked_fill(label == IGNORE, 0)


def logits_of(label: Tensor, certainty: float = 6.0) -> Tensor:
    """(B, H, W) class ids -> (B, 20, H, W) logits of a network that is rather certain of them."""
    return certainty * F.one_hot(label, TABLE.num_classes).movedim(-1, 1).float()


def noisy(seed: int = 0, scale: float = 2.0) -> Tensor:
    """Logits of drawn slices with noise in patches, which misnames and invents structures."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(2, TABLE.num_classes, 12, 6, generator=generator)
    return logits_of(slices(), 4.0) + scale * F.interpolate(patches, (96, 48), mode="bilinear")


def decode(logits: Tensor, chain: Tensor = CHAIN, **settings: float) -> Tensor:
    return decode_order(logits.softmax(1), logits, groups=GROUPS, chain=chain, **settings)


def renamed(label: Tensor, names: dict[str, str]) -> Tensor:
    changed = label.clone()
    for old, new in names.items():
        changed[label == TABLE.id_of(old)] = TABLE.id_of(new)
    return changed


class TestChainIndex:
    def test_value(self) -> None:
        names = [TABLE.names[i] for i in CHAIN]
        assert CHAIN.dtype == torch.int64
        assert names[:4] == ["S", "L5/S", "L5", "L4/L5"]
        assert names[-1] == "T9"
        assert sorted(CHAIN.tolist()) == list(range(1, 20))

    def test_value_of_labelled_classes(self) -> None:
        assert WITHOUT_SACRUM.tolist() == [0, *CHAIN[1:].tolist()]  # 0: the place of the sacrum, which has no name
        assert chain_index(TABLE, [2, 12, 0]).tolist() == [0, 2, 12]
        assert chain_index(TABLE, []).shape == (0,)


class TestSpineRows:
    def test_value_straight(self) -> None:
        weight = torch.zeros(2, 20, 9)
        weight[:, :, 4] = 1.0
        assert torch.equal(spine_rows(weight), torch.arange(20)[:, None].expand(2, 20, 9))

    @pytest.mark.parametrize("slope", [-0.5, 0.3, 0.6])
    def test_value_a_tilted_disc_has_one_row(self, slope: float) -> None:
        y, x = torch.meshgrid(torch.arange(80.0), torch.arange(60.0), indexing="ij")
        across = (x - 30 - slope * (y - 40)) / (1 + slope**2) ** 0.5  # from the spine's line, in pixels
        along = ((y - 40) + slope * (x - 30)) / (1 + slope**2) ** 0.5
        rows = spine_rows((across.abs() < 6).float()[None])[0]
        for place in (-12, 0, 12):
            disc = rows[(across.abs() < 6) & ((along - place).abs() < 0.5)]
            assert len(disc) >= 8
            assert disc.max() - disc.min() <= 2  # of the row it crosses the line at, rounding remains
            assert (disc - (40 + place / (1 + slope**2) ** 0.5)).abs().max() <= 1.5

    def test_value_the_line_is_not_drawn_to_the_edge(self) -> None:
        """A thin line far from column 0: a pixel on it has its own row."""
        y = torch.arange(64)
        weight = torch.zeros(1, 64, 1024)
        weight[0, y, 960 + y - 32] = 1.0
        assert (spine_rows(weight)[0, y, 960 + y - 32] - y).abs().max() <= 1

    @pytest.mark.parametrize("front", [1, 40, 700])
    def test_property_columns_beside_the_spine_change_nothing(self, front: int) -> None:
        weight = (
            torch.rand(3, 40, 12, generator=torch.Generator().manual_seed(2))
            * torch.tensor([1.0, 0.02, 0.0])[:, None, None]
        )
        wide = torch.nn.functional.pad(weight, (front, 7))
        assert torch.equal(spine_rows(wide)[:, :, front : front + 12], spine_rows(weight))

    def test_value_empty(self) -> None:
        rows = spine_rows(torch.zeros(1, 7, 5))
        assert torch.equal(rows, torch.arange(7)[:, None].expand(1, 7, 5))

    def test_value_a_single_pixel(self) -> None:
        weight = torch.zeros(1, 7, 5)
        weight[0, 3, 2] = 1.0
        rows = spine_rows(weight)
        assert 0 <= rows.min() <= rows.max() < 7

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match=r"weight must be \(B, H, W\), got \(4, 5\)"):
            spine_rows(torch.zeros(4, 5))


class TestBestPath:
    @staticmethod
    def every_path(places: int, rows: int) -> list[list[int]]:
        """All paths that fall by 0 or 1 from each row to the one below it."""
        every = product(range(places), repeat=rows)
        return [list(path) for path in every if all(a - b in (0, 1) for a, b in pairwise(path))]

    @pytest.mark.parametrize("places", [1, 2, 4])
    @pytest.mark.parametrize("rows", [1, 2, 6])
    def test_twin(self, places: int, rows: int) -> None:
        paths = torch.tensor(self.every_path(places, rows))  # (P, H)
        evidence = torch.randn(25, places, rows)
        scores = torch.stack([evidence[:, path, torch.arange(rows)].sum(1) for path in paths], 1)  # (25, P)
        assert torch.equal(viterbi_path(evidence), paths[scores.argmax(1)])

    def test_value(self) -> None:
        evidence = torch.full((1, 3, 5), -5.0)
        evidence[0, [2, 2, 1, 1, 0], range(5)] = 0.0
        assert viterbi_path(evidence).tolist() == [[2, 2, 1, 1, 0]]
        evidence[0, :, 2] = torch.tensor([4.0, -5.0, 0.0])  # one row that is certain of a jump cannot jump
        path = viterbi_path(evidence)[0]
        assert set((path[:-1] - path[1:]).tolist()) <= {0, 1}

    def test_value_without_evidence(self) -> None:
        path = viterbi_path(torch.zeros(2, 4, 9))
        assert path.shape == (2, 9)
        assert set((path[:, :-1] - path[:, 1:]).flatten().tolist()) <= {0, 1}

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match=r"evidence must be \(B, J, H\), got \(4, 5\)"):
            viterbi_path(torch.zeros(4, 5))


class TestDecodeOrder:
    def test_value_truth_stays(self) -> None:
        label = slices(4)
        assert len(label.unique()) > 10
        assert torch.equal(decode(logits_of(label)), label)

    @pytest.mark.parametrize(
        "names",
        [
            {"L3": "L2", "L2": "L3"},  # two vertebrae change places
            {"L3": "L2"},  # one has its neighbour's name, which then is there twice
            {"L2/L3": "T12/L1", "L3": "T12"},  # two neighbours are taken for others higher up
        ],
    )
    def test_value_misnamed_levels_are_repaired(self, names: dict[str, str]) -> None:
        label = slices()
        wrong = renamed(label, names)
        repaired = decode(logits_of(wrong))
        # a few pixels of a border lie in the row of a neighbour
        assert (wrong != label).sum() > 150
        assert (repaired != label).sum() < 10

    def test_value_a_spine_that_is_shifted_as_a_whole_stays(self) -> None:
        """The order says nothing about where it begins: what all structures agree on is believed."""
        shift = {a.name: b.name for a, b in zip(TABLE.chain[1:-2], TABLE.chain[3:], strict=True)}
        label = slices()
        shifted = renamed(label.masked_fill(label == TABLE.id_of("S"), 0), shift)
        top = [TABLE.id_of(c.name) for c in TABLE.chain[-2:]]
        shifted[torch.isin(label, torch.tensor(top))] = 0
        assert torch.equal(decode(logits_of(shifted)), shifted)

    @given(st.integers(0, 10_000), st.floats(0.5, 4.0))
    @settings(max_examples=15)
    def test_property_types_stay(self, seed: int, scale: float) -> None:
        logits = noisy(seed, scale)
        types = torch.stack([logits.softmax(1)[:, g == GROUPS].sum(1) for g in range(4)], 1).argmax(1)
        assert torch.equal(GROUPS[decode(logits)], types)

    @given(st.integers(0, 10_000))
    @settings(max_examples=15)
    def test_property_names_follow_the_order(self, seed: int) -> None:
        """Down a straight spine the names fall, but for a pixel of another type than its row: that is a neighbour's."""
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(1, TABLE.num_classes, 64, 1, generator=generator).repeat(1, 1, 1, 5)
        logits[:, TABLE.id_of("S")] = -20.0  # only one sacrum: such a pixel keeps its name wherever it lies
        place = torch.full((TABLE.num_classes,), -1)
        place[CHAIN] = torch.arange(len(CHAIN))
        places = place[decode(logits)][0, :, 2]
        places = places[places >= 0]
        assert (places[1:] - places[:-1]).max() <= 2
        assert len(places) > 30

    def test_value_classes_that_nobody_labelled(self) -> None:
        label = slices()
        assert (label == TABLE.id_of("S")).any()
        expected = label.masked_fill(label == TABLE.id_of("S"), 0)
        assert torch.equal(decode(logits_of(label), WITHOUT_SACRUM), expected)

    def test_value_a_sacrum_that_nobody_labelled_is_not_taken_for_a_vertebra(self) -> None:
        """Called L5, it would move all names up to where two vertebrae can share one."""
        label = slices()
        wrong = renamed(label, {"S": "L5", "L5": "L4", "L5/S": "L4/L5", "L4": "L3", "L4/L5": "L3/L4"})
        truth = label.masked_fill(label == TABLE.id_of("S"), 0)
        assert (decode(logits_of(wrong), CHAIN[1:]) != truth).sum() > 200
        assert (decode(logits_of(wrong), WITHOUT_SACRUM) != truth).sum() < 40

    def test_value_without_discs_there_is_no_order_and_names_stay(self) -> None:
        """All would be taken for what lies below the lowest disc, and the label map be empty."""
        label = slices()
        discs = torch.isin(label, torch.tensor([c.id for c in TABLE.foreground if "/" in c.name]))
        vertebrae = label.masked_fill(discs | (label == TABLE.id_of("S")), 0)
        assert torch.equal(decode(logits_of(vertebrae), WITHOUT_SACRUM), vertebrae)
        probs = logits_of(vertebrae).softmax(1)
        ordered = order_predictions(probs, groups=GROUPS, chain=WITHOUT_SACRUM)
        assert torch.equal(ordered.argmax(1), vertebrae)

    def test_value_probability_of_classes_outside_counts_as_background(self) -> None:
        logits = torch.zeros(1, TABLE.num_classes, 6, 5)
        logits[:, TABLE.id_of("L5")], logits[:, TABLE.id_of("S")], logits[:, 0] = 3.0, 2.9, 2.9
        assert (decode(logits) == TABLE.id_of("L5")).all()
        assert (decode(logits, WITHOUT_SACRUM) == 0).all()

    def test_value_level_weight(self) -> None:
        """At weight 0 the types alone place the names; with more weight a name that all rows agree on is kept."""
        logits = logits_of(torch.full((1, 30, 8), TABLE.id_of("L3")))
        assert (decode(logits) == TABLE.id_of("L3")).all()
        blind = decode(logits, level_weight=0.0)
        assert torch.equal(GROUPS[blind], GROUPS[torch.full((1, 30, 8), TABLE.id_of("L3"))])
        assert not (blind == TABLE.id_of("L3")).any()

    def test_value_uncertain_pixels_count_less(self) -> None:
        """In every row three pixels that may be background say L4, two that are no background say L5."""
        probs = torch.zeros(1, TABLE.num_classes, 12, 5)
        l5, l4 = TABLE.id_of("L5"), TABLE.id_of("L4")
        probs[:, 0, :, :3], probs[:, l4, :, :3], probs[:, l5, :, :3] = 0.48, 0.5, 0.02
        probs[:, l4, :, 3:], probs[:, l5, :, 3:] = 0.04, 0.96
        assert (decode_order(probs, (probs + 1e-9).log(), groups=GROUPS, chain=CHAIN) == l5).all()

    @pytest.mark.parametrize(("each", "winner"), [(1.1, "L4"), (1.3, "L4"), (1.4, "L5"), (1.6, "L5")])
    def test_value_a_single_pixel_counts_four_at_most(self, each: float, winner: str) -> None:
        """In every row three pixels prefer L5 by `each`; however sure one is of L4, it outweighs 4 in all."""
        probs, score = torch.zeros(1, TABLE.num_classes, 12, 4), torch.full((1, TABLE.num_classes, 12, 4), -50.0)
        l5, l4 = TABLE.id_of("L5"), TABLE.id_of("L4")
        probs[:, l5] = 1.0
        score[:, l5, :, :3], score[:, l4, :, :3], score[:, l4, :, 3] = 0.0, -each, 40.0
        decoded = decode_order(probs, score, groups=GROUPS, chain=CHAIN)
        assert (decoded == TABLE.id_of(winner)).all()

    def test_value_a_pixel_gets_its_row_s_level_where_neighbours_have_its_type(self) -> None:
        """In a chain of vertebrae alone: one pixel is sure of a neighbour, its row is not."""
        vertebrae = torch.tensor([c.id for c in TABLE.chain if "/" not in c.name and c.name != "S"])
        label = torch.full((1, 12, 9), TABLE.id_of("L3"))
        label[0, 6, 4] = TABLE.id_of("L2")
        assert (decode(logits_of(label, 30.0), vertebrae) == TABLE.id_of("L3")).all()

    @staticmethod
    def below_the_lowest_disc() -> Tensor:
        """Class ids (1, 36, 7) of L4 to L5/S, then of what a network without a sacrum takes for L5."""
        heights = {"L4": 8, "L4/L5": 4, "L5": 8, "L5/S": 6}
        rows = [TABLE.id_of(name) for name, height in heights.items() for _ in range(height)]
        return torch.tensor([*rows, *[TABLE.id_of("L5")] * 10])[None, :, None].repeat(1, 1, 7)

    def test_value_all_below_the_chain_is_background(self) -> None:
        label = self.below_the_lowest_disc()
        expected = label.clone()
        expected[:, 26:] = 0
        label[0, 31, 3] = TABLE.id_of("L5/S")  # the type of its neighbour in the chain, and named so
        assert torch.equal(decode(logits_of(label), WITHOUT_SACRUM), expected)

    def test_value_nothing_else_is_below_the_chain(self) -> None:
        """A vertebra's pixel in the rows of the lowest disc is L5, though it is sure not to be."""
        label = self.below_the_lowest_disc()
        label[0, 22, 3] = TABLE.id_of("L1")
        assert decode(logits_of(label, 30.0), WITHOUT_SACRUM)[0, 22, 3] == TABLE.id_of("L5")

    def test_value_uncertain_vertebrae_without_discs_stay(self) -> None:
        logits = torch.zeros(1, TABLE.num_classes, 12, 5)
        logits[:, [c.id for c in TABLE.foreground if "/" not in c.name]] = 9.0
        logits[:, TABLE.id_of("L3")] = 9.1
        assert (decode(logits, WITHOUT_SACRUM) == TABLE.id_of("L3")).all()

    @pytest.mark.parametrize(("share", "is_l5"), [(0.25, False), (0.3, False), (0.45, True), (0.6, True)])
    def test_value_below_the_chain_is_as_likely_as_a_level_of_probability_1_by_e(
        self, share: float, is_l5: bool
    ) -> None:
        """Vertebra, disc, vertebra: is the last L5, or what lies below L5/S? It alone says more than its type."""
        discs = [c.id for c in TABLE.chain if "/" in c.name]
        vertebrae = [c.id for c in TABLE.chain[1:] if "/" not in c.name]
        probs = torch.zeros(1, TABLE.num_classes, 24, 5)
        probs[:, vertebrae, :8] = 1 / len(vertebrae)
        probs[:, discs, 8:14] = 1 / len(discs)
        lowest = probs[:, :, 14:]
        lowest[:, vertebrae] = (1 - share) / (len(vertebrae) - 1)
        lowest[:, TABLE.id_of("L5")] = share
        decoded = decode_order(probs, probs.clamp_min(1e-9).log(), groups=GROUPS, chain=WITHOUT_SACRUM)
        assert (decoded[:, 14:] == (TABLE.id_of("L5") if is_l5 else 0)).all()

    def test_property_every_slice_by_itself(self) -> None:
        logits = noisy()
        together = decode(logits)
        assert torch.equal(together, torch.cat([decode(one) for one in logits.split(1)]))
        assert torch.equal(decode(logits.flip(0)), together.flip(0))

    def test_value_the_levels_offset_does_not_count(self) -> None:
        logits = noisy()
        offset = torch.tensor([5.0, -3.0, 2.0, 40.0])[GROUPS][:, None, None]
        result = decode_order(logits.softmax(1), logits + offset, groups=GROUPS, chain=CHAIN)
        assert (result == decode(logits)).float().mean() > 0.999  # rounding may decide a tie

    @pytest.mark.parametrize("size", [1e4, -1e4])
    def test_value_extreme_logits(self, size: float) -> None:
        label = slices()
        logits = logits_of(label, size) if size > 0 else logits_of(label, -size) + size
        assert torch.equal(decode(logits), label)
        extreme = decode(1e4 * noisy())
        assert 0 <= extreme.min() <= extreme.max() < TABLE.num_classes

    def test_value_under_autocast(self) -> None:
        logits = noisy()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            halved = decode(logits)
        assert torch.equal(halved, decode(logits))

    def test_value_nothing_but_background(self) -> None:
        assert (decode(logits_of(torch.zeros(2, 9, 7, dtype=torch.int64))) == 0).all()

    def test_value_leaves_its_arguments_alone(self) -> None:
        logits = noisy()
        probs, score = logits.softmax(1), logits.clone()
        decode_order(probs, score, groups=GROUPS, chain=CHAIN)
        assert torch.equal(score, logits)
        assert torch.equal(probs, logits.softmax(1))

    def test_exception(self) -> None:
        probs = torch.rand(2, 20, 8, 6)
        with pytest.raises(ValueError, match=r"level_score must be \(B, N, H, W\) with B=2, .* got \(1, 20, 8, 6\)"):
            decode_order(probs, probs[:1], groups=GROUPS, chain=CHAIN)
        with pytest.raises(ValueError, match=r"groups must be \(N\) with N=19, got \(20,\)"):
            decode_order(probs[:, :19], probs[:, :19], groups=GROUPS, chain=CHAIN)


def volume(count: int = 5) -> Tensor:
    """Neighbouring slices (S, 96, 48) of one drawn spine, as class ids."""
    _, label, _ = make_phantom(0, 1, shape_hw=(96, 48), pixel_mm=3.1)
    middle = label.shape[2] // 2
    slices = torch.from_numpy(label[..., middle - count // 2 : middle + count // 2 + 1].astype(np.int64)).permute(
        2, 1, 0
    )
    return slices.masked_fill(slices == IGNORE, 0)


class TestPooled:
    def test_slices_agree_where_one_of_them_is_misnamed(self) -> None:
        truth = volume()
        shifted = truth.clone()
        places = CHAIN.tolist()
        for lower, upper in zip(places, places[2:], strict=False):  # the whole slice one level too low
            shifted[2][truth[2] == upper] = lower
        logits = logits_of(shifted, 3.0)
        pooled, alone = decode(logits, pooled=True), decode(logits)
        right = lambda label: float((label == truth)[2][truth[2] > 0].float().mean())  # noqa: E731
        assert right(pooled) > 0.85  # the lowest structure has no level below it to be mistaken for
        assert right(alone) < 0.5

    def test_one_slice_is_the_same_pooled_or_not(self) -> None:
        logits = noisy()[:1]
        assert torch.equal(decode(logits, pooled=True), decode(logits))


class TestOrderProbabilities:
    @pytest.mark.parametrize("pooled", [False, True])
    @pytest.mark.parametrize("noise", [0.1, 2.0])
    def test_arg_max_is_the_decoded_label_map(self, pooled: bool, noise: float) -> None:
        logits = noisy(3, noise)
        probs = logits.softmax(1)
        ordered = order_probabilities(probs, logits, groups=GROUPS, chain=CHAIN, pooled=pooled)
        assert torch.equal(ordered.argmax(1), decode(logits, pooled=pooled))
        assert torch.allclose(ordered.sum(1), torch.ones(2, 96, 48), atol=1e-5)

    def test_arg_max_where_the_first_type_has_several_classes(self) -> None:
        """Also in the middle of a structure, far from all others."""
        groups, chain = torch.tensor([0, 1, 1, 2, 2]), torch.tensor([1, 3, 2, 4])
        label = torch.tensor([0] * 3 + [4] * 3 + [2] * 9 + [3] * 3 + [1] * 9)[None, :, None].repeat(1, 1, 12)
        logits = 6.0 * F.one_hot(label, 5).movedim(-1, 1).float()
        ordered = order_probabilities(logits.softmax(1), logits, groups=groups, chain=chain)
        assert torch.equal(ordered.argmax(1), label)

    @pytest.mark.parametrize("chain", [CHAIN, WITHOUT_SACRUM])
    def test_resampled_as_if_sought_everywhere(self, chain: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
        probs = noisy(5, 1.0).softmax(1)
        resampled = []
        for everywhere in (False, True):
            if everywhere:
                monkeypatch.setattr(F, "max_pool2d", lambda tissue, *_: torch.ones_like(tissue))
            ordered = order_predictions(probs, groups=GROUPS, chain=chain)
            resampled.append(F.interpolate(ordered, (250, 130), mode="bilinear").argmax(1))
        assert torch.equal(*resampled)
        assert resampled[0].unique().numel() > 10

    def test_types_keep_their_probability(self) -> None:
        probs = noisy(4).softmax(1)
        ordered = order_predictions(probs, groups=GROUPS, chain=CHAIN)
        for kind in GROUPS.unique():
            of_kind = kind == GROUPS
            assert torch.allclose(ordered[:, of_kind].sum(1), probs[:, of_kind].sum(1), atol=1e-5)

    def test_what_no_label_names_becomes_background(self) -> None:
        probs = noisy(4).softmax(1)
        ordered = order_predictions(probs, groups=GROUPS, chain=WITHOUT_SACRUM)
        sacrum = TABLE.id_of("S")
        assert not ordered[:, sacrum].any()
        named = order_predictions(probs, groups=GROUPS, chain=CHAIN[1:])  # the same without a place below L5/S
        assert torch.allclose(named[:, 0], probs[:, 0] + probs[:, sacrum], atol=1e-5)
        more = ordered[:, 0] - named[:, 0]
        assert (more > -1e-5).all()
        assert (more > 0.1).any()
        torch.testing.assert_close(ordered.sum(1), torch.ones_like(more))

    def test_an_empty_volume_stays_empty(self) -> None:
        probs = torch.zeros(2, TABLE.num_classes, 32, 16)
        probs[:, 0] = 1
        assert not order_predictions(probs, groups=GROUPS, chain=CHAIN).argmax(1).any()
