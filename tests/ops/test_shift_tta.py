from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scripts.ops.shift_tta import entropy_weighted_tta, foreground_entropy, shift_rows, unshift_probabilities

ROWS, CLASSES = 16, 4
SETTINGS: Any = {"labelled": range(CLASSES), "shift_std": 0.125, "entropy_weight": 30.0}


def one_hot(label: Tensor, off: float = 0.0) -> Tensor:
    """(B, H, W) -> (B, CLASSES, H, W) with 1 - off at the class, the rest shared."""
    return torch.nn.functional.one_hot(label, CLASSES).movedim(-1, 1) * (1 - off - off / (CLASSES - 1)) + off / (
        CLASSES - 1
    )


def block(top: int, name: int = 1) -> Tensor:
    """A slice whose image is `name` on four rows from `top`."""
    image = torch.zeros(2, 1, ROWS, 3)
    image[:, :, top : top + 4] = name
    return image


@pytest.mark.parametrize("rows", [-5, -1, 0, 1, 5])
def test_displace_moves_down_and_repeats_the_border(rows: int) -> None:
    images = torch.arange(ROWS, dtype=torch.float32)[:, None].expand(2, ROWS, 3)
    expected = [min(max(row - rows, 0), ROWS - 1) for row in range(ROWS)]
    assert shift_rows(images, rows)[1, :, 2].tolist() == expected


