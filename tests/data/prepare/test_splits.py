from __future__ import annotations

import pytest

from scripts.data.datalist import DataError
from scripts.data.prepare.splits import counts, draw_split, keep_labelled, section_of


def sizes(patients: int, validation: float, test: float) -> tuple[int, int, int]:
    split = draw_split([f"p{number}" for number in range(patients)], 0, validation, test)
    assert sorted(name for part in split.values() for name in part) == sorted(f"p{n}" for n in range(patients))
    return len(split["training"]), len(split["validation"]), len(split["test"])


class TestDrawSplit:
    @pytest.mark.parametrize(
        ("patients", "validation", "test", "expected"),
        [
            (1, 0.2, 0.2, (1, 0, 0)),
            (2, 0.2, 0.2, (2, 0, 0)),
            (3, 0.1, 0.2, (1, 1, 1)),
            (3, 0.1, 1.0, (1, 1, 1)),  # one patient stays to train on, whatever the fractions say
            (3, 0.0, 1.0, (1, 0, 2)),
            (4, 0.0, 0.0, (4, 0, 0)),
            (15, 0.2, 0.2, (9, 3, 3)),
            (16, 0.2, 0.2, (9, 3, 4)),  # rounded down for validation, up for the test
        ],
    )
    def test_sizes(self, patients: int, validation: float, test: float, expected: tuple[int, int, int]) -> None:
        assert sizes(patients, validation, test) == expected

    def test_by_seed(self) -> None:
        patients = [f"p{number}" for number in range(20)]
        first, again, other = (draw_split(patients, seed, 0.2, 0.2) for seed in (1, 1, 2))
        assert first == again != other


class TestKeepLabelled:
    ORDER = ("a", "b", "c", "d", "e")

    @pytest.mark.parametrize(
        ("fraction", "cases", "block", "expected"),
        [
            (None, None, 0, "abcde"),
            (None, 2, 0, "ab"),
            (None, 2, 1, "cd"),
            (0.5, None, 0, "abc"),  # 2.5, upwards
            (0.4, None, 1, "cd"),
            (0.01, None, 4, "e"),
            (1.0, None, 0, "abcde"),
        ],
    )
    def test_value(self, fraction: float | None, cases: int | None, block: int, expected: str) -> None:
        assert keep_labelled(self.ORDER, fraction, cases, block) == list(expected)

    @pytest.mark.parametrize(
        ("cases", "block", "words"),
        [
            (6, 0, "^6 labelled patients were asked for, but there are 5 .* ask for fewer$"),
            (2, 2, r"^2 labelled patients, from number 5 on \(seed 2\), were asked for.* or take a smaller seed$"),
        ],
    )
    def test_too_many(self, cases: int, block: int, words: str) -> None:
        with pytest.raises(DataError, match=words):
            keep_labelled(self.ORDER, None, cases, block)

    def test_nobody(self) -> None:
        assert keep_labelled([], None, None) == []
        for fraction, cases in ((0.5, None), (None, 1)):
            with pytest.raises(DataError, match="no patient has a label"):
                keep_labelled([], fraction, cases)


def test_section_of() -> None:
    assert section_of({"training": ["a", "b"], "test": ["c"]}) == {"a": "training", "b": "training", "c": "test"}


def test_counts() -> None:
    rows = {"training": [{"patient": "a"}, {"patient": "a"}, {"patient": "b"}], "unlabelled": []}
    lines = counts({**rows, "validation": [{"patient": "c"}], "test": []})
    assert [line.split() for line in lines] == [
        ["section", "patients", "volumes"],
        ["training", "2", "3"],
        ["unlabelled", "0", "0"],
        ["validation", "1", "1"],
        ["test", "0", "0"],
    ]
