from pathlib import Path

import pytest

from scripts.data.datalist import DataError
from scripts.data.dicom.series import Series
from scripts.data.dicom.series_selection import choose_series


def series(number: int = 3, folder: str = "/in/study", **given) -> Series:
    usual = {
        "plane": "sagittal",
        "sequence": "t2",
        "evidence": 'by its protocol ("t2")',
        "study": "1.2",
        "modality": "MR",
    }
    unique = {"uid": f"1.2.{number}", "first_instance": f"1.2.{number}.1", "number": str(number)}
    return Series(Path(folder), files=(f"{folder}/{number}",), name=f"s{number}", **{**usual, **unique, **given})


def numbers(choice) -> list[str]:
    return [one.number for one in choice.taken]


class TestOneSeries:
    @pytest.mark.parametrize(
        "given", [{}, {"sequence": "t1"}, {"sequence": "unknown"}, {"plane": "axial"}, {"plane": "unreadable"}]
    )
    def test_is_taken_as_it_is(self, given):
        choice = choose_series([series(**given)])
        assert numbers(choice) == ["3"]
        assert choice.notes == choice.warnings == []

    def test_of_every_study(self):
        found = [series(3), series(4, sequence="t1", study="1.3"), series(5, study="", folder="/in/other")]
        assert numbers(choose_series(found)) == ["3", "4", "5"]

    @pytest.mark.parametrize("other", [{"modality": "SC"}, {"uid": "1.2.3", "first_instance": "1.2.3.1"}])
    def test_beside_what_is_no_other(self, other):
        choice = choose_series([series(3, sequence="t1"), series(9, folder="/in/z", **other)])
        assert numbers(choice) == ["3"]
        assert "taken, the only scan of its study" in choice.notes[0]

    def test_no_scan_at_all(self):
        choice = choose_series([series(3, modality="SC")])
        assert (choice.taken, choice.warnings) == ([], [])


class TestSeveral:
    def test_all_that_fit(self):
        found = [series(3), series(4, sequence="t1"), series(5), series(6, plane="axial"), series(7, plane="unknown")]
        choice = choose_series(found)
        assert numbers(choice) == ["3", "5"]
        assert choice.notes[0] == 'DICOM series 3 in /in/study: taken, sagittal T2 by its protocol ("t2")'
        assert choice.notes[3] == "DICOM series 6 in /in/study: left out, of axial plane"

    def test_silent_headers_only_for_want_of_better(self):
        silent = series(4, sequence="unknown", evidence="")
        assert numbers(choose_series([series(3), silent])) == ["3"]
        choice = choose_series([series(3, sequence="t1"), silent])
        assert numbers(choice) == ["4"]
        assert choice.warnings == ["no header tells of a sagittal T2 series; taken: DICOM series 4 in /in/study"]
        anything = choose_series([series(3, sequence="t1"), silent], "any")
        assert (numbers(anything), anything.warnings) == (["3", "4"], [])

    def test_damaged_ones_are_taken(self):
        # for the check to name them
        assert numbers(choose_series([series(3), series(4, plane="unreadable", modality="")])) == ["3", "4"]

    def test_none(self):
        found = [series(1, localiser=True), series(3, sequence="PD"), series(4, modality="CT")]
        choice = choose_series(found)
        assert choice.taken == []
        assert choice.warnings == [
            "there is no sagittal T2 series: DICOM series 1 in /in/study is a localiser; DICOM series 3 in /in/study "
            'is sagittal PD by its protocol ("t2"); DICOM series 4 in /in/study is of modality CT; '
            "ask for another contrast (--sequence, in prepare --series), or give the series that you mean alone"
        ]

    def test_parts_of_a_series_in_several_folders(self):
        parts = [series(3, folder=f"/in/{n}", uid="1.2.3", first_instance=f"1.2.3.{n}") for n in (1, 2)]
        choice = choose_series([*parts, series(4), series(5)])
        assert numbers(choice) == ["4", "5"]
        assert "files lie in several folders; put them into one" in choice.notes[0]

    def test_exception(self):
        with pytest.raises(DataError, match="choose one of t2, t1, stir, any"):
            choose_series([], "T2")
