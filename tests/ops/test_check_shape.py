from __future__ import annotations

import pytest
import torch

from scripts.ops.check_shape import check_shape


class TestCheckShape:
    def test_value_learns_the_letters(self) -> None:
        known = {"B": 2}
        assert check_shape("image", torch.zeros(2, 1, 4, 6), "B 1 H W", known) == {"B": 2, "H": 4, "W": 6}
        assert known == {"B": 2}

    @pytest.mark.parametrize("shape", [(2, 4), (2, 3, 4, 6), (3, 3, 4), (2, 5, 4)])
    def test_exception_shows_what_was_expected_and_what_came(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"label must be \(B, 3, W\) with B=2, got \(") as error:
            check_shape("label", torch.zeros(shape), "B 3 W", {"B": 2})
        assert str(error.value).endswith(str(shape))

    def test_exception_for_a_letter_with_two_sizes(self) -> None:
        with pytest.raises(ValueError, match=r"square must be \(H, H\), got \(2, 3\)"):
            check_shape("square", torch.zeros(2, 3), "H H")
