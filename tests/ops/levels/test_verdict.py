from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from scripts.ops.levels.sizes import learn_sizes
from scripts.ops.levels.structures import Field, Measured, field_of, measure
from scripts.ops.levels.verdict import CHECK, OK, REFUSE, RULES, Finding, Labelled, Trained, find, judge
from tests.spines import CHAIN, LUMBAR, PIR, TABLE, Spine

SIZES = learn_sizes([(measure(Spine().draw(), PIR), field_of((80, 260, 10), PIR))], TABLE)
TRAINED = Trained(TABLE, CHAIN, SIZES)
END = "so the levels may be miscounted."


def fired(label: np.ndarray, affine: np.ndarray = PIR, trained: Trained = TRAINED, **more: Any) -> list[Finding]:
    return find(Labelled(measure(label, affine), field_of(label.shape, affine), **more), trained)


def told(label: np.ndarray, *args: Any, **more: Any) -> tuple[str, list[str], list[str]]:
    verdict, reasons, notes, _ = judge(fired(label, *args, **more), {})
    return verdict, reasons, notes


def ids(*names: str) -> tuple[int, ...]:
    return tuple(TABLE.id_of(name) for name in names)


def renamed(label: np.ndarray, names: dict[str, str]) -> np.ndarray:
    made = label.copy()
    for old, new in names.items():
        made[label == TABLE.id_of(old)] = TABLE.id_of(new)
    return made


class TestRegular:
    def test_ok(self) -> None:
        assert told(Spine().draw()) == (OK, [], [])

    def test_no_sizes_in_the_model(self) -> None:
        words = "The network's model.json holds no sizes of structures: they were not compared."
        assert told(Spine().draw(), trained=Trained(TABLE, CHAIN, {})) == (OK, [], [words])

    def test_sacrum_that_the_border_cuts_is_an_anchor(self) -> None:
        with_sacrum = Trained(TABLE, (TABLE.id_of("S"), *CHAIN), SIZES)
        assert told(Spine(names=("S", *LUMBAR), below=0).draw(), trained=with_sacrum) == (OK, [], [])


class TestSizes:
    def test_seven_voxels(self) -> None:
        label = Spine().draw()
        where = np.argwhere(label == TABLE.id_of("L4"))
        label[label == TABLE.id_of("L4")] = 0
        label[tuple(where[:7].T)] = TABLE.id_of("L4")
        verdict, reasons, _ = told(label)
        assert verdict == CHECK
        assert reasons[-2:] == [
            "L4 is too small with 0.1 ml (plausible: 9.4 to 85), 7 voxels: check its outline.",
            "L4 is less than an eighth as large as L3 and L5: check whether a part of it is missing.",
        ]

    def test_another_part_of_the_spine(self) -> None:
        """Half the size in every direction, as cervical vertebrae: an eighth of the volume."""
        verdict, reasons, _ = told(Spine(below=100).draw(), PIR @ np.diag([0.5, 0.5, 0.5, 1]))
        assert verdict == REFUSE
        assert reasons[0] == (
            "10 of 10 structures have no plausible size for their names: the outlines are wrong, or this is another "
            "part of the spine or of the body."
        )
        assert [r for r in reasons if r.startswith("L")][-1].endswith("check its outline (and 7 more like this).")

    def test_a_third_of_nine(self) -> None:
        """Three of nine are a third."""
        names = LUMBAR[:9]
        assert told(Spine(names=names, height={"L3": 60, "L4": 60, "L5": 60}).draw())[0] == REFUSE

    def test_voxels_are_said_below_a_hundred(self) -> None:
        label = Spine().draw()
        where = np.argwhere(label == TABLE.id_of("L4"))
        for left, said in ((99, True), (100, False)):
            few = label.copy()
            few[label == TABLE.id_of("L4")] = 0
            few[tuple(where[:left].T)] = TABLE.id_of("L4")
            (sentence,) = [f.sentence for f in fired(few) if f.rule == "size"]
            assert (", 99 voxels" in sentence) is said

    def test_two_of_ten_are_no_other_part(self) -> None:
        """A third of the structures, and three of them."""
        assert told(Spine(height={"L3": 60, "L1": 60}).draw())[0] == CHECK
        assert told(Spine(height={"L3": 60, "L1": 60, "L5": 60}).draw())[0] == CHECK  # three of ten
        assert told(Spine(height={"L3": 60, "L1": 60, "L5": 60, "L2": 60}).draw())[0] == REFUSE


