from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from scripts.data.datalist import DataError, load_datalist, write_datalist
from scripts.tools.accuracy.subsets import Source, cell, cut, full_cell


@pytest.fixture
def datalist(tmp_path: Path) -> Path:
    """Five labelled patients, the first with two scans; two unlabelled ones, one with a hidden label."""
    names = [("p1", "p1a"), ("p1", "p1b"), *((f"p{n}", f"p{n}") for n in range(2, 6))]
    rows = [{"image": f"{case}.nii.gz", "label": f"{case}_seg.nii.gz", "patient": p, "case": case} for p, case in names]
    rows = [{k: str(tmp_path / v) if k in ("image", "label") else v for k, v in row.items()} for row in rows]
    unlabelled: list[dict[str, Any]] = [
        {"image": str(tmp_path / "u1.nii.gz"), "hidden_label": str(tmp_path / "u1_seg.nii.gz")},
        {"image": str(tmp_path / "u2.nii.gz"), "unlabelled_classes": []},
    ]
    sections = {"training": rows, "unlabelled": unlabelled, "validation": rows[:1], "test": rows[-1:]}
    return write_datalist(tmp_path / "own.json", sections, label_map="mrspineseg", unlabelled_classes=["S"])


def patients(path: Path, section: str = "training") -> set[str]:
    return {row["patient"] for row in load_datalist(path).sections[section]}


class TestCut:
    def test_nested_by_patient(self, datalist: Path, tmp_path: Path) -> None:
        cuts = [patients(cut(datalist, tmp_path / f"{n}.json", n, seed=1)) for n in range(1, 6)]
        assert [len(c) for c in cuts] == [1, 2, 3, 4, 5]
        assert all(small < large for small, large in itertools.pairwise(cuts))

    def test_seeds_differ(self, datalist: Path, tmp_path: Path) -> None:
        assert len({frozenset(patients(cut(datalist, tmp_path / "c.json", 2, seed))) for seed in range(6)}) > 1

    def test_nothing_is_lost(self, datalist: Path, tmp_path: Path) -> None:
        before = load_datalist(datalist)
        after = load_datalist(cut(datalist, tmp_path / "deeper" / "c.json", 2, seed=0))
        assert after.label_map == before.label_map
        for section in ("validation", "test"):
            assert after.sections[section] == before.sections[section]
        known = [row.get("label", row.get("hidden_label")) for row in before.sections["training"]]
        known.append(before.sections["unlabelled"][0]["hidden_label"])
        found = [row["label"] for row in after.sections["training"]]
        found += [row["hidden_label"] for row in after.sections["unlabelled"] if "hidden_label" in row]
        assert sorted(found) == sorted(known)
        classes = {row["case"]: row["unlabelled_classes"] for row in after.sections["unlabelled"]}
        assert classes["u2"] == ()
        assert classes["u1"] == (1,)
        assert all("label" not in row for row in after.sections["unlabelled"])

    def test_exception(self, datalist: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="6 labelled patients were asked for, but there are 5"):
            cut(datalist, tmp_path / "c.json", 6, seed=0)


class TestCell:
    def test_value(self, datalist: Path, tmp_path: Path) -> None:
        source = Source(None, "auto", datalist)
        made = cell(source, 2, 3, tmp_path / "out")
        assert (made.labelled, made.seed, made.hidden) == (2, 3, True)
        assert made.datalist == tmp_path / "out/datalist_2_3.json"
        assert len(patients(made.datalist)) == 2

    def test_a_datalist_that_is_there_stays(self, datalist: Path, tmp_path: Path) -> None:
        source = Source(None, "auto", datalist)
        kept = patients(cell(source, 1, 0, tmp_path).datalist)
        content = json.loads(datalist.read_text(encoding="utf-8"))
        content["training"] = [row for row in content["training"] if row["patient"] not in kept]
        datalist.write_text(json.dumps(content), encoding="utf-8")
        assert patients(cell(source, 1, 0, tmp_path).datalist) == kept

    def test_without_hidden_labels(self, datalist: Path, tmp_path: Path) -> None:
        content = json.loads(datalist.read_text(encoding="utf-8"))
        del content["unlabelled"][0]["hidden_label"]
        datalist.write_text(json.dumps(content), encoding="utf-8")
        assert cell(Source(None, "auto", datalist), 5, 0, tmp_path).hidden is False


class TestFullCell:
    def test_value(self, datalist: Path, tmp_path: Path) -> None:
        made = full_cell(Source(None, "auto", datalist), 1, 2, tmp_path / "out")
        assert (made.labelled, made.seed, made.hidden) == (6, 2, False)
        assert patients(made.datalist) == {"p1", "p2", "p3", "p4", "p5", "u1"}
        assert patients(made.datalist, "unlabelled") == {"u2"}
