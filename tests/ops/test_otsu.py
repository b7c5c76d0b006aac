from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.filters import threshold_otsu
from torch import Tensor

from scripts.ops import otsu
from scripts.ops.otsu import otsu_thresholds

KINDS = ("smooth", "noise", "normal", "softmax", "discrete", "offset", "negative")


def draw(kind: str, count: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 7, 6, generator=generator)
    smooth = F.interpolate(coarse**3, size=size, mode="bilinear", align_corners=False)[:, 0]
    return {
        "smooth": smooth,
        "noise": torch.rand(count, *size, generator=generator),
        "normal": torch.randn(count, *size, generator=generator),
        "softmax": (20 * smooth).softmax(dim=0),
        "discrete": torch.randint(0, 9, (count, *size), generator=generator) / 8,
        "offset": 0.8 + 0.05 * smooth,
        "negative": -1000 * smooth,
    }[kind]


def variance_of_cut(image: np.ndarray, threshold: float) -> float:
    """Between-class variance, in float64, of the bins up to the one whose centre the threshold is, against the rest."""
    if image.min() == image.max():
        return float(threshold != image.min())
    counts, edges = np.histogram(image, bins=256)
    centres = (edges[1:].astype(np.float64) + edges[:-1]) / 2
    cut = int(np.abs(centres - threshold).argmin()) + 1
    assert abs(centres[cut - 1] - threshold) <= 1e-3 * (centres[1] - centres[0]) + 4 * np.spacing(abs(threshold))
    means = [(c * x).sum() / c.sum() for c, x in ((counts[:cut], centres[:cut]), (counts[cut:], centres[cut:]))]
    return float(counts[:cut].sum() * counts[cut:].sum() * (means[0] - means[1]) ** 2)


def assert_equal_to_skimage(maps: Tensor, other_cuts: int = 0) -> None:
    """Variances of the cuts to the tolerance that the docstring states, thresholds but for some near ties."""
    flat = maps.flatten(0, -3).numpy()
    ours, theirs = otsu_thresholds(maps).flatten().tolist(), [float(threshold_otsu(image)) for image in flat]
    variances = np.array([[variance_of_cut(i, t) for t in both] for i, *both in zip(flat, ours, theirs, strict=True)])
    tolerance = 1e-5 if maps.dtype == torch.float32 else 1e-9
    np.testing.assert_allclose(variances[:, 0], variances[:, 1], rtol=tolerance, atol=0)
    differ = sum(variances[:, 0] != variances[:, 1])
    assert differ <= other_cuts, f"{differ} of {len(flat)} cuts"


