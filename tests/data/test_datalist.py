import json
import subprocess
import sys

import pytest

from scripts.data.datalist import DataError, load_datalist, select, select_for_scoring, write_datalist
from scripts.labels import IGNORE


def write(tmp_path, **content):
    path = tmp_path / "data.json"
    path.write_text(json.dumps(content))
    return path


ENTRY = {"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}


class TestLoadDatalist:
    def test_value(self, tmp_path):
        path = write(tmp_path, label_map="spider", training=[ENTRY], unlabelled=[{"image": "/far/b.mha", "patient": 7}])
        datalist = load_datalist(path)
        assert datalist.label_map.mapping[101] == IGNORE
        assert datalist.sections["training"] == [
            {
                "image": str(tmp_path / "images/a.nii.gz"),
                "label": str(tmp_path / "labels/a.nii.gz"),
                "case": "a",
                "patient": "a",
                "unlabelled_classes": (1,),
                "label_map": "spider",
            }
        ]
        assert datalist.sections["unlabelled"] == [
            {"image": "/far/b.mha", "case": "b", "patient": "7", "unlabelled_classes": (1,)}
        ]

    def test_unlabelled_classes(self, tmp_path):
        rows = [ENTRY, {**ENTRY, "unlabelled_classes": []}, {**ENTRY, "unlabelled_classes": [2, "L4/L5"]}]
        path = write(tmp_path, label_map="mrspineseg", unlabelled_classes=["S"], training=rows)
        assert [e["unlabelled_classes"] for e in load_datalist(path).sections["training"]] == [(1,), (), (2, 12)]

    def test_label_map_table(self, tmp_path):
        for table in ({"map": {"0": 0, "7": "S"}}, {"0": 0, "7": "S"}):
            datalist = load_datalist(write(tmp_path, label_map=table, training=[ENTRY]))
            assert datalist.label_map.mapping == {0: 0, 7: 1}

    def test_label_map_file_beside_the_list(self, tmp_path):
        (tmp_path / "own.json").write_text(json.dumps({"map": {"5": "L1"}}))
        datalist = load_datalist(write(tmp_path, label_map="own.json", training=[ENTRY]))
        assert datalist.label_map.mapping == {5: 6}
        assert datalist.sections["training"][0]["label_map"] == str(tmp_path / "own.json")

    def test_exception_missing_file(self, tmp_path):
        with pytest.raises(
            DataError, match=r"none\.json: there is no such datalist; write one with `python -m scripts"
        ):
            load_datalist(tmp_path / "none.json")

    def test_exception_bad_json(self, tmp_path):
        (tmp_path / "bad.json").write_text('{"training": [}')
        with pytest.raises(DataError, match=r"bad\.json: this is not JSON \(.*line 1"):
            load_datalist(tmp_path / "bad.json")

    def test_exception_list(self, tmp_path):
        (tmp_path / "bad.json").write_text("[]")
        with pytest.raises(DataError, match="not a list"):
            load_datalist(tmp_path / "bad.json")

    @pytest.mark.parametrize("source", ["spyder", {"map": {"1": "L9"}}, {"map": 3}, {"one": "S"}])
    def test_exception_label_map(self, tmp_path, source):
        with pytest.raises(DataError, match=r'data\.json: "label_map" cannot be used'):
            load_datalist(write(tmp_path, label_map=source, training=[ENTRY]))

    def test_exception_all_entries_at_once(self, tmp_path):
        path = write(
            tmp_path,
            training=[{"label": "a"}, {"image": "a"}, "a.nii"],
            unlabelled=[ENTRY],
            test=[{**ENTRY, "unlabelled_classes": ["sacrum"]}],
        )
        with pytest.raises(DataError, match='entry 0 of "training" names no image') as caught:
            load_datalist(path)
        lines = str(caught.value).splitlines()
        assert len(lines) == 5
        assert 'entry 1 of "training" has no label' in lines[1]
        assert "hidden_label" in lines[3]
        assert "no class 'sacrum'" in lines[4]

    def test_exception_section_type(self, tmp_path):
        with pytest.raises(DataError, match='"training" must be a list'):
            load_datalist(write(tmp_path, training={"image": "a"}))


class TestSelect:
    @pytest.mark.parametrize("nothing", [None, ""])
    def test_no_datalist(self, nothing):
        assert select(nothing, "training") == []

    def test_hidden_labels_stay_hidden(self, tmp_path):
        row = {"image": "b.nii", "hidden_label": "c.nii"}
        path = write(tmp_path, label_map="mrspineseg", training=[ENTRY], unlabelled=[row])
        (entry,) = select(path, "unlabelled")
        assert set(entry) == {"image", "case", "patient", "unlabelled_classes"}

    def test_empty_sections(self, tmp_path):
        path = write(tmp_path, training=[ENTRY], validation=[], test=[])
        assert select(path, "unlabelled") == []
        assert select(path, "validation") == []
        with pytest.raises(DataError, match='"test" is an empty list'):
            select(path, "test")

    def test_exception_section(self, tmp_path):
        path = write(tmp_path, training=[])
        with pytest.raises(DataError, match='the section "validation" is missing; add'):
            select(path, "validation")
        with pytest.raises(DataError, match='"training" is an empty list'):
            select(path, "training")
        with pytest.raises(DataError, match="no section can be called 'train'"):
            select(path, "train")


class TestSelectForScoring:
    def test_hidden_labels_become_labels(self, tmp_path):
        rows = [{"image": "b.nii", "hidden_label": "c.nii"}, {"image": "d.nii"}]
        path = write(tmp_path, label_map="mrspineseg", unlabelled=rows)
        (entry,) = select_for_scoring(path, "unlabelled")
        assert entry["label"] == str(tmp_path / "c.nii")
        assert entry["label_map"] == "mrspineseg"
        assert "hidden_label" not in entry

    def test_exception(self, tmp_path):
        with pytest.raises(DataError, match='no entry of "unlabelled" has a "hidden_label"'):
            select_for_scoring(write(tmp_path, unlabelled=[{"image": "d.nii"}]), "unlabelled")


class TestWriteDatalist:
    def test_round_trip_and_move(self, tmp_path):
        row = {"image": str(tmp_path / "one/images/a.nii"), "label": "/far/a.nii", "case": "a", "patient": "p"}
        path = write_datalist(tmp_path / "one/data.json", {"training": [row]}, unlabelled_classes=["S"])
        assert json.loads(path.read_text())["training"][0]["image"] == "images/a.nii"
        moved = (tmp_path / "one").rename(tmp_path / "two")
        (entry,) = load_datalist(moved / "data.json").sections["training"]
        assert entry["image"] == str(tmp_path / "two/images/a.nii")
        assert entry["label"] == "/far/a.nii"
        assert entry["unlabelled_classes"] == (1,)


class TestImports:
    def test_light(self):
        code = "import sys, scripts.data.prepare.command; print({'torch', 'monai', 'itk', 'numpy'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"
