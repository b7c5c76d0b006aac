from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from scripts.reliability import MeasuredWeight


class Volumes:
    """Held-out volumes of one slice: the level is class 1 in some columns, 2 in the rest; class 3 is nobody's."""

    slices = "slices of the held-out volumes"

    def __init__(self, columns: list[int], hidden: bool = False) -> None:
        self.columns, self.hidden = columns, hidden

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, case: int) -> dict[str, Any]:
        label = torch.full((1, 1, 2, 6), 2, dtype=torch.uint8)
        label[..., : self.columns[case]] = 1
        return {"label": label, "is_unlabelled": torch.tensor([False, False, self.hidden, False])}


def evidence(slices: Any, case: int) -> tuple[Tensor, Tensor]:
    """The teacher takes everything for class 2, the prompts take the first three columns for class 1."""
    assert slices == Volumes.slices
    logits = torch.zeros(1, 4, 2, 6)
    logits[:, 2] = 1.0
    maps = torch.zeros(1, 4, 2, 6)
    maps[:, 1, :, :3] = 1.5
    return logits, maps


def label(logits: Tensor, maps: Tensor, gamma: float = 9.0) -> Tensor:
    return (logits + gamma * maps).argmax(1)


class TestMeasuredWeight:
    @pytest.mark.parametrize(
        ("columns", "expected"),
        [
            ([3, 3], 1.0),  # the prompts are right: the least weight at which they are heard
            ([0, 0], 0.0),  # they are wrong
            ([3, 3, 0], 1.0),  # right more often than not
            ([], None),
        ],
    )
    def test_value(self, columns: list[int], expected: float | None) -> None:
        assert MeasuredWeight(Volumes(columns), [2.0, 1.0, 0.5, 0.0])(evidence, label) == expected

    def test_classes_that_a_case_does_not_label_do_not_count(self) -> None:
        # without class 2 a volume of none but class 2 has nothing to score, and either weight scores the other alike
        assert MeasuredWeight(Volumes([0], hidden=True), [1.0, 0.0])(evidence, label) == 0.0

    def test_the_log_tells_every_score(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            MeasuredWeight(Volumes([3]), [0.0, 1.0])(evidence, label)
        # weight 0: class 1 is missed, class 2 has Dice 2 · 6 / (12 + 6)
        assert "weight 1 for the class prompts" in caplog.text
        assert "0: 33.3, 1: 100.0" in caplog.text
