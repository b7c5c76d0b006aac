"""Level names in their order: a spine is a chain, and along it every structure has its place."""

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
    """Class ids of the chain from the lowest structure upwards, (J,) int64.

    Args:
        table: the classes.
        labelled: ids of the classes that the training labels contain; others cannot be told and are left out. If the
            lowest is among them, the chain begins with 0: a place for what lies below and is not to be named.
    """
    ids = [c.id for c in table.chain if labelled is None or c.id in labelled]
    below = [0] if ids and ids[0] != table.chain[0].id else []
    return torch.tensor(below + ids, dtype=torch.int64)


def spine_rows(weight: Tensor, degree: int = 3) -> Tensor:
    """Row at which each pixel's perpendicular meets the spine's centre line, a polynomial fitted to the weight.

    Args:
        weight: (B, H, W) float32 ≥ 0, how much a pixel belongs to the spine.
        degree: of the polynomial column = f(row).

    Returns:
        (B, H, W) int64 in [0, H); pixels of a tilted disc get the same row.

    Convention: rows run from superior to inferior, as in all slices here.
    """
    sizes = check_shape("weight", weight, "B H W")
    height, width = sizes["H"], sizes["W"]
    rows = torch.linspace(-1, 1, height, device=weight.device)
    columns = torch.arange(width, device=weight.device, dtype=torch.float32)
    mass = weight.sum(2)  # (B, H)
    moment = (weight * columns).sum(2)
    powers = torch.stack([rows**k for k in range(degree + 1)], 1)  # (H, K)
    slopes = torch.stack([k * rows ** max(k - 1, 0) for k in range(degree + 1)], 1) * 2 / (height - 1)
    # The ridge keeps a slice without a spine solvable; it is far below the weight of a single structure.
    ridge = 1e-3 * (1 + mass.sum(1))[:, None, None] / height * torch.eye(degree + 1, device=weight.device)
    with torch.autocast(weight.device.type, enabled=False):  # in half precision a column is rounded to many pixels
        gram = torch.einsum("hk,bh,hl->bkl", powers, mass, powers)
        line = torch.linalg.solve(gram + ridge, torch.einsum("hk,bh->bk", powers, moment))  # (B, K)
        centre, slope = line @ powers.T, line @ slopes.T  # (B, H), column and columns per row
    along = (columns - centre[..., None]) * (slope / (1 + slope**2))[..., None]
    return (torch.arange(height, device=weight.device)[:, None] + along).round().clamp(0, height - 1).long()


def best_path(evidence: Tensor) -> Tensor:
    """Most likely place in the chain at every row (Viterbi): from one row to the next above it stays or goes up by one.

    Args:
        evidence: (B, J, H) log-evidence of chain place j at a row, places from the lowest, rows from the top.

    Returns:
        (B, H) int64 places, falling by 0 or 1 from each row to the one below it; it may begin and end anywhere.
    """
    check_shape("evidence", evidence, "B J H")
    score, steps = evidence[..., -1], []
    for at_row in evidence[..., :-1].flip(-1).unbind(-1):
        from_below = F.pad(score[:, :-1], (1, 0), value=-torch.inf)
        steps.append(from_below > score)
        score = torch.maximum(score, from_below) + at_row
    place = score.argmax(1, keepdim=True)
    path = [place]
    for step in reversed(steps):
        place = place - step.gather(1, place).long()
        path.append(place)
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
    """Rename levels so that along the spine they follow the chain; types stay, but for what lies below the chain.

    Evidence of place j at a row: Σ over the row's spine pixels of  log p(type_j) + level_weight · log q(j | type_j).

    Args:
        probs: (B, N, H, W) class probabilities; their types decide what is vertebra, disc or background.
        level_score: (B, N, H, W) log-evidence of the levels, up to a constant within each type.
        groups: (N,) int64 type of every class, 0 background.
        chain: (J,) class ids from the lowest structure upwards. Foreground that is not in it counts as background. A 0
            at its beginning is a place below the lowest class (a sacrum that nobody labelled): there a network takes
            what it was never told for a vertebra, and all foreground becomes background.
        level_weight: weight of the levels' evidence against the types'; pixels of a structure are far from independent.
        pooled: True if the B slices are those of one volume: their evidence is added, and all get the same names.

    Returns:
        (B, H, W) int64 class ids.

    References: no paper; a hidden Markov model over the chain with one state for each structure.
    """
    spine = _Spine(probs, level_score, groups, chain)
    path = spine.path(level_weight, pooled)
    at = spine.pixels
    label = spine.tissue.clone()  # (B, H, W) types, which class ids replace below
    name = spine.names(label[at], path[at[0], spine.rows[at]], spine.level)
    label[at] = spine.chain[name]
    return label


