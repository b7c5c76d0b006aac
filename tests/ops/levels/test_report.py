from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.labels import ClassTable
from scripts.ops.levels.ordering import chain_index
from scripts.ops.levels.report import level_report

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
    structures, warnings = level_report(probs_of(label), label, TABLE, CHAIN)
    assert [s.name for s in structures] == names("L5/S", 8)
    assert all(s.own_name == s.name and s.confidence > 0.9 for s in structures)
    assert warnings == []


def test_confidence_is_the_share_among_levels_of_the_type() -> None:
    label = column(["L3"])
    probs = torch.zeros(1, TABLE.num_classes, 4, 4)
    for name, p in (("L3", 0.3), ("L2", 0.1), ("L3/L4", 0.6)):  # the disc is of another type and does not count
        probs[:, TABLE.id_of(name)] = p
    structures, _ = level_report(probs, label, TABLE, CHAIN)
    assert structures[0].confidence == pytest.approx(0.75, abs=1e-4)


def test_gap() -> None:
    label = column(["L5/S", "L5", "L4", "L3/L4"])
    _, warnings = level_report(probs_of(label), label, TABLE, CHAIN)
    assert warnings == ["gap: L4/L5 not found between L5/S and L3/L4"]


def test_name_that_the_network_gives_twice() -> None:
    label = column(names("L5/S", 4))
    own = column(["L5/S", "L5", "L4/L5", "L5"])
    _, warnings = level_report(probs_of(own), label, TABLE, CHAIN)
    assert warnings == ["the network itself sees L5 in 2 places, which are named L5, L4"]


def test_upper_block_that_is_one_vertebra_off() -> None:
    label = column(names("L5/S", 10))
    own = column([*names("L5/S", 5), *names(names("L5/S", 10)[7], 5)])
    _, warnings = level_report(probs_of(own), label, TABLE, CHAIN)
    assert any("transitional anatomy" in w and "from L3/L4 " not in w for w in warnings)


def test_nothing_found() -> None:
    label = torch.zeros(1, 8, 4, dtype=torch.int64)
    assert level_report(probs_of(label), label, TABLE, CHAIN) == ([], ["no structure was found"])
