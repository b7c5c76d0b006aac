from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.labels import ClassTable
from scripts.ops.levels.geometry import OddDistance
from scripts.ops.levels.naming import NameEvidence
from scripts.ops.levels.ordering import chain_index
from scripts.ops.levels.report import base_confidence, level_evidence
from scripts.ops.levels.verdict import Finding

TABLE = ClassTable.load()
CHAIN = chain_index(TABLE).tolist()


def column(names: list[str]) -> Tensor:
    """A spine of one slice (1, H, 4), structures of four rows each, named from the lowest upwards."""
    ids = [TABLE.id_of(name) for name in reversed(names)]
    return torch.tensor(ids).repeat_interleave(4)[None, :, None].expand(1, -1, 4).clone()


def probs_of(label: Tensor, certainty: float = 5.0) -> Tensor:
    return (certainty * F.one_hot(label, TABLE.num_classes).movedim(-1, 1).float()).softmax(1)


def names(first: str, count: int) -> list[str]:
    chain = [TABLE.names[c] for c in CHAIN]
    start = chain.index(first)
    return chain[start : start + count]


def test_a_certain_network_that_agrees() -> None:
    label = column(names("L5/S", 8))
    evidence, findings = level_evidence(probs_of(label), label, TABLE, CHAIN)
    assert [TABLE.names[c] for c in evidence] == names("L5/S", 8)
    assert all(of.own_name == TABLE.names[c] and of.probability > 0.9 for c, of in evidence.items())
    assert findings == []
    assert base_confidence(evidence) == {c: of.probability for c, of in evidence.items()}


def test_probability_is_the_share_among_levels_of_the_type() -> None:
    label = column(["L3"])
    probs = torch.zeros(1, TABLE.num_classes, 4, 4)
    for name, p in (("L3", 0.3), ("L2", 0.1), ("L3/L4", 0.6)):  # the disc is of another type and does not count
        probs[:, TABLE.id_of(name)] = p
    evidence, _ = level_evidence(probs, label, TABLE, CHAIN)
    assert evidence[TABLE.id_of("L3")].probability == pytest.approx(0.75, abs=1e-4)


def test_name_that_the_network_gives_twice() -> None:
    label = column(names("L5/S", 4))
    own = column(["L5/S", "L5", "L4/L5", "L5"])
    _, findings = level_evidence(probs_of(own), label, TABLE, CHAIN)
    words = "The network itself sees L5 in 2 places, which are named L5, L4."
    assert findings == [Finding("name seen twice", words, (TABLE.id_of("L5"), TABLE.id_of("L4")))]


def test_names_of_most_structures_are_given_twice() -> None:
    """Five vertebrae that the network calls by two names; the discs are right."""
    label = column(names("L5/S", 8))
    own = column(["L5/S", "L5", "L4/L5", "L5", "L4/L5", "L3", "L2/L3", "L3"])
    findings = level_evidence(probs_of(own), label, TABLE, CHAIN)[1]
    words = "The network itself gives 6 of 8 structures a name that it gives another, too."
    assert [f.sentence for f in findings if f.rule == "the network's own names"] == [words]
    own = column(["L5/S", "L5", "L4/L5", "L4", "L4/L5", "L3", "L2/L3", "L3"])
    findings = level_evidence(probs_of(own), label, TABLE, CHAIN)[1]
    assert {f.rule for f in findings} == {"name seen twice"}


def test_two_thirds_are_not_most() -> None:
    label = column(names("L5/S", 6))
    own = column(["L5/S", "L5", "L4/L5", "L5", "L4/L5", "L3"])
    findings = level_evidence(probs_of(own), label, TABLE, CHAIN)[1]
    assert [f.rule for f in findings] == ["name seen twice"] * 2


@pytest.mark.parametrize(("count", "told"), [(6, True), (5, False)])
def test_three_structures_on_either_side_tell_a_vertebra_more(count: int, told: bool) -> None:
    label = column(names("L5/S", count))
    own = column([*names("L5/S", 3), *names("L5/S", count + 2)[5:]])
    words = "From L4 upwards the network counts one vertebra differently: transitional anatomy?"
    findings = level_evidence(probs_of(own), label, TABLE, CHAIN)[1]
    assert (words in [f.sentence for f in findings]) is told


def test_upper_block_that_is_one_vertebra_off() -> None:
    label = column(names("L5/S", 10))
    own = column([*names("L5/S", 5), *names(names("L5/S", 10)[7], 5)])
    _, findings = level_evidence(probs_of(own), label, TABLE, CHAIN)
    assert any("transitional anatomy" in f.sentence and "From L3/L4 " not in f.sentence for f in findings)


@pytest.mark.parametrize(("other", "told"), [(2, False), (3, True)])
def test_most_names_differ_from_the_network_s(other: int, told: bool) -> None:
    """All that differ are two places up, so that no name is given twice but where the regular ones begin."""
    label, shifted = column(names("L5/S", 4)), names("L5/S", 8)
    own = column([*names("L5/S", 4)[: 4 - other], *shifted[6 - other : 6]])
    _, findings = level_evidence(probs_of(own), label, TABLE, CHAIN)
    words = "The network itself sees another level in 3 of 4 structures: L4 where L5 is written."
    assert (Finding("the network's own names", words) in findings) is told


def test_nothing_found() -> None:
    label = torch.zeros(1, 8, 4, dtype=torch.int64)
    assert level_evidence(probs_of(label), label, TABLE, CHAIN) == ({}, [])


def test_names_of_a_geometry() -> None:
    """Uncertain by their mean, and a distance that is said with its classes' names."""
    label = column(names("L5/S", 8))
    given = {TABLE.id_of(name): 0.85 for name in names("L5/S", 8)}
    odd = OddDistance(TABLE.id_of("L5/S"), TABLE.id_of("L4/L5"), 20.4, 33.3)
    evidence, findings = level_evidence(probs_of(label), label, TABLE, CHAIN, NameEvidence(given, [odd]))
    assert base_confidence(evidence) == given
    assert [finding.rule for finding in findings] == ["uncertain levels", "odd distance"]
    assert "From L5/S to L4/L5 it is 20 mm, usually 33" in findings[1].sentence
    assert level_evidence(probs_of(label), label, TABLE, CHAIN, NameEvidence(dict.fromkeys(given, 0.9), []))[1] == []