@pytest.mark.parametrize("rows", [-5, 0, 5])
def test_what_was_predicted_there_comes_back_to_its_place(rows: int) -> None:
    probs = torch.rand(2, CLASSES, ROWS, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    back = unshift_probabilities(shift_rows(probs, rows), rows)
    seen = slice(-rows, None) if rows < 0 else slice(0, ROWS - rows)
    torch.testing.assert_close(back[:, :, seen], probs[:, :, seen])
    unseen = torch.ones(ROWS, dtype=torch.bool)
    unseen[seen] = False
    assert (back[:, 0, unseen] == 1).all()
    assert (back[:, 1:, unseen] == 0).all()


def test_doubt_is_the_entropy_where_there_is_foreground() -> None:
    probs = torch.zeros(1, CLASSES, 1, 3)
    probs[0, :, 0, 0] = torch.tensor([1.0, 0, 0, 0])  # background, certain: does not count
    probs[0, :, 0, 1] = torch.tensor([0.0, 0.5, 0.5, 0])
    probs[0, :, 0, 2] = torch.tensor([0.0, 0, 0, 1])
    assert foreground_entropy(probs, range(CLASSES)).item() == pytest.approx(math.log(2) / 2)


def test_doubt_about_a_class_that_nobody_labelled_does_not_count() -> None:
    """It is background: a pixel that may be either is surely not foreground."""
    probs = torch.tensor([0.5, 0.0, 0.0, 0.5])[None, :, None, None].expand(1, CLASSES, 2, 2)
    assert foreground_entropy(probs, range(CLASSES)) > 0.6
    assert foreground_entropy(probs, [0, 1, 2]) == 0


def test_doubt_of_nothing_is_zero() -> None:
    assert foreground_entropy(one_hot(torch.zeros(1, 2, 2, dtype=torch.long)), range(CLASSES)).item() == 0


@pytest.mark.parametrize("unseen", [5e-3, 1.0])
def test_doubt_of_nothing_is_the_largest_with_a_share_of_unseen_foreground(unseen: float) -> None:
    empty, spine = one_hot(torch.zeros(1, 8, 8, dtype=torch.long)), one_hot(torch.ones(1, 8, 8, dtype=torch.long), 0.2)
    named = range(CLASSES)
    assert foreground_entropy(empty, named, unseen).item() == pytest.approx(math.log(CLASSES))
    assert foreground_entropy(spine, named, unseen) < foreground_entropy(empty, named, unseen)
    if unseen < 0.1:  # a spine's own doubt stays what it is
        own = foreground_entropy(spine, named).item()
        assert foreground_entropy(spine, named, unseen).item() == pytest.approx(own, abs=0.01)


def test_doubt_with_unseen_foreground_by_hand() -> None:
    """Ten pixels, two of them foreground with doubt log 2 and 0; a fifth of ten more at log 4."""
    probs = torch.zeros(1, CLASSES, 1, 10)
    probs[0, 0, 0, 2:] = 1
    probs[0, 1:3, 0, 0] = 0.5
    probs[0, 3, 0, 1] = 1
    found = foreground_entropy(probs, range(CLASSES), 0.2).item()
    assert found == pytest.approx((math.log(2) + 2 * math.log(4)) / 4)


@pytest.mark.parametrize("seen", [0.0, 0.02, 0.05])
def test_a_place_where_the_network_sees_next_to_nothing_does_not_win(seen: float) -> None:
    """At the first shift it sees this share of the spine, and that without doubt; at its own place all, with some."""
    volume = torch.zeros(2, 1, 100, 10)
    volume[:, :, 20:80, 2:6] = 1

    def predict(slices: Tensor) -> Tensor:
        if bool(slices[0, 0, 20, 2]):
            return one_hot(slices[:, 0].long(), 0.05)
        label = torch.zeros(2, 100, 10, dtype=torch.long)
        label[:, 30 : 30 + round(60 * seen), 2:6] = 2
        return one_hot(label)

    mixed = entropy_weighted_tta(predict, volume, [0.1, 0.0], **SETTINGS)
    assert torch.equal(mixed.argmax(1), volume[:, 0].long())


def test_at_one_place_it_is_the_prediction() -> None:
    volume = torch.rand(2, 1, ROWS, 3, generator=torch.Generator().manual_seed(0))

    def predict(slices: Tensor) -> Tensor:
        return torch.cat([slices * k for k in range(CLASSES)], 1).softmax(1)

    torch.testing.assert_close(entropy_weighted_tta(predict, volume, [0.0], **SETTINGS), predict(volume))


def test_equal_doubt_leaves_the_distance_and_sums_to_one() -> None:
    seen = []

    def predict(slices: Tensor) -> Tensor:
        label = torch.full((2, ROWS, 3), len(seen) + 1)
        seen.append(slices)
        return one_hot(label, 0.3)

    mixed = entropy_weighted_tta(
        predict, block(6), [0.0, 0.25], labelled=range(CLASSES), shift_std=0.25, entropy_weight=30.0, unseen=0.0
    )
    assert len(seen) == 2
    torch.testing.assert_close(mixed.sum(1), torch.ones(2, ROWS, 3))
    weight = torch.tensor([1.0, math.exp(-0.5)])
    weight = weight / weight.sum()
    # of rows that both saw: class 1 from the first place, class 2 from the second
    difference = mixed[:, 1, : ROWS - 4] - mixed[:, 2, : ROWS - 4]
    torch.testing.assert_close(difference, ((weight[0] - weight[1]) * (1 - 0.3 - 0.1)).expand_as(difference))


def test_the_place_without_doubt_gives_the_names() -> None:
    """A network that is sure of class 1 at rows 4 to 8 and elsewhere leans towards class 2."""

    def predict(slices: Tensor) -> Tensor:
        inside = slices[:, 0] > 0
        at_home = bool(inside[:, 4:8].all())
        label = torch.where(inside, 1 if at_home else 2, 0)
        return one_hot(label, 0.01 if at_home else 0.4)

    volume = block(6)
    assert (predict(volume).argmax(1)[:, 6:10] == 2).all()
    mixed = entropy_weighted_tta(predict, volume, [-0.125, 0.0, 0.125], **SETTINGS)
    assert (mixed.argmax(1)[:, 6:10] == 1).all()
    assert (mixed.argmax(1)[:, :6] == 0).all()


@pytest.mark.parametrize("order", [1, -1])
def test_great_doubt_everywhere_is_weighed_too(order: int) -> None:
    """Weights that are all 0 in float32 by themselves; the shift of lower entropy counts alone, wherever it comes."""
    seen = []

    def predict(slices: Tensor) -> Tensor:
        seen.append(slices)
        less = len(seen) == (1 if order == 1 else 2)
        return one_hot(torch.full((2, ROWS, 3), 1 if less else 2), 0.3 if less else 0.6)

    mixed = entropy_weighted_tta(
        predict, block(6), [0.0, 0.0], labelled=range(CLASSES), shift_std=1.0, entropy_weight=1e4
    )
    torch.testing.assert_close(mixed, one_hot(torch.full((2, ROWS, 3), 1), 0.3))
