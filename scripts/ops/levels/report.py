"""The network's own evidence for the levels of a volume: how sure it is, and what speaks against the decoded names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..check_shape import check_shape
from .naming import NameEvidence
from .tissue import group_index, level_probability, top_class
from .verdict import Finding

if TYPE_CHECKING:
    from ...labels import ClassTable

BLOCK = 3
"""Consecutive structures with the same offset from which an extra or missing vertebra is suspected."""
SECOND_SHARE = 0.3
"""Share of a structure's pixels from which a second name of the network counts."""
MOST_TWICE = 2 / 3
"""Share of the structures whose names the network gave twice, from which the scan is to be looked at."""
CERTAIN = 0.9
"""Mean posterior of the names from which they are not doubted."""
OWN_NAMES = "the network's own names"
"""Rule of `verdict`."""


@dataclass(frozen=True)
class Evidence:
    """What the network itself says about one structure of the decoded label map.

    Attributes:
        probability: mean probability in [0, 1] of the decoded level given the type.
        own_name: the network's own majority name over the pixels of the structure.
        posterior: probability in [0, 1] of the name by the cohort's geometry; None where names do not come from it.
    """

    probability: float
    own_name: str
    posterior: float | None = None


def base_confidence(evidence: Mapping[int, Evidence]) -> dict[int, float]:
    """Confidence in [0, 1] of every structure's name before the rules of `verdict`.

    The posterior of the geometry where there is one, else the network's own probability.
    """
    return {c: of.probability if of.posterior is None else of.posterior for c, of in evidence.items()}


def level_evidence(
    probs: Tensor, label: Tensor, table: ClassTable, chain: Sequence[int] | Tensor, names: NameEvidence | None = None
) -> tuple[dict[int, Evidence], list[Finding]]:
    """Compare decoded level names with the network's own.

    Args:
        probs: (S, N, H, W) class probabilities of the network, before decoding.
        label: (S, H, W) int64 decoded class ids.
        table: class table.
        chain: class ids from the lowest structure upwards, as :func:`scripts.ops.levels.ordering.chain_index` gives it.
        names: what the cohort's geometry says for and against the names; None where they do not come from it.

    Returns:
        Class id -> evidence, from the lowest upwards, and findings: names that are uncertain, distances that no spine
        of the training has, most names differ from
        the network's, a name that the network gave twice, and signs of transitional anatomy (four or six lumbar
        vertebrae).

    Raises:
        ValueError: the shapes do not fit.
    """
    sizes = check_shape("probs", probs, "S N H W")
    check_shape("label", label, "S H W", sizes)
    chain = [int(c) for c in chain if c]
    groups = group_index(table).to(probs.device)
    at = (label > 0).nonzero(as_tuple=True)
    named = label[at]  # (M,)
    levels = level_probability(probs[at[0], :, at[1], at[2]][..., None, None], groups)[..., 0, 0]  # (M, N)
    top = top_class(levels.masked_fill(groups != groups[named][:, None], -1.0))  # network's class in the decoded type
    position = {c: k for k, c in enumerate(chain)}
    evidence: dict[int, Evidence] = {}
    offsets = []
    given: dict[int, list[int]] = {}
    for c in chain:
        inside = named == c
        if not inside.any():
            continue
        votes = torch.bincount(top[inside], minlength=len(table.names)).float()
        most = int(votes.argmax())
        known = None if names is None else names.posterior.get(c, 0.0)
        evidence[c] = Evidence(float(levels[inside, c].mean()), table.names[most], known)
        offsets.append((position[c], position.get(most, position[c]) - position[c]))
        for other in (votes >= SECOND_SHARE * votes.sum()).nonzero().flatten().tolist():
            given.setdefault(other, []).append(c)
    own = [*_otherwise(evidence, table), *_twice(given, table), *_extra(offsets, table, chain)]
    return evidence, [*_uncertain(evidence), *_odd(names, table), *own]


def _uncertain(evidence: Mapping[int, Evidence]) -> list[Finding]:
    """A finding where the geometry leaves it open which level the spine begins with."""
    known = [of.posterior for of in evidence.values() if of.posterior is not None]
    mean = sum(known) / len(known) if known else 1.0
    if mean >= CERTAIN:
        return []
    sentence = (
        f"All levels may be one off: their names have a probability of {100 * mean:.0f} %. Count from the sacrum: "
        "possible transitional anatomy."
    )
    return [Finding("uncertain levels", sentence)]


def _odd(names: NameEvidence | None, table: ClassTable) -> list[Finding]:
    return [
        Finding(
            "odd distance",
            f"From {table.names[odd.lower]} to {table.names[odd.upper]} it is {odd.mm:.0f} mm, usually "
            f"{odd.usual_mm:.0f}: a collapsed or an additional vertebra, or a false disc? Count the levels again.",
        )
        for odd in (names.odd if names else ())
    ]


def _otherwise(evidence: Mapping[int, Evidence], table: ClassTable) -> list[Finding]:
    other = [
        f"{of.own_name} where {table.names[c]} is written"
        for c, of in evidence.items()
        if of.own_name != table.names[c]
    ]
    if 2 * len(other) <= len(evidence):
        return []
    sentence = f"The network itself sees another level in {len(other)} of {len(evidence)} structures: {other[0]}."
    return [Finding(OWN_NAMES, sentence)]


def _twice(given: Mapping[int, Sequence[int]], table: ClassTable) -> list[Finding]:
    """A note for each name that the network gave to several structures; a finding if these are most."""
    found = []
    for c, places in given.items():
        if len(places) > 1:
            names = ", ".join(table.names[place] for place in places)
            sentence = f"The network itself sees {table.names[c]} in {len(places)} places, which are named {names}."
            found.append(Finding("name seen twice", sentence, tuple(places)))
    doubtful = {c for finding in found for c in finding.structures}
    all_of = {c for places in given.values() for c in places}
    if doubtful and len(doubtful) > MOST_TWICE * len(all_of):
        sentence = (
            f"The network itself gives {len(doubtful)} of {len(all_of)} structures a name that it gives another, too."
        )
        found.append(Finding(OWN_NAMES, sentence))
    return found


def _extra(offsets: Sequence[tuple[int, int]], table: ClassTable, chain: Sequence[int]) -> list[Finding]:
    """A finding where the offset of the network's own names changes by one vertebra (two positions) along the spine."""
    for cut in range(BLOCK, len(offsets) - BLOCK + 1):
        below, above = ({o for _, o in part} for part in (offsets[:cut], offsets[cut:]))
        if len(below) == len(above) == 1 and abs(below.pop() - above.pop()) == 2:
            name = table.names[chain[offsets[cut][0]]]
            sentence = f"From {name} upwards the network counts one vertebra differently: transitional anatomy?"
            return [Finding(OWN_NAMES, sentence)]
    return []
