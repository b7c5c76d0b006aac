"""Decoding of vertebral levels in anatomical order: a hidden Markov model over the chain of structures (Viterbi)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..check_shape import check_shape
from .tissue import top_class, type_probability

if TYPE_CHECKING:
    from ...labels import ClassTable


def chain_index(table: ClassTable, labelled: Sequence[int] | None = None) -> Tensor:
    """Class ids of the chain of structures from the lowest upwards, (J,) int64.

    Args:
        table: class table.
        labelled: ids of the classes in the training labels; all others are left out. If the lowest structure is left
            out, the chain begins with 0, a state for everything below the lowest labelled class.
    """
    ids = [c.id for c in table.chain if labelled is None or c.id in labelled]
    below = [0] if ids and ids[0] != table.chain[0].id else []
    return torch.tensor(below + ids, dtype=torch.int64)


def spine_rows(weight: Tensor, degree: int = 3) -> Tensor:
    """Row of each pixel's orthogonal projection on the spine's centreline, a polynomial fitted to the weight.

    Args:
        weight: (B, H, W) float32 ≥ 0, foreground probability.
        degree: of the polynomial column = f(row).

    Returns:
        (B, H, W) int64 in [0, H); pixels of a tilted disc get the same row. Columns without weight that are added or
        left out at the sides change nothing.

    Convention: rows run from superior to inferior, as in all slices here.
    """
    sizes = check_shape("weight", weight, "B H W")
    height, width = sizes["H"], sizes["W"]
    rows = torch.linspace(-1, 1, height, device=weight.device)
    mass = weight.sum(2)  # (B, H)
    moment = (weight * torch.arange(width, device=weight.device, dtype=torch.float32)).sum(2)
    # Columns count from the middle of the weight, to which the ridge draws the line, too.
    middle = moment.sum(1) / mass.sum(1).clamp_min(1e-6)  # (B,)
    moment = moment - middle[:, None] * mass
    columns = torch.arange(width, device=weight.device, dtype=torch.float32) - middle[:, None, None]
    powers = torch.stack([rows**k for k in range(degree + 1)], 1)  # (H, K)
    slopes = torch.stack([k * rows ** max(k - 1, 0) for k in range(degree + 1)], 1) * 2 / (height - 1)
    # Ridge regularisation for slices without a spine; far below the weight of a single structure.
    ridge = 1e-3 * (1 + mass.sum(1))[:, None, None] / height * torch.eye(degree + 1, device=weight.device)
    with torch.autocast(weight.device.type, enabled=False):  # half precision is too coarse for columns
        gram = torch.einsum("hk,bh,hl->bkl", powers, mass, powers)
        line = torch.linalg.solve(gram + ridge, torch.einsum("hk,bh->bk", powers, moment))  # (B, K)
        centre, slope = line @ powers.T, line @ slopes.T  # (B, H), column and columns per row
    along = (columns - centre[..., None]) * (slope / (1 + slope**2))[..., None]
    return (torch.arange(height, device=weight.device)[:, None] + along).round().clamp(0, height - 1).long()


def viterbi_path(evidence: Tensor) -> Tensor:
    """Viterbi path: most likely chain position at every row; from a row to the one above it rises by 0 or 1.

    Args:
        evidence: (B, J, H) log-likelihood of chain position j at a row; positions from the lowest structure, rows from
            the top.

    Returns:
        (B, H) int64 positions; the path may begin and end anywhere in the chain.
    """
    check_shape("evidence", evidence, "B J H")
    score, steps = evidence[..., -1], []
    for at_row in evidence[..., :-1].flip(-1).unbind(-1):
        from_below = F.pad(score[:, :-1], (1, 0), value=-torch.inf)
        steps.append(from_below > score)
        score = torch.maximum(score, from_below) + at_row
    position = score.argmax(1, keepdim=True)
    path = [position]
    for step in reversed(steps):
        position = position - step.gather(1, position).long()
        path.append(position)
    return torch.cat(path, 1)


def decode_order(
    probs: Tensor,
    level_score: Tensor,
    *,
    groups: Tensor,
    chain: Tensor,
    level_weight: float = 0.1,
    pooled: bool = False,
) -> Tensor:
    """Label map whose levels follow the anatomical order along the spine; tissue types are kept.

    Log-likelihood of position j at a row: Σ over its spine pixels of  log p(type_j) + level_weight · log q(j | type_j).

    Args:
        probs: (B, N, H, W) class probabilities; their sums over a type decide what is vertebra, disc or background.
        level_score: (B, N, H, W) log-likelihood of the levels, up to a constant within each type.
        groups: (N,) int64 type of every class, 0 background.
        chain: (J,) class ids from the lowest structure upwards. Foreground that is not in it counts as background. A
            leading 0 is a state below the lowest class (an unlabelled sacrum, which a network may take for a vertebra);
            all foreground in it becomes background.
        level_weight: weight of the levels' log-likelihood; below 1 because pixels of a structure are not independent.
        pooled: True if the B slices are those of one volume: their log-likelihoods are added and share one path.

    Returns:
        (B, H, W) int64 class ids.

    References: no paper; a hidden Markov model over the chain with one state for each structure.
    """
    spine = _Spine(probs, level_score, groups, chain)
    path = spine.path(level_weight, pooled)
    at = spine.pixels
    label = spine.tissue.clone()  # (B, H, W) types, replaced by class ids below
    name = spine.names(label[at], path[at[0], spine.rows[at]], spine.level)
    label[at] = spine.chain[name]
    return label


def order_probabilities(
    probs: Tensor, level_score: Tensor, *, groups: Tensor, chain: Tensor, level_weight: float = 0.1, pooled: bool = True
) -> Tensor:
    """Class probabilities in anatomical order: each type's probability is assigned to the decoded level.

    Args:
        probs: see :func:`decode_order`, as all others.
        level_score: see :func:`decode_order`.
        groups: see :func:`decode_order`.
        chain: see :func:`decode_order`.
        level_weight: see :func:`decode_order`.
        pooled: see :func:`decode_order`.

    Returns:
        (B, N, H, W) probabilities that sum to 1. Their arg max is the label map of :func:`decode_order`, also after
        bilinear resampling. More than a pixel from any structure the level within a type is arbitrary.
    """
    spine = _Spine(probs, level_score, groups, chain)
    path = spine.path(level_weight, pooled)
    # Levels are needed in the spine and one pixel around it, for resampling. Elsewhere background wins in any case.
    at = (F.max_pool2d((spine.tissue > 0).float(), 3, 1, 1) > 0).nonzero(as_tuple=True)
    position, level = path[at[0], spine.rows[at]], spine.level_at(*at)
    ordered = torch.zeros_like(spine.types[:, :1]).repeat(1, probs.shape[1], 1, 1)
    ordered[:, 0] = spine.types[:, 0]
    for kind in spine.type_of.unique().tolist():
        any_class = int(spine.chain[spine.type_of == kind][-1])
        label = torch.full_like(spine.tissue, any_class)
        label[at] = spine.chain[spine.names(torch.full_like(position, kind), position, level)]
        ordered.scatter_add_(1, label[:, None], spine.types[:, kind : kind + 1])
    return ordered


def order_predictions(probs: Tensor, *, groups: Tensor, chain: Tensor, level_weight: float = 0.1) -> Tensor:
    """Decode the levels of a whole volume from the network's probabilities, see :func:`order_probabilities`.

    Args:
        probs: (S, N, H, W) class probabilities of the volume's slices.
        groups: see :func:`decode_order`.
        chain: see :func:`decode_order`.
        level_weight: see :func:`decode_order`.

    Returns:
        (S, N, H, W) ordered probabilities.
    """
    evidence = (probs + 1e-4).log()
    return order_probabilities(probs, evidence, groups=groups, chain=chain, level_weight=level_weight)


class _Spine:
    """States and observations of the hidden Markov model: tissue types, spine pixels with rows, level likelihoods."""

    def __init__(self, probs: Tensor, level_score: Tensor, groups: Tensor, chain: Tensor) -> None:
        sizes = check_shape("probs", probs, "B N H W")
        check_shape("level_score", level_score, "B N H W", sizes)
        groups, self.chain = groups.to(probs.device), chain.to(probs.device)
        self.type_of = groups[self.chain]  # (J,)
        known = torch.zeros_like(groups)  # classes outside the chain: background
        known[self.chain] = self.type_of
        self.below = len(chain) > 2 and int(chain[0]) == 0
        if self.below:  # types alternate, so it has the type of the second structure above
            self.type_of[0] = self.type_of[2]
        self.types = type_probability(probs, known)
        self.tissue = top_class(self.types)  # (B, H, W)
        self.weight = (self.tissue > 0) * (1 - self.types[:, 0])
        self.rows = spine_rows(self.weight)
        # Image, row and column of the M spine pixels, a small part of the batch.
        self.pixels = self.tissue.nonzero(as_tuple=True)
        self.level_score = level_score
        self.level = self.level_at(*self.pixels)

    def level_at(self, image: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """Log-probability of each chain position given its type (J, M), clamped at -4 against single outlier pixels."""
        score = self.level_score[image, self.chain[:, None], y, x]
        named = self.type_of.clone()
        if self.below:
            named[0], score[0] = -1, -1.0  # the state below the chain has no class score; -1 is rather likely
        for kind in named[named >= 0].unique():
            of_kind = (named == kind).nonzero()[:, 0]
            score[of_kind] = score[of_kind].log_softmax(0)
        return score.clamp_min_(-4.0)

    def path(self, level_weight: float, pooled: bool) -> Tensor:
        """Chain position at every row of every slice (B, H); -1 if the whole path is in the state below the chain."""
        image, y, x = self.pixels
        batch, height = self.rows.shape[:2]
        tissue = (self.types[image, self.type_of[:, None], y, x] + 1e-3).log_()
        emission = tissue.add_(self.level, alpha=level_weight).mul_(self.weight[self.pixels])
        slices = 1 if pooled else batch
        row = self.rows[self.pixels] + (0 if pooled else image * height)  # row index in the batch
        evidence = emission.new_zeros(len(self.chain), slices * height).index_add_(1, row, emission)
        path = viterbi_path(evidence.unflatten(1, (slices, height)).movedim(1, 0))
        if self.below:  # a network that finds vertebrae only, or discs only: there is no order
            path = path.masked_fill(~path.any(1, keepdim=True), -1)
        return path.expand(batch, height)

    def names(self, tissue: Tensor, position: Tensor, level: Tensor) -> Tensor:
        """Chain positions (M,) of pixels: their row's if its type fits, else the more likely neighbour in the chain.

        Args:
            tissue: (M,) type of every pixel, > 0.
            position: (M,) chain position of the pixel's row; at -1 a pixel takes its own most likely position.
            level: (J, M) log-probability of the positions.
        """
        candidates = torch.stack([position, position - 1, position + 1]).clamp_(0, len(self.chain) - 1)  # (3, M)
        fits = (self.type_of[candidates] == tissue) & (position >= 0)
        score = level.gather(0, candidates)
        score[0] += 100.0
        could_be = self.type_of[:, None] == tissue
        if self.below:  # takes all pixels in its rows, and none outside them
            fits[0] |= position == 0
            fits[1:] &= candidates[1:] > 0
            could_be[0] = False
        choice = candidates.gather(0, score.masked_fill_(~fits, -torch.inf).max(0, keepdim=True).indices)[0]
        unconstrained = level.masked_fill(~could_be, -torch.inf).max(0).indices
        return torch.where(fits.any(0), choice, unconstrained)