class TestNeighbours:
    def test_merged(self) -> None:
        words = "L3 is three times as large as L2 and L4: check whether two vertebrae were merged."
        assert told(Spine(depth={"L3": 90}).draw()) == (CHECK, [words], [])  # 90 / 34 mm

    @pytest.mark.parametrize(("depth", "fires"), [(66, False), (68, True)])
    def test_twice(self, depth: int, fires: bool) -> None:
        assert bool(told(Spine(depth={"L3": depth}).draw())[1]) is fires

    @pytest.mark.parametrize(("depth", "fires"), [(100, False), (102, True)])
    def test_discs_may_differ_by_three_times(self, depth: int, fires: bool) -> None:
        words = "L3/L4 is three times as large as L2/L3 and L4/L5: check whether two discs were merged."
        assert (words in told(Spine(depth={"L3/L4": depth}).draw())[1]) is fires

    def test_part_missing_at_an_end(self) -> None:
        """An eighth: one slice of eight."""
        assert told(Spine(slices={"L5": 1}).draw())[1] == [
            "L5 is too small with 3.5 ml (plausible: 9.4 to 85): check its outline.",
            "L5 is an eighth as large as L4: check whether a part of it is missing.",
        ]

    @pytest.mark.parametrize(("slices", "fires"), [(5, False), (4, True)])
    def test_half(self, slices: int, fires: bool) -> None:
        assert any(f.rule == "neighbours" for f in fired(Spine(slices={"L5": slices}).draw())) is fires

    def test_a_large_neighbour_makes_none_small(self) -> None:
        """Beside the merged one L2 is small against L3, but not against L1."""
        assert not [f for f in fired(Spine(depth={"L3": 90}).draw()) if f.structures == ids("L2")]

    def test_cut_by_the_border(self) -> None:
        assert told(Spine(height={"L1": 8}, above=0).draw()) == (
            OK,
            [],
            ["L1 is cut by the upper border of the image."],
        )
        assert (
            "L1 is a third as large as L2: check whether a part of it is missing."
            in told(Spine(height={"L1": 8}).draw())[1]
        )


class TestGaps:
    def test_one_name(self) -> None:
        label = renamed(Spine().draw(), {"L3/L4": "background"})
        assert told(label)[1] == ["L3/L4 is missing between L4 and L3: check the levels from there upwards."]

    def test_two_names(self) -> None:
        label = renamed(Spine().draw(), {"L3/L4": "background", "L3": "background"})
        assert told(label)[1] == ["L3/L4 and L3 are missing between L4 and L2/L3: check the levels from there upwards."]

    def test_vertebra_that_was_passed_over(self) -> None:
        """Names go on without it, so that only the empty length tells."""
        assert told(Spine(free={"L3": 13}).draw())[:2] == (
            CHECK,
            ["13 mm between L3/L4 and L3 carry no label: check whether a structure was missed there."],
        )
        assert told(Spine(free={"L3": 12}).draw())[0] == OK


class TestAnchors:
    def test_nothing_below_though_the_image_goes_on(self) -> None:
        assert told(Spine(names=LUMBAR[1:], below=70).draw())[:2] == (
            CHECK,
            [
                "L5 is the lowest structure found, although the image goes on for 70 mm below it: L5/S is missing, "
                f"{END}"
            ],
        )

    def test_labelled_sacrum_that_was_not_found(self) -> None:
        with_sacrum = Trained(TABLE, (TABLE.id_of("S"), *CHAIN), SIZES)
        words = (
            f"L5/S is the lowest structure found, although the image goes on for 60 mm below it: S is missing, {END}"
        )
        assert told(Spine().draw(), trained=with_sacrum)[1] == [words]

    def test_cut_below(self) -> None:
        words = f"L5/S reaches the lower border of the image: what lies below it is not seen, {END}"
        assert told(Spine(below=0).draw())[:2] == (CHECK, [words])

    def test_no_room_for_a_sacrum(self) -> None:
        words = f"The image ends 19 mm below L5/S: the sacrum is not seen, {END}"
        assert told(Spine(below=19).draw())[:2] == (CHECK, [words])
        assert told(Spine(below=20).draw())[0] == OK

    def test_much_above(self) -> None:
        words = (
            "The image goes on for 91 mm above L1, the highest structure found: check whether structures were missed."
        )
        assert told(Spine(above=91).draw())[:2] == (CHECK, [words])
        assert told(Spine(above=90).draw())[0] == OK

    def test_nothing_is_missing_above_the_highest_class(self) -> None:
        whole = Spine(names=tuple(TABLE.names[c] for c in CHAIN), above=150)
        assert told(whole.draw())[0] == OK


