from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scripts.labels import IGNORE
from scripts.ops.fusion import (
    PromptEvidence,
    agreement_fusion,
    fuse,
    level_evidence_fusion,
    logit_fusion,
    ordered_level_evidence_fusion,
    probability_fusion,
    product_fusion,
)
from scripts.ops.levels.ordering import decode_order
from scripts.ops.levels.tissue import type_probability

GROUPS = torch.tensor([0, 1, 2, 2, 3, 3])
CHAIN = torch.tensor([1, 4, 2, 5, 3])
KINDS = ("logit", "probability", "product", "agreement", "level_evidence")
"""The kinds that look at one pixel at a time."""


def draw(seed: int = 0) -> tuple[Tensor, PromptEvidence]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, 6, 5, 4, generator=generator)
    maps = torch.rand(2, 6, 5, 4, generator=generator)
    maps[1] *= 1e-3  # nearly silent maps, where the floor matters
    label = torch.randint(0, 6, (2, 5, 4), generator=generator)
    label[0, 0, :2] = IGNORE
    return logits, PromptEvidence(maps, label)


def naive(kind: str, logits: Tensor, prompt: PromptEvidence, gamma: float, beta: float) -> Tensor:
    """The formulas, pixel by pixel, in Python numbers."""
    result = torch.zeros_like(prompt.label)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in result.shape)).tolist():
        b, y, x = place
        z, maps, s = logits[b, :, y, x].tolist(), prompt.maps[b, :, y, x].tolist(), int(prompt.label[b, y, x])
        p = [math.exp(v) / sum(map(math.exp, z)) for v in z]
        teacher = max(range(6), key=lambda c: z[c])
        if kind == "logit":
            scores = [v + beta * (c == s) for c, v in enumerate(z)]
        elif kind == "probability":
            scores = [v + beta * (c == s) for c, v in enumerate(p)]
        elif kind == "product":
            scores = [(v + 1e-3) * ((c == s) + 0.1) for c, v in enumerate(p)]
        elif kind == "agreement":
            result[b, y, x] = teacher if teacher == s else IGNORE
            continue
        else:
            types = [sum(v for c, v in enumerate(p) if GROUPS[c] == t) for t in range(4)]
            tissue = types.index(max(types))
            inside = [c for c in range(6) if GROUPS[c] == tissue]
            mass = sum(maps[c] + 1e-3 for c in inside)
            scores = [-1.0] * 6
            for c in inside:
                scores[c] = p[c] / types[tissue] * ((maps[c] + 1e-3) / mass) ** gamma
        result[b, y, x] = max(range(6), key=lambda c: scores[c])
    return result


class TestFuse:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(("gamma", "beta"), [(1.5, 1.0), (0.0, 0.3), (4.0, 5.0)])
    def test_twin(self, kind: str, gamma: float, beta: float) -> None:
        logits, prompt = draw()
        result = fuse(logits, prompt, kind=kind, groups=GROUPS, gamma=gamma, beta=beta)
        assert result.dtype == torch.int64
        assert torch.equal(result, naive(kind, logits, prompt, gamma, beta))

    def test_values_by_default(self) -> None:
        logits, prompt = draw()
        for kind in ("logit", "probability", "level_evidence"):
            found = fuse(logits, prompt, kind=kind, groups=GROUPS)
            assert torch.equal(found, naive(kind, logits, prompt, gamma=1.5, beta=1.0)), kind
        assert torch.equal(logit_fusion(logits, prompt), naive("logit", logits, prompt, 1.5, 1.0))
        assert torch.equal(probability_fusion(logits, prompt), naive("probability", logits, prompt, 1.5, 0.5))
        evidence = level_evidence_fusion(logits, prompt, groups=GROUPS)
        assert torch.equal(evidence, naive("level_evidence", logits, prompt, 1.5, 1.0))

    @pytest.mark.parametrize("kind", [*KINDS, "ordered_level_evidence"])
    def test_value_leaves_its_arguments_alone(self, kind: str) -> None:
        logits, prompt = draw()
        fuse(logits, prompt, kind=kind, groups=GROUPS, chain=CHAIN)
        again, same = draw()
        assert torch.equal(logits, again)
        assert torch.equal(prompt.maps, same.maps)
        assert torch.equal(prompt.label, same.label)

    @pytest.mark.parametrize("kind", [*KINDS, "ordered_level_evidence"])
    def test_value_of_half_precision(self, kind: str) -> None:
        logits, prompt = draw()
        half = PromptEvidence(prompt.maps.bfloat16(), prompt.label)
        whole = PromptEvidence(half.maps.float(), prompt.label)
        expected = fuse(logits.bfloat16().float(), whole, kind=kind, groups=GROUPS, chain=CHAIN)
        assert torch.equal(fuse(logits.bfloat16(), half, kind=kind, groups=GROUPS, chain=CHAIN), expected)

    def test_exception(self) -> None:
        logits, prompt = draw()
        with pytest.raises(ValueError, match=f"must be one of {', '.join(KINDS)}, ordered_level_evidence, got 'sum'"):
            fuse(logits, prompt, kind="sum", groups=GROUPS)
        with pytest.raises(ValueError, match=r"prompt\.label must be \(B, H, W\) with B=2, H=5, W=4, got \(1, 5, 4\)"):
            fuse(logits, PromptEvidence(prompt.maps, prompt.label[:1]), kind="logit", groups=GROUPS)
        with pytest.raises(
            ValueError, match=r"prompt\.maps must be \(B, N, H, W\) with B=2, N=6, .* got \(2, 5, 5, 4\)"
        ):
            fuse(logits, PromptEvidence(prompt.maps[:, :5], prompt.label), kind="logit", groups=GROUPS)
        with pytest.raises(ValueError, match=r"groups must be \(N\) with N=6, got \(5,\)"):
            fuse(logits, prompt, kind="level_evidence", groups=GROUPS[:5])