def order_probabilities(
    probs: Tensor, level_score: Tensor, *, groups: Tensor, chain: Tensor, level_weight: float = 0.1, pooled: bool = True
) -> Tensor:
    """As :func:`decode_order`, for later resampling: each type's probability goes to the level that has its place.

    Args:
        probs: see :func:`decode_order`, as all others.
        level_score: log-evidence of the levels.
        groups: type of every class.
        chain: class ids from the lowest structure upwards.
        level_weight: weight of the levels' evidence.
        pooled: whether the slices are those of one volume.

    Returns:
        (B, N, H, W) probabilities that sum to 1, whose arg max is the label map of :func:`decode_order`, also after a
        bilinear resampling: more than a pixel away from all structures the levels within a type mean nothing.
    """
    spine = _Spine(probs, level_score, groups, chain)
    path = spine.path(level_weight, pooled)
    # Levels matter in the spine and beside it, where a resampled pixel may have a share of it. Elsewhere background
    # wins whatever level a type's probability goes to.
    at = (F.max_pool2d((spine.tissue > 0).float(), 3, 1, 1) > 0).nonzero(as_tuple=True)
    place, level = path[at[0], spine.rows[at]], spine.level_at(*at)
    ordered = torch.zeros_like(spine.types[:, :1]).repeat(1, probs.shape[1], 1, 1)
    ordered[:, 0] = spine.types[:, 0]
    for kind in spine.type_of.unique().tolist():
        some = int(spine.chain[spine.type_of == kind][-1])
        label = torch.full_like(spine.tissue, some)
        label[at] = spine.chain[spine.names(torch.full_like(place, kind), place, level)]
        ordered.scatter_add_(1, label[:, None], spine.types[:, kind : kind + 1])
    return ordered


def order_predictions(probs: Tensor, *, groups: Tensor, chain: Tensor, level_weight: float = 0.1) -> Tensor:
    """Order the levels of a whole volume by the network's own evidence.

    Args:
        probs: (S, N, H, W) class probabilities of the volume's slices.
        groups: see :func:`decode_order`.
        chain: see :func:`decode_order`.
        level_weight: see :func:`decode_order`.

    Returns:
        (S, N, H, W) probabilities, see :func:`order_probabilities`.
    """
    evidence = (probs + 1e-4).log()
    return order_probabilities(probs, evidence, groups=groups, chain=chain, level_weight=level_weight)


class _Spine:
    """Slices as the chain sees them: types, the pixels of the spine with their rows, and the levels' evidence there."""

    def __init__(self, probs: Tensor, level_score: Tensor, groups: Tensor, chain: Tensor) -> None:
        sizes = check_shape("probs", probs, "B N H W")
        check_shape("level_score", level_score, "B N H W", sizes)
        groups, self.chain = groups.to(probs.device), chain.to(probs.device)
        self.type_of = groups[self.chain]  # (J,)
        known = torch.zeros_like(groups)  # what is not in the chain: background
        known[self.chain] = self.type_of
        self.below = len(chain) > 2 and int(chain[0]) == 0
        if self.below:  # types alternate: it looks like the second structure above it
            self.type_of[0] = self.type_of[2]
        self.types = type_probability(probs, known)
        self.tissue = top_class(self.types)  # (B, H, W)
        self.weight = (self.tissue > 0) * (1 - self.types[:, 0])
        self.rows = spine_rows(self.weight)
        # Only the M pixels of the spine matter, a small part of a batch; each has its image, row and column.
        self.pixels = self.tissue.nonzero(as_tuple=True)
        self.level_score = level_score
        self.level = self.level_at(*self.pixels)

    def level_at(self, image: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """Log-probability of each place given its type (J, M), at least -4: a single pixel must not veto a place.

        What lies below the chain has no class whose score could be read: -1, as good as a name that is rather likely.
        """
        score = self.level_score[image, self.chain[:, None], y, x]
        named = self.type_of.clone()
        if self.below:
            named[0], score[0] = -1, -1.0
        for kind in named[named >= 0].unique():
            of_kind = (named == kind).nonzero()[:, 0]
            score[of_kind] = score[of_kind].log_softmax(0)
        return score.clamp_min_(-4.0)

    def path(self, level_weight: float, pooled: bool) -> Tensor:
        """Place in the chain at every row of every slice (B, H); -1 where no structure of the chain has a place.

        That is a network that finds vertebrae and no discs, or the reverse: there is no order to go by.
        """
        image, y, x = self.pixels
        batch, height = self.rows.shape[:2]
        tissue = (self.types[image, self.type_of[:, None], y, x] + 1e-3).log_()
        emission = tissue.add_(self.level, alpha=level_weight).mul_(self.weight[self.pixels])
        slices = 1 if pooled else batch
        row = self.rows[self.pixels] + (0 if pooled else image * height)  # among all rows of the batch
        evidence = emission.new_zeros(len(self.chain), slices * height).index_add_(1, row, emission)
        path = best_path(evidence.unflatten(1, (slices, height)).movedim(1, 0))
        if self.below:
            path = path.masked_fill(~path.any(1, keepdim=True), -1)
        return path.expand(batch, height)

    def names(self, tissue: Tensor, place: Tensor, level: Tensor) -> Tensor:
        """A pixel takes its row's structure if that is of its type, else the likelier of the two next to it.

        Args:
            tissue: (M,) type of every pixel, > 0.
            place: (M,) place in the chain of its row; at -1 a pixel takes its own likeliest name.
            level: (J, M) evidence of the places.

        Returns:
            (M,) places.
        """
        near = torch.stack([place, place - 1, place + 1]).clamp_(0, len(self.chain) - 1)  # (3, M)
        fits = (self.type_of[near] == tissue) & (place >= 0)
        score = level.gather(0, near)
        score[0] += 100.0
        could_be = self.type_of[:, None] == tissue
        if self.below:  # everything in its rows, and nothing outside them
            fits[0] |= place == 0
            fits[1:] &= near[1:] > 0
            could_be[0] = False
        choice = near.gather(0, score.masked_fill_(~fits, -torch.inf).max(0, keepdim=True).indices)[0]
        alone = level.masked_fill(~could_be, -torch.inf).max(0).indices
        return torch.where(fits.any(0), choice, alone)