class TestOrder:
    def test_two_names_exchanged(self) -> None:
        """A disc of L2/L3 lies above the L2 that carries the name L3, and so on: one sentence for each pair."""
        label = renamed(Spine().draw(), {"L3": "L2", "L2": "L3"})
        found = [f for f in fired(label) if f.rule == "order"]
        assert [f.sentence for f in found] == [
            "L2/L3 lies below L3: check the names of both.",
            "L2 lies below L2/L3: check the names of both.",
        ]
        assert [f.structures for f in found] == [ids("L3", "L2/L3"), ids("L2/L3", "L2")]
        assert told(label)[0] == CHECK

    @staticmethod
    def placed(**middles: float) -> list[Finding]:
        """Structures of 10 mm by the height of their middle, in mm."""
        found = {
            TABLE.id_of(name.replace("_", "/")): Measured(500, 20.0, at - 5, at + 5, (0.0, 0.0, at), 1)
            for name, at in middles.items()
        }
        return find(Labelled(found, Field(-100.0, 200.0, 1.0, 40.0)), Trained(TABLE, CHAIN, {}))

    @pytest.mark.parametrize(("below", "fires"), [(0.9, False), (1.0, False), (1.1, True)])
    def test_a_millimetre_is_noise(self, below: float, fires: bool) -> None:
        """Far from the origin, in either direction: the middle of a structure is what counts."""
        for start in (-60.0, 100.0):
            found = self.placed(L5_S=start, L5=start + 18, L4_L5=start + 18 - below, L4=start + 50, L3=start + 80)
            assert any(f.rule == "order" for f in found) is fires

    def test_half_of_the_pairs_wrong_is_not_upside_down(self) -> None:
        found = self.placed(L5_S=0.0, L5=-20.0, L4_L5=0.0, L4=-20.0, L3_L4=0.0)
        assert [f.rule for f in found].count("order") == 2
        found = self.placed(L5_S=0.0, L5=-20.0, L4_L5=0.0, L4=-20.0)
        assert "upside down" in [f.rule for f in found]

    def test_mirrored(self) -> None:
        label = renamed(Spine().draw(), dict(zip(LUMBAR, reversed(LUMBAR), strict=True)))
        verdict, reasons, _ = told(label)
        assert verdict == REFUSE
        assert reasons[0] == "The levels run the wrong way: lower ones lie above higher ones."

    def test_one_vertebra_with_two_names(self) -> None:
        label = Spine().draw()
        behind = np.zeros(label.shape, bool)
        behind[18:] = True
        label[behind & (label == TABLE.id_of("L4"))] = TABLE.id_of("L3")
        words = "L3 and L4 lie side by side for 26 mm: check whether one vertebra carries both names."
        assert words in told(label)[1]

    @pytest.mark.parametrize(("shared", "fires"), [(13, False), (14, True)])
    def test_tilted_vertebrae_overlap_less_than_half(self, shared: int, fires: bool) -> None:
        label = Spine().draw()
        rows = np.flatnonzero((label == TABLE.id_of("L4")).any((0, 2)))  # from the head
        label[20:27, rows[:shared], 1:9] = TABLE.id_of("L3")
        assert any(f.rule == "overlap" for f in fired(label)) is fires


class TestWholeScan:
    def test_nothing_found(self) -> None:
        assert told(np.zeros((4, 5, 6), np.uint8)) == (REFUSE, ["No vertebra or disc was found."], [])

    @pytest.mark.parametrize(
        ("names", "words"),
        [
            (("L5/S",), "No vertebra is"),
            (("L5/S", "L5"), "Only 1 vertebra is"),
            (("L5/S", "L5", "L4/L5", "L4"), "Only 2 vertebrae are"),
        ],
    )
    def test_few_vertebrae(self, names: tuple[str, ...], words: str) -> None:
        assert told(Spine(names=names).draw())[:2] == (CHECK, [f"{words} labelled, too few to tell the levels."])

    def test_three_are_enough(self) -> None:
        assert told(Spine(names=LUMBAR[:6]).draw())[0] == OK

    @pytest.mark.parametrize("plane", ["axial", "coronal"])
    def test_plane(self, plane: str) -> None:
        words = f"The slices are {plane}, and the network was trained on sagittal ones alone."
        assert told(Spine().draw(), plane=plane)[:2] == (REFUSE, [words])
        seen = Trained(TABLE, CHAIN, SIZES, ("sagittal", plane))
        assert told(Spine().draw(), trained=seen, plane=plane)[0] == OK

    def test_removed_parts(self) -> None:
        """The spine has 5 x 28.288 + 5 x 10.88 = 195.8 ml; a twentieth of it is 9.79 ml."""
        much = "2 parts away from the spine, 9.9 ml, were removed from the label map."
        assert told(Spine().draw(), removed=2, removed_ml=9.9) == (CHECK, [much], [])
        assert told(Spine().draw(), removed=0)[2] == []
        assert told(Spine().draw(), removed=1, removed_ml=0.04)[2] == []  # would be 0.0 ml
        little = "1 part away from the spine, 9.6 ml, was removed from the label map."
        assert told(Spine().draw(), removed=1, removed_ml=9.6) == (OK, [], [little])