class TestPromptEvidence:
    def test_the_label_is_made_when_it_is_read_and_once(self) -> None:
        logits, prompt = draw()
        made: list[Tensor] = []

        def make() -> Tensor:
            made.append(prompt.label)
            return prompt.label

        late = PromptEvidence(prompt.maps, make)
        fused = fuse(logits, late, kind="level_evidence", groups=GROUPS)
        fuse(logits, late, kind="ordered_level_evidence", groups=GROUPS, chain=CHAIN)
        assert made == []
        assert torch.equal(fused, fuse(logits, prompt, kind="level_evidence", groups=GROUPS))
        for kind in KINDS:
            expected = fuse(logits, prompt, kind=kind, groups=GROUPS)
            assert torch.equal(fuse(logits, late, kind=kind, groups=GROUPS), expected)
        assert len(made) == 1


class TestLogitFusion:
    def test_value_ends(self) -> None:
        logits, prompt = draw()
        assert torch.equal(logit_fusion(logits, prompt, beta=0.0), logits.argmax(dim=1))
        given_label = prompt.label != IGNORE
        assert torch.equal(logit_fusion(logits, prompt, beta=1e4)[given_label], prompt.label[given_label])


class TestProbabilityFusion:
    def test_value_at_weight_1_is_the_prompt_map(self) -> None:
        logits, prompt = draw()
        expected = torch.where(prompt.label == IGNORE, logits.argmax(dim=1), prompt.label)
        assert torch.equal(probability_fusion(logits, prompt, weight=1.0), expected)


class TestProductFusion:
    def test_value_a_sure_teacher_wins(self) -> None:
        evidence = PromptEvidence(torch.zeros(1, 2, 1, 2), torch.ones(1, 1, 2, dtype=torch.int64))
        # odds of 20 : 1 and of 5 : 1 for class 0; the map weighs 11 : 1 for class 1
        logits = torch.tensor([[math.log(20), math.log(5)], [0.0, 0.0]]).view(1, 2, 1, 2)
        assert product_fusion(logits, evidence).flatten().tolist() == [0, 1]


class TestAgreementFusion:
    def test_value(self) -> None:
        logits = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]).view(1, 2, 1, 3)
        evidence = PromptEvidence(torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 1, IGNORE]]]))
        assert agreement_fusion(logits, evidence).flatten().tolist() == [0, IGNORE, IGNORE]


class TestLevelEvidenceFusion:
    @given(st.integers(0, 10_000), st.floats(0, 5))
    @settings(max_examples=30)
    def test_property_the_type_is_the_teachers(self, seed: int, gamma: float) -> None:
        logits, prompt = draw(seed)
        tissue = type_probability(logits.softmax(dim=1), GROUPS).argmax(dim=1)
        assert torch.equal(GROUPS[level_evidence_fusion(logits, prompt, groups=GROUPS, gamma=gamma)], tissue)

    @given(st.integers(0, 10_000))
    @settings(max_examples=30)
    def test_property_gamma_0_differs_from_argmax_by_the_type_alone(self, seed: int) -> None:
        logits, prompt = draw(seed)
        fused, plain = level_evidence_fusion(logits, prompt, groups=GROUPS, gamma=0.0), logits.argmax(dim=1)
        same_type = GROUPS[fused] == GROUPS[plain]
        assert torch.equal(fused[same_type], plain[same_type])

    def test_value_the_type_comes_first(self) -> None:
        # Background is the likeliest class, but the two vertebrae together are likelier than background.
        logits = torch.tensor([0.4, 0.0001, 0.35, 0.25, 0.0001, 0.0001]).log().view(1, 6, 1, 1)
        evidence = PromptEvidence(torch.full((1, 6, 1, 1), 0.5), torch.zeros(1, 1, 1, dtype=torch.int64))
        assert logits.argmax(dim=1).item() == 0
        assert level_evidence_fusion(logits, evidence, groups=GROUPS, gamma=0.0).item() == 2
        maps = torch.tensor([0.9, 0.0, 0.2, 0.4, 0.9, 0.9]).view(1, 6, 1, 1)
        evidence = PromptEvidence(maps, evidence.label)
        assert level_evidence_fusion(logits, evidence, groups=GROUPS, gamma=0.3).item() == 2
        assert level_evidence_fusion(logits, evidence, groups=GROUPS, gamma=1.5).item() == 3

    @given(st.integers(0, 10_000), st.floats(0.5, 100))
    @settings(max_examples=20)
    def test_property_maps_count_by_their_ratio(self, seed: int, scale: float) -> None:
        logits, prompt = draw(seed)
        scaled = PromptEvidence(prompt.maps * scale, prompt.label)
        results = [level_evidence_fusion(logits, e, groups=GROUPS, eps=e.maps.min().item()) for e in (prompt, scaled)]
        assert (results[0] == results[1]).float().mean() >= 0.95  # rounding may decide a tie

    def test_value_silent_maps_leave_the_teacher_alone(self) -> None:
        logits, prompt = draw()
        silent = PromptEvidence(torch.zeros_like(prompt.maps), prompt.label)
        expected = level_evidence_fusion(logits, prompt, groups=GROUPS, gamma=0.0)
        assert torch.equal(level_evidence_fusion(logits, silent, groups=GROUPS, gamma=3.0), expected)


