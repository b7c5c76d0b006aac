from __future__ import annotations

import pytest
import torch

from scripts.ops.masking import random_blocks


class TestRandomBlocks:
    @pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 2), (0.6, 4), (1.0, 6)])
    def test_value(self, share: float, count: int) -> None:
        masked = random_blocks(5, (12, 8), 4, share)
        assert masked.shape == (5, 1, 12, 8)
        assert masked.dtype == torch.bool
        blocks = masked.view(5, 3, 4, 2, 4).transpose(2, 3).flatten(3)  # (B, 3, 2, 16)
        assert torch.equal(blocks.all(3), blocks.any(3))  # whole blocks
        assert blocks.all(3).flatten(1).sum(1).tolist() == [count] * 5

    def test_images_have_masks_of_their_own(self) -> None:
        masked = random_blocks(400, (16, 16), 4, 0.5)
        assert len(masked.flatten(1).unique(dim=0)) > 300
        assert (masked.float().mean(0) - 0.5).abs().max() < 0.15  # no place is favoured

    def test_shape_of_blocks_that_do_not_fit(self) -> None:
        masked = random_blocks(2, (10, 7), 4, 1.0)
        assert masked.shape == (2, 1, 10, 7)
        assert masked.all()

    def test_follows_the_global_random_state(self) -> None:
        state = torch.get_rng_state()
        first, second = random_blocks(3, (16, 16), 4, 0.5), random_blocks(3, (16, 16), 4, 0.5)
        torch.set_rng_state(state)
        assert torch.equal(random_blocks(3, (16, 16), 4, 0.5), first)
        assert not torch.equal(first, second)

    def test_exception(self) -> None:
        for share in (-0.1, 1.1):
            with pytest.raises(ValueError, match=r"share of masked blocks must be in \[0, 1\], got"):
                random_blocks(1, (8, 8), 4, share)
        with pytest.raises(ValueError, match=r"share of masked blocks must be in \[0, 1\], got 60"):
            random_blocks(1, (8, 8), 4, 60)
        with pytest.raises(ValueError, match="block must be at least 1 pixel, got 0"):
            random_blocks(1, (8, 8), 0, 0.6)
