"""Verdict on the levels of a label map: rules, their sentences, and what each takes from the confidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .sizes import is_cut, number, size_words
from .spine_parts import SPECK_ML
from .structures import Field, Measured

if TYPE_CHECKING:
    from ...labels import ClassTable

OK, CHECK, REFUSE = VERDICTS = ("ok", "check levels", "do not use")


@dataclass(frozen=True)
class Rule:
    """What follows where a rule fires.

    Attributes:
        verdict: the least that it makes of the scan; "ok" for a note.
        factor: by which the confidence of the structures concerned is multiplied.
    """

    verdict: str
    factor: float


RULES = {
    "nothing found": Rule(REFUSE, 0.0),
    "not sagittal": Rule(REFUSE, 0.2),
    "upside down": Rule(REFUSE, 0.2),
    "sizes of another part": Rule(REFUSE, 0.2),
    "few vertebrae": Rule(CHECK, 0.5),
    "not anchored below": Rule(CHECK, 0.5),
    "uncertain levels": Rule(CHECK, 0.9),
    "odd distance": Rule(CHECK, 0.9),
    "nothing above": Rule(CHECK, 0.8),
    "gap": Rule(CHECK, 0.5),
    "unlabelled stretch": Rule(CHECK, 0.5),
    "order": Rule(CHECK, 0.5),
    "overlap": Rule(CHECK, 0.5),
    "size": Rule(CHECK, 0.3),
    "neighbours": Rule(CHECK, 0.5),
    "the network's own names": Rule(CHECK, 0.8),
    "unlike training": Rule(CHECK, 0.8),
    "parts away from the spine": Rule(CHECK, 0.8),
    "cut above": Rule(OK, 0.8),
    "name seen twice": Rule(OK, 0.9),
    "small parts away from the spine": Rule(OK, 1.0),
    "sizes not known": Rule(OK, 1.0),
}
"""The rules, the gravest first; docs/read_the_report.md has them in words."""

FEW_VERTEBRAE = 3
"""Fewer vertebrae than these tell no level."""
OF_ANOTHER_PART = 1 / 3
"""Share of structures of no plausible size, at least `FEW_VERTEBRAE`, from which it is none of single structures."""
SACRUM_MM = 20.0
"""Below the lowest disc so much of the image shows that a sacrum follows."""
ABOVE_MM = 90.0
"""So much of the image above the highest structure is more than what the uppermost vertebra leaves at the border."""
GAP_MM = 12.0
"""Length between neighbours in which a disc would fit."""
ORDER_MM = 1.0
"""How far below the next lower structure the centre of a structure may lie."""
OVERLAP = 0.5
"""Share of the height of the lower one of two vertebrae that both may have in common, as tilted ones do."""
TIMES = {"vertebra": 2.0, "disc": 3.0}
"""By how much the volumes of neighbours of one type may differ."""
REMOVED = 0.05
"""Share of the removed volume in what is left, from which the scan is to be looked at."""
MOST_SENTENCES = 3
"""So many sentences of one rule are written out."""
TIMES_WORDS = (
    *("twice", "three times", "four times", "five times", "six times", "seven times", "eight times"),
    "more than eight times",
)
PARTS = (*("half", "a third", "a quarter", "a fifth", "a sixth", "a seventh", "an eighth"), "less than an eighth")
"""Words for 2 to 8 times, for the half to the eighth, and for what lies beyond."""


@dataclass(frozen=True)
class Finding:
    """A rule that fired: its name, a sentence, and the class ids it concerns; none for all structures."""

    rule: str
    sentence: str
    structures: tuple[int, ...] = ()


@dataclass(frozen=True)
class Labelled:
    """A label map as the rules see it.

    Attributes:
        structures: class id -> size and place.
        field: what the scan shows, without borders of zeros.
        plane: "sagittal", "coronal", "axial" or "any".
        removed_ml: volume of the parts that were removed because they lay away from the spine.
        removed: their number.
    """

    structures: Mapping[int, Measured]
    field: Field
    plane: str = "sagittal"
    removed_ml: float = 0.0
    removed: int = 0


@dataclass(frozen=True)
class Trained:
    """What the network was trained on.

    Attributes:
        table: class table.
        chain: class ids that training labels named, from the lowest structure upwards.
        sizes: value of :func:`.sizes.learn_sizes`; empty if not known.
        planes: planes of the training's scans.
    """

    table: ClassTable
    chain: tuple[int, ...]
    sizes: Mapping[str, Any]
    planes: tuple[str, ...] = ("sagittal",)

    def name(self, c: int) -> str:
        """Name of a class."""
        return self.table.names[c]


def find(labelled: Labelled, trained: Trained) -> list[Finding]:
    """All rules that fire on the label map itself, in any order.

    Args:
        labelled: the label map.
        trained: what the network was trained on.
    """
    chain = [c for c in trained.chain if c in labelled.structures]
    found = [*_plane(labelled, trained), *_removed(labelled)]
    if not chain:
        return [*found, Finding("nothing found", "No vertebra or disc was found.")]
    rules = (_few, _below, _above, _gaps, _order, _overlaps, _sizes, _neighbours)
    return [*found, *(finding for rule in rules for finding in rule(chain, labelled, trained))]


def judge(findings: Sequence[Finding], base: Mapping[int, float]) -> tuple[str, list[str], list[str], dict[int, float]]:
    """Put findings together.

    Args:
        findings: of every rule.
        base: class id -> confidence in [0, 1] before the rules, see :func:`.report.base_confidence`.

    Returns:
        The verdict, its reasons and the notes, one sentence each, the gravest first, and the confidence of every class
        of `base`: its own times the factor of each rule that fired on it, once for each rule.
    """
    order = list(RULES)
    ranked = sorted(findings, key=lambda finding: order.index(finding.rule))
    verdict = max((RULES[f.rule].verdict for f in ranked), key=VERDICTS.index, default=OK)
    reasons, notes = (
        _sentences([f for f in ranked if (RULES[f.rule].verdict == OK) is note]) for note in (False, True)
    )
    confidence = dict(base)
    for c in base:
        for rule in {f.rule for f in ranked if not f.structures or c in f.structures}:
            confidence[c] *= RULES[rule].factor
    return verdict, reasons, notes, confidence


def _sentences(ranked: Sequence[Finding]) -> list[str]:
    """The sentences, at most `MOST_SENTENCES` of each rule; the last of more says how many it stands for."""
    said = []
    for rule in dict.fromkeys(finding.rule for finding in ranked):
        of_rule = [finding.sentence for finding in ranked if finding.rule == rule]
        more = len(of_rule) - MOST_SENTENCES
        if more > 0:
            of_rule = [
                *of_rule[: MOST_SENTENCES - 1],
                f"{of_rule[MOST_SENTENCES - 1][:-1]} (and {more} more like this).",
            ]
        said += of_rule
    return said


def _plane(labelled: Labelled, trained: Trained) -> Iterator[Finding]:
    if labelled.plane in ("axial", "coronal") and labelled.plane not in trained.planes:
        yield Finding(
            "not sagittal", f"The slices are {labelled.plane}, and the network was trained on sagittal ones alone."
        )


def _removed(labelled: Labelled) -> Iterator[Finding]:
    if labelled.removed_ml < SPECK_ML:
        return
    left = sum(s.volume_ml for s in labelled.structures.values())
    parts = "1 part" if labelled.removed == 1 else f"{labelled.removed} parts"
    sentence = (
        f"{parts} away from the spine, {number(labelled.removed_ml)} ml, {'was' if labelled.removed == 1 else 'were'}"
    )
    many = labelled.removed_ml > REMOVED * left
    rule = "parts away from the spine" if many else "small parts away from the spine"
    yield Finding(rule, f"{sentence} removed from the label map.")


def _few(chain: Sequence[int], labelled: Labelled, trained: Trained) -> Iterator[Finding]:
    count = sum(trained.table.classes[c].group == "vertebra" for c in chain)
    if count < FEW_VERTEBRAE:
        seen = {0: "No vertebra is", 1: "Only 1 vertebra is", 2: "Only 2 vertebrae are"}[count]
        yield Finding("few vertebrae", f"{seen} labelled, too few to tell the levels.")


def _below(chain: Sequence[int], labelled: Labelled, trained: Trained) -> Iterator[Finding]:
    """Is the lowest structure the sacrum, or, where no label names that, the lowest disc with the sacrum below it?"""
    lowest, field = chain[0], labelled.field
    name, structure = trained.name(lowest), labelled.structures[lowest]
    if trained.table.classes[lowest].group == "sacrum":
        return
    end = "so the levels may be miscounted"
    room = structure.low_mm - field.low_mm
    if is_cut(structure, field) == "lower":
        yield Finding(
            "not anchored below",
            f"{name} reaches the lower border of the image: what lies below it is not seen, {end}.",
        )
    elif room < SACRUM_MM:
        yield Finding(
            "not anchored below", f"The image ends {number(room)} mm below {name}: the sacrum is not seen, {end}."
        )
    elif lowest != trained.chain[0]:
        yield Finding(
            "not anchored below",
            f"{name} is the lowest structure found, although the image goes on for {number(room)} mm below it: "
            f"{trained.name(trained.chain[0])} is missing, {end}.",
        )


def _above(chain: Sequence[int], labelled: Labelled, trained: Trained) -> Iterator[Finding]:
    highest, field = chain[-1], labelled.field
    name, structure = trained.name(highest), labelled.structures[highest]
    room = field.high_mm - structure.high_mm
    if is_cut(structure, field) == "upper":
        yield Finding("cut above", f"{name} is cut by the upper border of the image.", (highest,))
    elif room > ABOVE_MM and highest != trained.chain[-1]:
        yield Finding(
            "nothing above",
            f"The image goes on for {number(room)} mm above {name}, the highest structure found: check whether "
            "structures were missed.",
        )


def _gaps(chain: Sequence[int], labelled: Labelled, trained: Trained) -> Iterator[Finding]:
    place = {c: k for k, c in enumerate(trained.chain)}
    for lower, upper in pairwise(chain):
        missing = [trained.name(c) for c in trained.chain[place[lower] + 1 : place[upper]]]
        around = f"between {trained.name(lower)} and {trained.name(upper)}"
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            sentence = f"{' and '.join(missing)} {verb} missing {around}: check the levels from there upwards."
            yield Finding("gap", sentence, tuple(chain))
            continue
        free = labelled.structures[upper].low_mm - labelled.structures[lower].high_mm
        if free > GAP_MM:
            sentence = f"{number(free)} mm {around} carry no label: check whether a structure was missed there."
            yield Finding("unlabelled stretch", sentence, tuple(chain))


def _order(chain: Sequence[int], labelled: Labelled, trained: Trained) -> Iterator[Finding]:
    middle = {c: (s.low_mm + s.high_mm) / 2 for c, s in labelled.structures.items()}
    pairs = list(pairwise(chain))
    wrong = [(lower, upper) for lower, upper in pairs if middle[upper] < middle[lower] - ORDER_MM]
    if len(wrong) > len(pairs) / 2:
        yield Finding("upside down", "The levels run the wrong way: lower ones lie above higher ones.")
        return
    for lower, upper in wrong:
        sentence = f"{trained.name(upper)} lies below {trained.name(lower)}: check the names of both."
        yield Finding("order", sentence, (lower, upper))


def _overlaps(chain: Sequence[int], labelled: Labelled, trained: Trained) -> Iterator[Finding]:
    vertebrae = [c for c in chain if trained.table.classes[c].group == "vertebra"]
    for lower, upper in pairwise(vertebrae):
        one, other = labelled.structures[lower], labelled.structures[upper]
        shared = min(one.high_mm, other.high_mm) - max(one.low_mm, other.low_mm)
        if shared > OVERLAP * min(one.height_mm, other.height_mm):
            sentence = (
                f"{trained.name(upper)} and {trained.name(lower)} lie side by side for {number(shared)} mm: check "
                "whether one vertebra carries both names."
            )
            yield Finding("overlap", sentence, (lower, upper))


def _sizes(chain: Sequence[int], labelled: Labelled, trained: Trained) -> Iterator[Finding]:
    if not trained.sizes:
        yield Finding(
            "sizes not known", "The network's model.json holds no sizes of structures: they were not compared."
        )
        return
    words = {c: size_words(trained.name(c), labelled.structures[c], labelled.field, trained.sizes) for c in chain}
    wrong = {c: text for c, text in words.items() if text}
    for c, text in wrong.items():
        voxels = f", {labelled.structures[c].voxels} voxels" if labelled.structures[c].voxels < 100 else ""
        yield Finding("size", f"{trained.name(c)} is {text}{voxels}: check its outline.", (c,))
    if len(wrong) >= FEW_VERTEBRAE and len(wrong) >= OF_ANOTHER_PART * len(chain):
        yield Finding(
            "sizes of another part",
            f"{len(wrong)} of {len(chain)} structures have no plausible size for their names: the outlines are wrong, "
            "or this is another part of the spine or of the body.",
        )


def _neighbours(chain: Sequence[int], labelled: Labelled, trained: Trained) -> Iterator[Finding]:
    """Structures much larger or smaller than the next ones of their type, one level away."""
    classes = trained.table.classes
    place = {c: k for k, c in enumerate(trained.chain)}
    for c in chain:
        beside = [o for o in chain if classes[o].group == classes[c].group and abs(place[o] - place[c]) == 2]
        most = TIMES.get(classes[c].group)
        if not beside or most is None:
            continue
        own = labelled.structures[c].volume_ml
        others = [labelled.structures[o].volume_ml for o in beside]
        # larger than all of them, or smaller than all: else it is a neighbour that stands out
        large, small = own / max(others), min(others) / own
        names = " and ".join(trained.name(o) for o in reversed(beside))
        kind = "discs" if classes[c].group == "disc" else "vertebrae"
        if large >= most and len(beside) > 1:
            sentence = (
                f"{trained.name(c)} is {_words(TIMES_WORDS, large)} as large as {names}: check whether two {kind} "
                "were merged."
            )
            yield Finding("neighbours", sentence, (c,))
        elif small >= most and not is_cut(labelled.structures[c], labelled.field):
            sentence = (
                f"{trained.name(c)} is {_words(PARTS, small)} as large as {names}: check whether a part of it "
                "is missing."
            )
            yield Finding("neighbours", sentence, (c,))


def _words(words: Sequence[str], ratio: float) -> str:
    return words[min(round(ratio) - 2, len(words) - 1)]
