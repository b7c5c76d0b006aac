import argparse
import json
from pathlib import Path

import pytest

from scripts.data.check.command import check_datalist
from scripts.data.datalist import DataError, errors, load_datalist
from scripts.data.prepare import command
from scripts.data.prepare.command import prepare
from scripts.data.prepare.join import join_datalists
from tests.data.prepare.conftest import IDS, Draw


@pytest.fixture
def lists(draw: Draw, tmp_path: Path) -> list[Path]:
    """Two data sets of other label values; both call their scans s0 to s3, and their patients a0, ... and b0, ..."""
    found = []
    for number, (name, values) in enumerate((("a", IDS), ("b", {"L5": 45, "L4": 44, "L5/S": 100}))):
        for n in range(4):
            draw(f"{name}/{name}{n}/s.nii.gz", f"{name}/{name}{n}/s_seg.nii.gz", seed=n + 10 * number, values=values)
        label_map = "totalspineseg" if number else None
        found.append(prepare(tmp_path / "set" / name, tmp_path / f"{name}.json", label_map=label_map))
    return found


class TestJoin:
    def test_value(self, lists, tmp_path):
        lines = join_datalists(lists, tmp_path / "c/c.json")
        joined, (a, b) = load_datalist(tmp_path / "c/c.json"), map(load_datalist, lists)
        for section, rows in joined.sections.items():
            assert [r["image"] for r in rows] == [r["image"] for of in (a, b) for r in of.sections[section]]
        rows = joined.sections["training"]
        assert len(rows) == 4
        assert rows[0]["label_map"]["map"]["2"] in ("L5", 2)
        assert rows[-1]["label_map"] == "totalspineseg"
        assert errors(check_datalist(tmp_path / "c/c.json", sections=("training", "validation", "test"))) == []
        assert lines[-1] == f"written: {tmp_path}/c/c.json"
        assert lines[1].split() == ["training", "4", "4"]

    def test_equal_cases_are_told_apart(self, lists, tmp_path):
        join_datalists([lists[0], lists[1]], tmp_path / "c.json")
        cases = [r["case"] for rows in load_datalist(tmp_path / "c.json").sections.values() for r in rows]
        assert len(set(cases)) == len(cases) == 8

    def test_unlabelled_classes(self, lists, tmp_path):
        raw = json.loads(lists[1].read_text())
        lists[1].write_text(json.dumps({**raw, "unlabelled_classes": ["S"]}))
        join_datalists(lists, tmp_path / "c.json")
        rows = load_datalist(tmp_path / "c.json").sections["training"]
        assert [row["unlabelled_classes"] for row in rows] == [(), (), (1,), (1,)]

    def test_a_patient_in_two_splits(self, lists, tmp_path):
        raw = json.loads(lists[1].read_text())
        mine = json.loads(lists[0].read_text())["test"][0]["patient"]
        raw["training"][0]["patient"] = mine
        lists[1].write_text(json.dumps(raw))
        with pytest.raises(DataError, match=rf"b\.json: the patient {mine} is in training, in .*a\.json in test"):
            join_datalists(lists, tmp_path / "c.json")
        assert not (tmp_path / "c.json").exists()
        join_datalists(lists, tmp_path / "c.json", distinct_patients=True)
        patients = {r["patient"] for rows in load_datalist(tmp_path / "c.json").sections.values() for r in rows}
        assert {f"a/{mine}", f"b/{mine}"} <= patients

    def test_a_patient_of_one_split_is_one_person(self, lists, tmp_path):
        lines = join_datalists([lists[0], lists[0]], tmp_path / "c.json")
        assert "note: in several lists, taken for one person each: a" in lines[0]


class TestRun:
    def run(self, *arguments):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        return command.run(parser.parse_args([str(a) for a in arguments]))

    def test_value(self, lists, tmp_path, capsys):
        assert self.run("--join", *lists, "--out", tmp_path / "c.json") == 0
        assert "training             4         4" in capsys.readouterr().out

    @pytest.mark.parametrize("arguments", [[], ["folder", "--join", "a.json", "b.json"], ["--join", "a.json"]])
    def test_exception(self, arguments, tmp_path, capsys):
        assert self.run(*arguments, "--out", tmp_path / "c.json") == 1
        assert "error: " in capsys.readouterr().err
