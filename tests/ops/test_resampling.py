from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.ops import resampling
from scripts.ops.resampling import resampled_top_class


def smooth_scores(classes: int = 6, size: tuple[int, int] = (24, 18), slices: int = 3) -> Tensor:
    coarse = torch.randn(slices, classes, 6, 5, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=size, mode="bicubic").softmax(1).movedim(0, -1)  # (N, H, W, S)


def resampled(scores: Tensor, scale: tuple[float, float], shift: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """All scores in the new grid (N, H', W', S), by PyTorch."""
    places = [torch.arange(n) * a + b for n, a, b in zip(size, scale, shift, strict=True)]
    y, x = (2 * p / (length - 1) - 1 for p, length in zip(places, scores.shape[1:3], strict=True))
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).expand(scores.shape[-1], -1, -1, -1)
    sampled = F.grid_sample(scores.movedim(-1, 0), grid, padding_mode="border", align_corners=True)
    return sampled.movedim(0, -1)


class TestResampledTopClass:
    @pytest.mark.parametrize(
        ("scale", "shift", "size"),
        [
            ((0.5, 0.5), (-0.25, -0.25), (48, 36)),
            ((0.37, 0.61), (0.2, -1.3), (60, 33)),
            ((1.0, 1.0), (0.0, 0.0), (24, 18)),
            ((2.1, 1.7), (0.4, 0.0), (11, 9)),
        ],
    )
    @pytest.mark.parametrize("at_a_time", [7, 2**18])
    def test_twin(self, scale, shift, size, at_a_time, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resampling, "_PIXELS_AT_A_TIME", at_a_time)
        scores = smooth_scores()
        label = resampled_top_class(scores, scale, shift, size)
        assert label.dtype == torch.uint8
        theirs = resampled(scores, scale, shift, size)
        first, second = theirs.topk(2, 0).values
        plain = first - second > 1e-5
        assert plain.float().mean() > 0.99
        assert torch.equal(label[plain], theirs.max(0).indices.to(torch.uint8)[plain])

    def test_a_third_class_between_two(self) -> None:
        """Two pixels of classes 0 and 2; half way between them class 1, the second of both, is the largest."""
        scores = torch.tensor([[0.6, 0.0], [0.4, 0.4], [0.0, 0.6]])[:, None, :, None]
        assert resampled_top_class(scores, (1.0, 0.5), (0.0, 0.0), (1, 3)).flatten().tolist() == [0, 1, 2]

    def test_the_first_of_equals(self) -> None:
        assert not resampled_top_class(torch.zeros(4, 3, 3, 2), (0.5, 0.5), (0.0, 0.0), (6, 6)).any()

    @pytest.mark.parametrize(
        ("shape", "words"), [((257, 2, 2, 1), "256 classes at most, got 257"), ((2, 2, 2), "scores must be")]
    )
    def test_exception(self, shape: tuple[int, ...], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            resampled_top_class(torch.zeros(shape), (1.0, 1.0), (0.0, 0.0), (2, 2))
