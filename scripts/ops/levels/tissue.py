"""Factorisation of class probabilities into tissue type (vertebra, disc, ...) and level given type (L4, L3, ...)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..check_shape import check_shape

if TYPE_CHECKING:
    from ...labels import ClassTable


def group_index(table: ClassTable) -> Tensor:
    """Index of the group of every class, (N,) int64: 0 is background, others in order of their first class."""
    order = list(dict.fromkeys(c.group for c in table.classes))
    return torch.tensor([order.index(c.group) for c in table.classes], dtype=torch.int64)


def top_class(scores: Tensor) -> Tensor:
    """Arg max over the classes, (B, N, ...) scores -> (B, ...) int64; the first of equal scores."""
    # On a CPU several times faster than argmax, which is not vectorised over an inner axis.
    return scores.max(dim=1).indices


def foreground_columns(logits: Tensor) -> slice:
    """Columns outside of which no type is more likely than the background, whichever classes a type sums up.

    Args:
        logits: (B, N, H, W) scores of the classes, the background first.

    Returns:
        The smallest range with all columns in which a class has more than 1 / (N - 1) of the background's probability,
        and one more on either side, for resampling; all columns if there is none.
    """
    check_shape("logits", logits, "B N H W")
    likely = logits[:, 1:].amax(1) > logits[:, 0] - math.log(logits.shape[1] - 1)
    found = likely.any(0).any(0).nonzero().flatten().tolist()
    return slice(max(found[0] - 1, 0), found[-1] + 2) if found else slice(0, logits.shape[-1])


def type_probability(probs: Tensor, groups: Tensor) -> Tensor:
    """Marginal probability of every tissue type: the sum over its classes.

    Args:
        probs: (B, N, H, W) ≥ 0, class probabilities or attention maps.
        groups: (N,) int64 index of the type of every class, as :func:`group_index` gives it.

    Returns:
        (B, G, H, W) with G = groups.max() + 1; sums to the sum of `probs` over classes.

    Raises:
        ValueError: the shapes do not fit.
    """
    sizes = check_shape("probs", probs, "B N H W")
    check_shape("groups", groups, "N", sizes)
    num_groups = int(groups.max()) + 1
    shape = (probs.shape[0], num_groups, *probs.shape[2:])
    return probs.new_zeros(shape).index_add_(1, groups.to(probs.device), probs)


def level_probability(probs: Tensor, groups: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Conditional probability of every class given its type: (p + eps) / Σ over the type of (p + eps).

    Args:
        probs: (B, N, H, W) ≥ 0, class probabilities or attention maps of any scale.
        groups: (N,) int64 index of the type of every class.
        eps: floor of every class, > 0; a type without any probability gets uniform levels.

    Returns:
        (B, N, H, W) in (0, 1]; sums to 1 over the classes of each type, and is 1 for a type of one class.

    Raises:
        ValueError: the shapes do not fit.
    """
    floored = probs + eps
    return floored / type_probability(floored, groups).index_select(1, groups.to(probs.device))
