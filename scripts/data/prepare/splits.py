"""Which patients are trained, validated and tested on, and which of them keep their labels."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from ..datalist import SECTIONS, DataError


def draw_split(
    patients: Sequence[str], seed: int, validation_fraction: float, test_fraction: float
) -> dict[str, list[str]]:
    """Split patients by chance.

    Args:
        patients: patients that have labels, in an order that does not depend on chance.
        seed: the same seed gives the same split.
        validation_fraction: share that is validated on, rounded down, but one patient at least.
        test_fraction: share that is tested on, rounded up.

    Returns:
        "test", "validation" and "training" -> patients. One or two patients are all trained on; from three on, no
        section is empty unless its fraction is 0.
    """
    order = list(patients)
    random.Random(seed).shuffle(order)
    tested = validated = 0
    if len(order) >= 3:
        # the small number: 0.2 * 15 is a little more than 3 in floating point
        validated = max(1, math.floor(len(order) * validation_fraction + 1e-9)) if validation_fraction else 0
        tested = min(math.ceil(len(order) * test_fraction - 1e-9), len(order) - validated - 1)
    return {
        "test": order[:tested],
        "validation": order[tested : tested + validated],
        "training": order[tested + validated :],
    }


def keep_labelled(order: Sequence[str], fraction: float | None, cases: int | None, block: int = 0) -> list[str]:
    """The training patients that stay labelled: the `block`-th run of n patients in the given order.

    Block 0 of a larger n holds block 0 of a smaller one; blocks of the same n are disjoint.

    Args:
        order: training patients that have labels.
        fraction: share that stays labelled, n = max(1, round(fraction * len(order))), halves upwards.
        cases: n itself; neither keeps all.
        block: which run.

    Raises:
        DataError: the order does not hold that many patients.
    """
    if not order:
        if cases is not None or fraction is not None:
            raise DataError("no patient has a label to train on; leave the labelled fraction or number out")
        return []
    wanted = cases if cases is not None else len(order)
    if fraction is not None:
        wanted = max(1, math.floor(fraction * len(order) + 0.5))
    first = block * wanted
    if first + wanted > len(order):
        where, mend = (
            (f", from number {first + 1} on (seed {block}),", " or take a smaller seed") if first else ("", "")
        )
        raise DataError(
            f"{wanted} labelled patients{where} were asked for, but there are {len(order)} with labels to train on; "
            f"ask for fewer{mend}"
        )
    return list(order[first : first + wanted])


def section_of(split: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Patient -> section; who is in no section counts as unlabelled."""
    return {patient: section for section, patients in split.items() for patient in patients}


def counts(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Lines of a table: the patients and volumes of every section."""
    lines = [f"{'section':<12}{'patients':>10}{'volumes':>10}"]
    return lines + [f"{s:<12}{len({r['patient'] for r in rows[s]}):>10}{len(rows[s]):>10}" for s in SECTIONS]