class TestJudge:
    BASE = dict.fromkeys(ids("L5", "L4", "L3"), 0.8)

    def test_confidence_is_the_base_times_the_factor_of_each_rule_once(self) -> None:
        found = [
            Finding("size", "a", ids("L4")),
            Finding("neighbours", "b", ids("L4", "L3")),
            Finding("gap", "c", ids("L4", "L3", "L5")),
            Finding("size", "d", ids("L4")),
            Finding("few vertebrae", "e"),  # all of them
        ]
        *_, confidence = judge(found, self.BASE)
        factor = {name: rule.factor for name, rule in RULES.items()}
        both = factor["gap"] * factor["few vertebrae"]
        assert confidence == {
            TABLE.id_of("L5"): pytest.approx(0.8 * both),
            TABLE.id_of("L3"): pytest.approx(0.8 * both * factor["neighbours"]),
            TABLE.id_of("L4"): pytest.approx(0.8 * both * factor["neighbours"] * factor["size"]),
        }

    def test_without_findings(self) -> None:
        assert judge([], self.BASE) == (OK, [], [], self.BASE)

    def test_gravest_first_and_notes_apart(self) -> None:
        found = [Finding("cut above", "note"), Finding("size", "less"), Finding("upside down", "grave")]
        assert judge(found, {})[:3] == (REFUSE, ["grave", "less"], ["note"])
        assert judge(found[:2], {})[:3] == (CHECK, ["less"], ["note"])

    def test_many_sentences_of_one_rule(self) -> None:
        found = [Finding("size", f"Number {n}.") for n in range(5)]
        assert judge(found, {})[1] == ["Number 0.", "Number 1.", "Number 2 (and 2 more like this)."]
        assert judge(found[:4], {})[1] == ["Number 0.", "Number 1.", "Number 2 (and 1 more like this)."]
        assert judge(found[:3], {})[1] == ["Number 0.", "Number 1.", "Number 2."]

    def test_every_rule_lowers_or_only_notes(self) -> None:
        assert all(0 <= rule.factor < 1 for rule in RULES.values() if rule.verdict != OK)


def test_the_table_in_the_documents_is_that_of_the_code() -> None:
    page = Path(__file__).resolve().parents[3] / "docs/read_the_report.md"
    rows = [line.split("|")[1:-1] for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    told = {
        row[0].strip(): (row[2].strip(), float(row[3]))
        for row in rows
        if len(row) == 5 and row[2].strip() in (OK, CHECK, REFUSE)
    }
    assert told == {name: (rule.verdict, rule.factor) for name, rule in RULES.items()}
    assert list(told) == list(RULES)


class TestErrorsMadeOnPurpose:
    """A true label map made wrong: what each kind of error is told as."""

    KINDS: ClassVar[dict[str, Callable[[np.ndarray], np.ndarray]]] = {
        "merged": lambda a: renamed(a, {"L3": "L4", "L3/L4": "L4"}),
        "fragmented": lambda a: np.where((np.indices(a.shape)[1] % 5 > 0) & (a == TABLE.id_of("L3")), 0, a),
        "shifted upwards without L5/S": lambda a: renamed(a, {"L5/S": "background"}),
        "half a spine": lambda a: a[:, :150],
        "upside down": lambda a: a[:, ::-1],
    }

    @pytest.mark.parametrize("kind", KINDS)
    def test_never_ok(self, kind: str) -> None:
        assert told(self.KINDS[kind](Spine().draw()))[0] != OK

    def test_fragments_are_said_by_their_size(self) -> None:
        """Five of its 26 rows are left."""
        assert "L3 is too small with 5.4 ml" in " ".join(told(self.KINDS["fragmented"](Spine().draw()))[1])