class TestOrderedLevelEvidenceFusion:
    @given(st.integers(0, 10_000), st.floats(0, 5))
    @settings(max_examples=20)
    def test_twin(self, seed: int, gamma: float) -> None:
        """The chain through what level_evidence takes the largest of, normalised within each type."""
        logits, prompt = draw(seed)
        probs, evidence = logits.softmax(dim=1), prompt.maps + 1e-3
        score = torch.zeros_like(probs)
        for group in range(4):
            of_type = group == GROUPS
            level, said = probs[:, of_type], evidence[:, of_type]
            level, said = level / level.sum(1, keepdim=True), said / said.sum(1, keepdim=True)
            score[:, of_type] = level.log() + gamma * said.log()
        expected = decode_order(probs, score, groups=GROUPS, chain=CHAIN)
        result = fuse(logits, prompt, kind="ordered_level_evidence", groups=GROUPS, chain=CHAIN, gamma=gamma)
        assert result.dtype == torch.int64
        assert (result == expected).float().mean() >= 0.95  # rounding may decide a tie

    def test_value_gamma_0_ignores_the_maps(self) -> None:
        logits, prompt = draw()
        other = PromptEvidence(prompt.maps.flip(1), prompt.label)
        results = [
            ordered_level_evidence_fusion(logits, evidence, groups=GROUPS, chain=CHAIN, gamma=0.0)
            for evidence in (prompt, other)
        ]
        assert torch.equal(*results)

    @pytest.mark.parametrize("level", [2, 3])
    def test_value_a_vertebra_alone_has_the_level_of_its_map(self, level: int) -> None:
        tissue = torch.tensor([0, 2, 2, 2, 0])[:, None].expand(5, 4)  # (H, W) types
        logits = 8 * (GROUPS[:, None, None] == tissue).float()[None]
        maps = torch.zeros(1, 6, 5, 4)
        maps[:, level, 1:4] = 0.5
        evidence = PromptEvidence(maps, torch.zeros(1, 5, 4, dtype=torch.int64))
        result = ordered_level_evidence_fusion(logits, evidence, groups=GROUPS, chain=CHAIN)
        assert result[0, :, 1].tolist() == [0, level, level, level, 0]

    def test_value_maps_decide_where_the_teacher_cannot(self) -> None:
        """The teacher sees two vertebrae with a disc between them and knows no names; the maps know one of them."""
        tissue = torch.tensor([0, 2, 2, 2, 3, 2, 2, 2, 0])[:, None].expand(9, 4)  # (H, W) types
        logits = 8 * (GROUPS[:, None, None] == tissue).float()[None]
        maps = torch.zeros(1, 6, 9, 4)
        maps[:, 3, 1:4] = 0.5
        evidence = PromptEvidence(maps, torch.zeros(1, 9, 4, dtype=torch.int64))
        result = ordered_level_evidence_fusion(logits, evidence, groups=GROUPS, chain=CHAIN)
        assert result[0, :, 1].tolist() == [0, 3, 3, 3, 5, 2, 2, 2, 0]

    def test_value_pixels_keep_the_teachers_type(self) -> None:
        logits, prompt = draw()
        tissue = type_probability(logits.softmax(dim=1), GROUPS).argmax(dim=1)
        result = ordered_level_evidence_fusion(logits, prompt, groups=GROUPS, chain=CHAIN)
        assert torch.equal(GROUPS[result], tissue)

    def test_exception(self) -> None:
        logits, prompt = draw()
        with pytest.raises(ValueError, match="ordered_level_evidence needs the chain of classes"):
            fuse(logits, prompt, kind="ordered_level_evidence", groups=GROUPS)
