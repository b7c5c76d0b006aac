from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.ops.attention import activate, cosine_similarity, region_targets, valid_area


class TestCosineSimilarity:
    def test_twin(self) -> None:
        patches, prompts = torch.randn(2, 5, 3, 4), torch.randn(6, 5)
        result = cosine_similarity(patches, prompts)
        assert result.shape == (2, 6, 3, 4)
        for b, n, i, j in [(0, 0, 0, 0), (1, 5, 2, 3), (1, 2, 0, 1)]:
            p, t = patches[b, :, i, j].tolist(), prompts[n].tolist()
            dot = sum(x * y for x, y in zip(p, t, strict=True))
            assert result[b, n, i, j].item() == pytest.approx(dot / math.hypot(*p) / math.hypot(*t), abs=1e-6)

    def test_value_of_zero_embeddings(self) -> None:
        patches = torch.zeros(1, 3, 1, 1, requires_grad=True)
        result = cosine_similarity(patches, torch.ones(2, 3))
        result.sum().backward()
        assert torch.equal(result, torch.zeros(1, 2, 1, 1))
        assert patches.grad is not None
        assert patches.grad.isfinite().all()

    def test_value_is_float32_under_autocast(self) -> None:
        patches, prompts = torch.randn(1, 64, 4, 4), torch.randn(3, 64)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = cosine_similarity(patches, prompts)
        assert torch.equal(result, cosine_similarity(patches, prompts))

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match=r"prompts must be \(N, D\) with D=5, got \(6, 4\)"):
            cosine_similarity(torch.randn(2, 5, 3, 4), torch.randn(6, 4))
        with pytest.raises(ValueError, match=r"patches must be \(B, D, h, w\), got \(5, 3, 4\)"):
            cosine_similarity(torch.randn(5, 3, 4), torch.randn(6, 5))

    def test_gradcheck(self) -> None:
        patches = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
        prompts = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(cosine_similarity, (patches, prompts))

    @given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
    @settings(max_examples=20)
    def test_property_ignores_scale_and_stays_in_range(self, seed: int, scale: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        patches, prompts = torch.randn(1, 4, 2, 2, generator=generator), torch.randn(3, 4, generator=generator)
        result = cosine_similarity(patches, prompts)
        assert result.abs().max() <= 1 + 1e-6
        torch.testing.assert_close(cosine_similarity(patches * scale, prompts / scale), result, atol=1e-5, rtol=0)


class TestActivate:
    scale, bias = torch.tensor(10.0), torch.tensor(-2.5)

    def test_value_sigmoid(self) -> None:
        maps = activate(torch.tensor([0.25, 1.0]).view(1, 2, 1, 1), "sigmoid", self.scale, self.bias)
        torch.testing.assert_close(maps.flatten(), torch.tensor([0.5, 1 / (1 + math.exp(-7.5))]))

    def test_value_softmax(self) -> None:
        similarity = torch.rand(2, 5, 3, 4) * 2 - 1
        maps = activate(similarity, "softmax_classes", self.scale, self.bias)
        exponentials = [(10 * similarity[:, c]).exp() for c in range(5)]
        torch.testing.assert_close(maps[:, 3], exponentials[3] / sum(exponentials))
        torch.testing.assert_close(maps, activate(similarity, "softmax_classes", self.scale, self.bias * 7))

    @pytest.mark.parametrize("kind", ["softmax_classes", "sigmoid"])
    def test_gradcheck(self, kind: str) -> None:
        similarity = (torch.rand(1, 3, 2, 2, dtype=torch.float64) * 2 - 1).requires_grad_()
        scale, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (3.0, -1.0))
        assert torch.autograd.gradcheck(lambda *a: activate(a[0], kind, a[1], a[2]), (similarity, scale, bias))

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match="activation must be one of softmax_classes, sigmoid, got 'softmax'"):
            activate(torch.zeros(1, 2, 1, 1), "softmax", self.scale, self.bias)
        with pytest.raises(ValueError, match=r"similarity must be \(B, N, h, w\), got \(2, 1\)"):
            activate(torch.zeros(2, 1), "sigmoid", self.scale, self.bias)


class TestRegionTargets:
    # 4 x 4 pixels, 2 x 2 patches: three pixels of class 1 above left, one below right beside an ignored one.
    label = torch.tensor([[[1, 1, 0, 0], [1, 2, 0, 0], [0, 0, 1, 255], [0, 0, 0, 0]]])

    def test_value_area(self) -> None:
        region = region_targets(self.label, 3, (2, 2))
        assert region.dtype == torch.float32
        assert region[0].tolist() == [[[0, 1], [1, 0.5]], [[0.75, 0], [0, 0.25]], [[0.25, 0], [0, 0]]]

    def test_value_area_half(self) -> None:
        region = region_targets(self.label, 3, (2, 2), "area_half")
        assert region[0].tolist() == [[[0, 1], [1, 1]], [[1, 0], [0, 0]], [[0, 0], [0, 0]]]

    def test_value_bilinear_reads_the_pixels_around_the_centre_only(self) -> None:
        label = torch.zeros(1, 4, 4, dtype=torch.int64)
        label[0, 1, 1] = 1  # one of the four pixels around the centre of a 4 x 4 patch
        assert region_targets(label, 2, (1, 1), "bilinear_gt0")[0, 1].item() == 1
        label = torch.zeros(1, 4, 4, dtype=torch.int64)
        label[0, 0, 1] = 1
        assert region_targets(label, 2, (1, 1), "bilinear_gt0")[0, 1].item() == 0

    @pytest.mark.parametrize(("size", "grid"), [((12, 8), (3, 4)), ((12, 8), (12, 8)), ((30, 20), (5, 10))])
    def test_twin(self, size: tuple[int, int], grid: tuple[int, int]) -> None:
        label = torch.randint(0, 4, (2, *size))
        region = region_targets(label, 4, grid)
        rows, columns = size[0] // grid[0], size[1] // grid[1]
        for i in range(grid[0]):
            for j in range(grid[1]):
                patch = label[:, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
                for c in range(4):
                    share = (patch == c).float().mean(dim=(1, 2))
                    torch.testing.assert_close(region[:, c, i, j], share)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
    def test_value_of_other_integers(self, dtype: torch.dtype) -> None:
        assert torch.equal(region_targets(self.label.to(dtype), 3, (2, 2)), region_targets(self.label, 3, (2, 2)))

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match="must be one of area, area_half, bilinear_gt0, got 'nearest'"):
            region_targets(self.label, 3, (2, 2), "nearest")
        with pytest.raises(ValueError, match=r"label must be \(B, H, W\), got \(1, 1, 4, 4\)"):
            region_targets(self.label[:, None], 3, (2, 2))


class TestValidArea:
    def test_value(self) -> None:
        assert valid_area(TestRegionTargets.label, (2, 2)).tolist() == [[[[1, 1], [1, 0.75]]]]

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match=r"label must be \(B, H, W\), got \(4, 4\)"):
            valid_area(TestRegionTargets.label[0], (2, 2))

    @given(st.integers(0, 10_000), st.sampled_from([(3, 2), (4, 3), (5, 5)]))
    @settings(max_examples=20)
    def test_property_regions_of_all_classes_sum_to_it(self, seed: int, grid: tuple[int, int]) -> None:
        label = torch.randint(0, 5, (2, 11, 7), generator=torch.Generator().manual_seed(seed))
        label[label == 4] = 255
        total = region_targets(label, 4, grid).sum(dim=1, keepdim=True)
        torch.testing.assert_close(total, valid_area(label, grid))
