from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.ops.schedules import sigmoid_ramp


class TestSigmoidRamp:
    @pytest.mark.parametrize(
        ("progress", "weight"),
        [(0.0, 0.0), (0.199, 0.0), (0.2, math.exp(-5)), (0.4, math.exp(-1.25)), (0.6, 1.0), (1.0, 1.0)],
    )
    def test_value(self, progress: float, weight: float) -> None:
        assert sigmoid_ramp(progress, start=0.2, length=0.4) == pytest.approx(weight)

    def test_value_without_length_is_a_switch(self) -> None:
        assert [sigmoid_ramp(p, start=0.5, length=0.0) for p in (0.49, 0.5, 0.51)] == [0.0, 1.0, 1.0]

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match=r"must not be negative, got -0\.1"):
            sigmoid_ramp(0.5, 0.0, -0.1)

    @given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
    @settings(max_examples=30)
    def test_property_rises_within_0_and_1(self, a: float, b: float, start: float, length: float) -> None:
        low, high = (sigmoid_ramp(p, start, length) for p in sorted((a, b)))
        assert 0.0 <= low <= high <= 1.0
