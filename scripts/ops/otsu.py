"""OTSU's threshold for many maps at once."""

from __future__ import annotations

import torch
from torch import Tensor

_PIXELS_AT_A_TIME = 2**17
"""On a CPU, pixels whose temporary tensors stay in the cache: 8 maps of 128 x 128, half a map of 512 x 512."""


def otsu_thresholds(maps: Tensor, bins: int = 256) -> Tensor:
    """OTSU's threshold of every map: the bin centre with the largest between-class variance, the first if several.

    As `skimage.filters.threshold_otsu` on float images: bins and counts are equal, and so is the between-class variance
    of the two cuts, to a relative tolerance of 1e-5 (1e-9 for float64 maps). The thresholds are equal unless another
    cut comes that close to the best: skimage sums in the precision of the maps, here sums are exact. (Where values are
    more than twenty times their range, skimage's rounding is coarser than this tolerance.)

    Args:
        maps: (..., h, w) floating point, any range; half precision is read as float32.
        bins: number of bins between the minimum and the maximum of each map, ≥ 2.

    Returns:
        (...) thresholds, float32 (float64 for float64 maps). A constant map gets its own value, a map with a value
        that is not finite gets NaN: in both cases `map > threshold` is empty.

    Raises:
        ValueError: fewer than two axes, no pixels, integer maps, or fewer than two bins.

    References: Otsu, A threshold selection method from gray-level histograms, IEEE Trans. SMC 9(1), 1979.
    """
    if maps.dim() < 2 or 0 in maps.shape[-2:] or not maps.is_floating_point():
        raise ValueError(f"maps must be floating point (..., h, w) with pixels, got {maps.dtype} {tuple(maps.shape)}")
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")
    flat = maps.detach().flatten(-2).reshape(-1, maps.shape[-2] * maps.shape[-1])  # (..., h, w) -> (M, h·w)
    flat = flat if flat.dtype == torch.float64 else flat.float()
    # amin and amax are vectorised; aminmax over an axis is several times slower than both together.
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    step = (high - low) / bins
    edges = torch.arange(bins + 1, dtype=flat.dtype, device=flat.device) * step[:, None] + low[:, None]
    edges[:, -1] = high
    centres = (edges[:, :-1] + edges[:, 1:]) / 2
    best = _between_class_variance(_histograms(flat, low, high, bins)).argmax(dim=1, keepdim=True)
    threshold = torch.where(low == high, low, centres.gather(1, best)[:, 0])
    return threshold.where((high - low).isfinite(), torch.nan).reshape(maps.shape[:-2])


def _histograms(flat: Tensor, low: Tensor, high: Tensor, bins: int) -> Tensor:
    """Histogram of every row, binned as numpy does it.

    Args:
        flat: (M, P) values.
        low: (M,) minimum of every row.
        high: (M,) maximum of every row.
        bins: number of bins.

    Returns:
        (M, bins) int64 counts.
    """
    if flat.device.type != "cpu" or flat.numel() <= _PIXELS_AT_A_TIME:
        return _count(flat, low[:, None], high[:, None], bins)
    # A GPU wants all maps at once; a CPU is faster on pieces that fit its cache, of several rows or of one.
    counts = torch.zeros(len(flat), bins, dtype=torch.int64)
    rows = max(1, _PIXELS_AT_A_TIME // flat.shape[1])
    for start in range(0, len(flat), rows):
        own = slice(start, start + rows)
        for piece in flat[own].split(_PIXELS_AT_A_TIME, dim=1):
            counts[own] += _count(piece, low[own, None], high[own, None], bins)
    return counts


def _count(values: Tensor, low: Tensor, high: Tensor, bins: int) -> Tensor:
    """Count the values (M, P) of every row in bins between low (M, 1) and high (M, 1); (M, bins) int64."""
    step = (high - low) / bins
    # The quotient may land beside the right bin by rounding; like numpy, let the edges decide. They are computed anew
    # and compared in place as floating point: looking them up, or making booleans, costs several times more.
    index = (values - low).div_(high - low).mul_(bins).trunc_()
    index.sub_((index * step).add_(low).gt_(values))
    index.add_((index + 1).mul_(step).add_(low).le_(values))
    index = index.to(torch.int32).clamp_(0, bins - 1)  # the last bin holds its right edge
    index += torch.arange(len(values), dtype=torch.int32, device=values.device)[:, None] * bins
    return torch.bincount(index.view(-1), minlength=len(values) * bins).view(len(values), bins)


def _between_class_variance(counts: Tensor) -> Tensor:
    """Between-class variance, times a constant, of a cut after each bin but the last.

    Args:
        counts: (M, bins) int64 pixels in each bin.

    Returns:
        (M, bins - 1) variance ≥ 0 in square bins, float64; NaN in rows of maps that are constant or not finite.
    """
    # Integers are summed: without rounding, and on a GPU in the same way each time.
    pixels, places = counts.cumsum(dim=1), (counts * torch.arange(counts.shape[1], device=counts.device)).cumsum(dim=1)
    lower, upper = pixels[:, :-1].double(), (pixels[:, -1:] - pixels[:, :-1]).double()
    return lower * upper * (places[:, :-1] / lower - (places[:, -1:] - places[:, :-1]) / upper).square()