class TestOtsuThresholds:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("kind", KINDS)
    def test_value_equals_skimage(self, kind: str, dtype: torch.dtype) -> None:
        maps = draw(kind, 60, (48, 32)).to(dtype)
        assert otsu_thresholds(maps).dtype == dtype
        assert_equal_to_skimage(maps, other_cuts=3 if dtype == torch.float32 else 0)

    def test_twin_maximises_the_between_class_variance(self) -> None:
        image = draw("smooth", 1, (40, 30))[0]
        counts, edges = np.histogram(image.double().numpy(), bins=256)
        centres = (edges[1:] + edges[:-1]) / 2
        variances = []
        for cut in range(1, 256):
            low, high = counts[:cut], counts[cut:]
            means = [(c * x).sum() / c.sum() for c, x in ((low, centres[:cut]), (high, centres[cut:]))]
            variances.append(low.sum() * high.sum() * (means[0] - means[1]) ** 2)
        best = centres[int(np.argmax(variances))]
        assert otsu_thresholds(image.double()).item() == pytest.approx(best, abs=1e-9)

    def test_value_bins_as_numpy_on_and_beside_the_edges(self) -> None:
        for low, high in ((0.0, 1.0), (-0.3, 0.7), (0.1, 0.2), (1 / 3, 1000.1)):
            edges = np.histogram_bin_edges(np.array([low, high]), bins=256)
            beside = [np.nextafter(edges, -np.inf)[1:], edges, np.nextafter(edges, np.inf)[:-1]]
            values = np.concatenate(beside)
            ends = (torch.tensor([end], dtype=torch.float64) for end in (values.min(), values.max()))
            counts = otsu._histograms(torch.from_numpy(values)[None], *ends, bins=256)
            assert counts[0].tolist() == np.histogram(values, bins=256)[0].tolist()

    def test_value_of_two_values_is_the_first_bin(self) -> None:
        maps = torch.zeros(1, 4, 4)
        maps[0, :2] = 1
        assert otsu_thresholds(maps).item() == pytest.approx(0.5 / 256)

    @pytest.mark.parametrize("value", [0.0, -3.25, 0.1])
    def test_value_of_a_constant_map_is_its_own(self, value: float) -> None:
        maps = torch.cat((torch.full((1, 5, 6), value), draw("noise", 1, (5, 6))))
        thresholds = otsu_thresholds(maps)
        assert thresholds[0] == maps[0, 0, 0]
        assert not (maps[0] > thresholds[0]).any()
        assert thresholds[1] == otsu_thresholds(maps[1])

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    def test_value_of_a_map_that_is_not_finite_is_nan(self, value: float) -> None:
        maps = draw("noise", 3, (5, 6))
        expected = otsu_thresholds(maps)
        maps[1, 2, 3] = value
        thresholds = otsu_thresholds(maps)
        assert thresholds[1].isnan()
        assert torch.equal(thresholds[::2], expected[::2])

    @pytest.mark.parametrize("shape", [(8, 6), (4, 8, 6), (2, 3, 8, 6), (0, 8, 6)])
    def test_shape(self, shape: tuple[int, ...]) -> None:
        assert otsu_thresholds(torch.rand(shape)).shape == shape[:-2]

    def test_value_does_not_depend_on_chunks_or_layout(self, monkeypatch: pytest.MonkeyPatch) -> None:
        maps = draw("smooth", 12, (16, 12)).view(3, 4, 16, 12)
        expected = otsu_thresholds(maps)
        for pixels in (100, 400, 10_000):  # half a map, two maps, all
            monkeypatch.setattr(otsu, "_PIXELS_AT_A_TIME", pixels)
            assert torch.equal(otsu_thresholds(maps), expected)
            assert torch.equal(otsu_thresholds(maps.contiguous(memory_format=torch.channels_last)), expected)

    def test_value_leaves_the_maps_alone(self) -> None:
        maps = draw("noise", 2, (8, 8)).requires_grad_()
        before = maps.detach().clone()
        assert not otsu_thresholds(maps).requires_grad
        assert torch.equal(maps, before)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_value_of_half_precision_is_read_as_float32(self, dtype: torch.dtype) -> None:
        maps = draw("noise", 3, (16, 16)).to(dtype)
        assert torch.equal(otsu_thresholds(maps), otsu_thresholds(maps.float()))

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match=r"with pixels, got torch\.float32 \(5,\)"):
            otsu_thresholds(torch.rand(5))
        with pytest.raises(ValueError, match=r"got torch\.float32 \(2, 0, 4\)"):
            otsu_thresholds(torch.rand(2, 0, 4))
        with pytest.raises(ValueError, match=r"must be floating point .* got torch\.int64"):
            otsu_thresholds(torch.ones(2, 4, 4, dtype=torch.int64))
        with pytest.raises(ValueError, match="bins must be at least 2, got 1"):
            otsu_thresholds(torch.rand(4, 4), bins=1)

    @given(st.integers(0, 10_000), st.sampled_from(KINDS), st.integers(2, 40), st.integers(2, 40))
    @settings(max_examples=30)
    def test_property_equals_skimage_at_any_size(self, seed: int, kind: str, height: int, width: int) -> None:
        assert_equal_to_skimage(draw(kind, 3, (height, width), seed), other_cuts=3)

    @given(st.integers(0, 10_000), st.integers(-4, 4), st.integers(-8, 8))
    @settings(max_examples=30)
    def test_property_moves_with_affine_changes(self, seed: int, exponent: int, offset: int) -> None:
        # Multiples of 1/64 and powers of two keep every value exact, so that no pixel changes its bin.
        maps = torch.randint(0, 65, (2, 9, 9), generator=torch.Generator().manual_seed(seed)) / 64
        moved = otsu_thresholds((maps * 2.0**exponent + offset).double())
        torch.testing.assert_close(moved, otsu_thresholds(maps.double()) * 2.0**exponent + offset, rtol=0, atol=1e-9)

    @pytest.mark.gpu
    @pytest.mark.parametrize("kind", KINDS)
    def test_value_on_a_gpu(self, kind: str) -> None:
        maps = draw(kind, 60, (48, 32))
        torch.testing.assert_close(otsu_thresholds(maps.cuda()).cpu(), otsu_thresholds(maps), rtol=1e-6, atol=0)
