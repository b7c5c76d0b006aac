from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.labels import ClassTable
from scripts.ops.levels.tissue import foreground_columns, group_index, level_probability, top_class, type_probability

GROUPS = torch.tensor([0, 1, 2, 2, 3, 3, 3])


class TestGroupIndex:
    def test_value(self) -> None:
        table = ClassTable.load()
        index = group_index(table)
        assert index.dtype == torch.int64
        assert index[0] == 0
        assert torch.equal(index, torch.tensor([0, 1, *[2] * 9, *[3] * 9]))
        for group in table.groups:
            assert len(set(index[list(table.group(group))].tolist())) == 1


class TestTopClass:
    def test_value_first_of_equals(self) -> None:
        scores = torch.tensor([[0.0, 3.0, -torch.inf], [0.0, 3.0, -torch.inf], [-1.0, 4.0, -torch.inf]])
        assert top_class(scores[None]).tolist() == [[0, 2, 0]]


class TestForegroundColumns:
    def test_value(self) -> None:
        logits = torch.zeros(2, 3, 4, 9)
        logits[:, 0] = 9.0
        logits[0, 1, 1, 4], logits[1, 2, 3, 6] = 8.4, 8.4  # of two classes: together above the background
        assert foreground_columns(logits) == slice(3, 8)
        logits[1, 2, 3, 6] = 8.3  # ln 2 = 0.693: below half of it
        logits[0, 2, 0, 0] = 9.0
        assert foreground_columns(logits) == slice(0, 6)

    def test_value_nothing(self) -> None:
        logits = torch.zeros(1, 3, 4, 9)
        logits[:, 0] = 9.0
        assert foreground_columns(logits) == slice(0, 9)

    @given(st.integers(0, 10_000), st.floats(0.0, 12.0))
    @settings(max_examples=20)
    def test_property_background_outside(self, seed: int, background: float) -> None:
        logits = 3 * torch.randn(2, 7, 3, 30, generator=torch.Generator().manual_seed(seed))
        logits[:, 0] += background
        spine = foreground_columns(logits)
        tissue = top_class(type_probability(logits.softmax(1), GROUPS))
        columns = (tissue > 0).any(0).any(0).nonzero().flatten().tolist()
        assert all(spine.start < c < spine.stop - 1 or c in (0, 29) for c in columns)


class TestTypeProbability:
    def test_twin(self) -> None:
        probs = torch.rand(2, 7, 3, 4).softmax(dim=1)
        result = type_probability(probs, GROUPS)
        assert result.shape == (2, 4, 3, 4)
        for group in range(4):
            classes = [c for c in range(7) if GROUPS[c] == group]
            torch.testing.assert_close(result[:, group], sum(probs[:, c] for c in classes))

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match=r"groups must be \(N\) with N=5, got \(7,\)"):
            type_probability(torch.rand(1, 5, 2, 2), GROUPS)
        with pytest.raises(ValueError, match=r"probs must be \(B, N, H, W\), got \(7, 2\)"):
            type_probability(torch.rand(7, 2), GROUPS)


class TestLevelProbability:
    def test_value(self) -> None:
        probs = torch.tensor([0.2, 0.1, 0.1, 0.3, 0.3, 0.0, 0.0])[None, :, None, None]
        expected = torch.tensor([1.0, 1.0, 0.25, 0.75, 1.0, 0.0, 0.0])
        torch.testing.assert_close(level_probability(probs, GROUPS)[0, :, 0, 0], expected, atol=2e-5, rtol=0)

    def test_value_without_evidence_is_uniform(self) -> None:
        levels = level_probability(torch.zeros(1, 7, 1, 1), GROUPS)[0, :, 0, 0]
        torch.testing.assert_close(levels, torch.tensor([1, 1, 1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3]))

    @given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
    @settings(max_examples=20)
    def test_property_sums_to_one_within_each_type(self, seed: int, scale: float) -> None:
        probs = torch.rand(1, 7, 2, 2, generator=torch.Generator().manual_seed(seed)) * scale
        sums = type_probability(level_probability(probs, GROUPS), GROUPS)
        torch.testing.assert_close(sums, torch.ones_like(sums))
