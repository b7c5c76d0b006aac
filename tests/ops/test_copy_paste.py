from __future__ import annotations

import pytest
import torch

from scripts.labels import IGNORE
from scripts.ops.copy_paste import check_share, copy_paste, random_box

BOX = torch.tensor([[False, True], [False, True]])


class TestCopyPaste:
    def test_both_directions(self) -> None:
        """By hand: two pairs of 2x2 pixels, the right column is the box."""
        labelled = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[5.0, 6.0], [7.0, 8.0]]]])
        mixed = copy_paste(labelled, -labelled, BOX)
        assert mixed.image.tolist() == [[[[1.0, -2.0], [3.0, -4.0]]], [[[-5.0, 6.0], [-7.0, 8.0]]]]
        assert mixed.from_unlabelled.tolist() == [[[False, True], [False, True]], [[True, False], [True, False]]]

    def test_labels_keep_to_the_pixels_of_their_stream(self) -> None:
        mixed = copy_paste(torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2), BOX)
        label = torch.tensor([[[1, 2], [3, IGNORE]], [[5, 6], [7, 8]]], dtype=torch.uint8)
        assert mixed.label(label).tolist() == [[[1, IGNORE], [3, IGNORE]], [[IGNORE, 6], [IGNORE, 8]]]
        assert mixed.target(label).tolist() == [[[IGNORE, 2], [IGNORE, IGNORE]], [[5, IGNORE], [7, IGNORE]]]

    @pytest.mark.parametrize(("labelled", "unlabelled"), [(1, 3), (3, 1), (2, 3)])
    def test_every_slice_of_both_streams_is_used(self, labelled: int, unlabelled: int) -> None:
        ours, theirs = torch.arange(1.0, labelled + 1), -torch.arange(1.0, unlabelled + 1)
        mixed = copy_paste(
            ours.view(-1, 1, 1, 1).expand(-1, 1, 2, 2), theirs.view(-1, 1, 1, 1).expand(-1, 1, 2, 2), BOX
        )
        assert len(mixed.image) == 3
        assert set(mixed.image.unique().tolist()) == {*ours.tolist(), *theirs.tolist()}
        assert torch.equal((mixed.image < 0).squeeze(1), mixed.from_unlabelled)

    def test_one_pair_goes_both_ways(self) -> None:
        """As with one slice a process: half of the steps inward, half outward."""
        inward = [
            bool(copy_paste(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2), BOX).from_unlabelled[0, 0, 1])
            for _ in range(200)
        ]
        assert 60 < sum(inward) < 140

    def test_several_pairs_draw_nothing(self) -> None:
        state = torch.get_rng_state()
        copy_paste(torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2), BOX)
        assert torch.equal(torch.get_rng_state(), state)

    def test_every_second_pair_is_outward(self) -> None:
        mixed = copy_paste(torch.zeros(2, 1, 2, 2), torch.ones(6, 1, 2, 2), BOX)
        assert mixed.from_unlabelled[:, 0, 1].tolist() == [True, False] * 3


class TestRandomBox:
    def test_size_and_place(self) -> None:
        """Two thirds of each side, at every place where it fits."""
        corners = set()
        for _ in range(300):
            rows, columns = random_box(torch.zeros(3, 1, 12, 6), 2 / 3).nonzero().T
            assert (len(rows), rows.max() - rows.min(), columns.max() - columns.min()) == (8 * 4, 7, 3)
            corners.add((int(rows.min()), int(columns.min())))
        assert corners == {(top, left) for top in range(5) for left in range(3)}

    def test_is_a_pixel_at_least(self) -> None:
        assert random_box(torch.zeros(4, 4), 0.1).sum() == 1

    def test_follows_the_generator(self) -> None:
        """Which a checkpoint keeps, so that a resumed run draws the boxes of the whole run."""
        image, state = torch.zeros(8, 8), torch.get_rng_state()
        first = [random_box(image, 0.5) for _ in range(4)]
        torch.set_rng_state(state)
        assert all(torch.equal(mask, random_box(image, 0.5)) for mask in first)


def test_share_outside_its_range() -> None:
    assert check_share(0.5) == 0.5
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match=rf"box must be a share .* got {share}"):
            check_share(share)
