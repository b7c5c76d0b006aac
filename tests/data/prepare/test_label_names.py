"""Label values by the names that come with them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from scripts.data.check.command import check_datalist
from scripts.data.datalist import DataError, errors, load_datalist
from scripts.data.prepare import command
from scripts.data.prepare.command import prepare
from scripts.data.prepare.label_names import (
    NameFiles,
    bids,
    mapping_table,
    nnunet,
    segments,
    slicer_csv,
    slicer_or_snap,
)
from scripts.labels import ClassTable, LabelMap
from tests.data.prepare.conftest import Draw, name_segments

TABLE = ClassTable.load()
VALUES = {"L5": 1, "L4": 2, "L3": 3, "L5/S": 10, "L4/L5": 11, "L3/L4": 12, "S": 0}
SPELT = {1: "vertebrae_L5", 2: "L4 vertebra", 3: "L3", 10: "L5/S", 11: "disc L4-L5", 12: "L3/4"}
MAP = {"0": "background", "1": "L5", "2": "L4", "3": "L3", "10": "L5/S", "11": "L4/L5", "12": "L3/L4"}

SLICER = "# Color table file x.ctbl\n# 7 values\n0 Background 0 0 0 0\n" + "".join(
    f"{value} {name.replace(' ', '_')} 230 159 0 255\n" for value, name in SPELT.items()
)
SNAP = "################\n# ITK-SnAP Label Description File\n" + "".join(
    f'{value:>5}  255    0    0        1  1  1    "{name}"\n' for value, name in ({0: "Clear Label"} | SPELT).items()
)
DSEG = "index\tname\tcolor\n" + "".join(f"{value}\t{name}\t#e69f00\n" for value, name in SPELT.items())
SLICER_CSV = "LabelValue,Name,Color_R,Color_G,Color_B,Color_A\n0,Background,0,0,0,0\n" + "".join(
    f'{value},"{name}",230,159,0,255\n' for value, name in SPELT.items()
)
NNUNET = json.dumps({"labels": {"background": 0, **{name: value for value, name in SPELT.items()}}})
NNUNET_1 = json.dumps({"labels": {"0": "background", **{str(value): name for value, name in SPELT.items()}}})
SLICER_QUOTED = "".join(f'{value} "{name}" 230 159 0 255\n' for value, name in SPELT.items())

SOURCES = {
    "nnU-Net": ("dataset.json", NNUNET),
    "nnU-Net, version 1": ("dataset.json", NNUNET_1),
    "3D Slicer": ("colours.ctbl", SLICER),
    "3D Slicer, csv": ("labels/colours.csv", SLICER_CSV),
    "3D Slicer, txt": ("labels/colours.txt", SLICER),
    "3D Slicer, quoted": ("labels/colours.txt", SLICER_QUOTED),
    "ITK-SNAP": ("labels/names.txt", SNAP),
    "ITK-SNAP, label": ("names.label", SNAP),
    "BIDS": ("dseg.tsv", DSEG),
    "BIDS, of a derivative": ("labels/desc-anna_dseg.tsv", DSEG),
}


@pytest.fixture
def folder(draw: Draw) -> Path:
    """Four patients whose labels count L5 as 1: as class ids, L5 would be the sacrum."""
    for n in range(4):
        folder = draw(f"images/s{n}.nii.gz", f"labels/s{n}.nii.gz", seed=n, values=VALUES)
    return folder


class TestNamesDecide:
    @pytest.mark.parametrize("source", SOURCES)
    def test_source(self, source, folder, tmp_path, capsys):
        file, text = SOURCES[source]
        (folder / file).write_text(text, encoding="utf-8")
        path = prepare(folder, tmp_path / "d.json")
        raw = json.loads(path.read_text())
        assert raw["label_map"]["map"] == MAP
        assert raw["label_map"]["unlabelled_classes"] == [
            c.name for c in TABLE.foreground if c.name not in VALUES or c.name == "S"
        ]
        assert errors(check_datalist(path, sections=("training", "validation", "test"))) == []
        out = capsys.readouterr().out
        assert f"label values, by the names in {file}:\n" in out
        assert "\nL5              1                       vertebrae_L5\n" in out
        assert "\nL3/L4           12                      L3/4\n" in out

    def test_l5_as_1(self, folder, tmp_path):
        names = {"background": 0, "L5": 1, "L4": 2, "L3": 3, "L5/S": 10, "L4/L5": 11, "L3/L4": 12}
        (folder / "dataset.json").write_text(json.dumps({"labels": names}))
        label_map = load_datalist(prepare(folder, tmp_path / "d.json")).label_map
        assert {value: TABLE.names[c] for value, c in label_map.mapping.items()} == {int(v): n for v, n in MAP.items()}

    def test_a_label_map_that_is_named_wins(self, folder, tmp_path):
        (folder / "dataset.json").write_text(NNUNET)
        path = prepare(folder, tmp_path / "d.json", label_map="spider")
        assert json.loads(path.read_text())["label_map"] == "spider"

    def test_nearest_names_win(self, folder, tmp_path):
        (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "T12": 1}}))
        (folder / "labels/names.txt").write_text(SNAP)
        assert NameFiles(folder).of(folder / "labels/s0.nii.gz")[0] == folder / "labels/names.txt"

    def test_a_file_of_the_label_s_name(self, folder):
        (folder / "labels/s0.tsv").write_text(DSEG)
        assert NameFiles(folder).of(folder / "labels/s0.nii.gz")[0] == folder / "labels/s0.tsv"
        assert NameFiles(folder).of(folder / "labels/s1.nii.gz") is None

    def test_segment_files_of_different_numbers(self, draw, tmp_path, capsys):
        for n, values in enumerate(({"L5": 1, "L4": 2}, {"L4": 1, "L3": 2}, {"L5": 2, "L4": 1})):
            folder = draw(f"p{n}.nrrd", f"p{n}.seg.nrrd", seed=n, values=values)
            name_segments(folder / f"p{n}.seg.nrrd", {value: name for name, value in values.items()})
        path = prepare(folder, tmp_path / "d.json")
        assert errors(check_datalist(path, sections=("training", "validation", "test"))) == []
        rows = [row for rows in load_datalist(path).sections.values() for row in rows]
        assert {row["case"]: row["label_map"]["map"]["1"] for row in rows} == {"p0": "L5", "p1": "L4", "p2": "L4"}
        # what one file does not hold the next one labels: it is not unlabelled
        assert {2, 3, 4}.isdisjoint(rows[0]["unlabelled_classes"])
        assert "\nL4              1-2                     L4\n" in capsys.readouterr().out

    def test_names_of_no_class_are_said(self, folder, tmp_path, capsys):
        names = {
            "background": 0,
            "L5": 1,
            "L4": 2,
            "L3": 3,
            "L5/S": 10,
            "L4/L5": 11,
            "L3/L4": 12,
            "lesion": 13,
            "T8": 14,
        }
        (folder / "dataset.json").write_text(json.dumps({"labels": names}))
        prepare(folder, tmp_path / "d.json")
        out = capsys.readouterr().out
        assert "note: left out (255), as no class has such a name: lesion" in out
        assert "left out (255)  13-14                   lesion, T8" in out
        assert "note: no label is named S, L2," in out


class TestWithoutNames:
    def test_values_that_fit(self, draw, tmp_path, capsys):
        folder = draw("a.nii.gz", "a_seg.nii.gz", seed=1)
        assert json.loads(prepare(folder, tmp_path / "d.json").read_text())["label_map"] is None
        assert "label values are taken for class ids, which they fit" in capsys.readouterr().out

    def test_values_that_do_not(self, draw, tmp_path):
        folder = draw("a.nii.gz", "a_seg.nii.gz", seed=1, values={"L5": 45, "L4": 44, "L5/S": 100})
        with pytest.raises(
            DataError, match="no names say what its values mean, and as class ids they do not fit"
        ) as error:
            prepare(folder, tmp_path / "d.json")
        assert "they do not fit: it holds the label value 44, 45, 100, which the label map" in str(error.value)
        assert "name a --label-map (totalspineseg would fit), or" in str(error.value)
        assert not (tmp_path / "d.json").exists()
        prepare(folder, tmp_path / "d.json", label_map="totalspineseg")

    def test_an_order_that_is_none(self, folder, tmp_path):
        with pytest.raises(DataError, match=r"upside down \(.*\); name a --label-map, or put a list of names"):
            prepare(folder, tmp_path / "d.json")

    def test_names_that_programs_give_say_nothing(self, draw, tmp_path):
        folder = draw("a.nii.gz", "a_seg.nii.gz", seed=1)
        (folder / "names.txt").write_text('1 255 0 0 1 1 1 "Label 1"\n2 255 0 0 1 1 1 "Label 2"\n')
        assert json.loads(prepare(folder, tmp_path / "d.json").read_text())["label_map"] is None

    def test_a_run_ends_with_1(self, folder, tmp_path, capsys):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        assert command.run(parser.parse_args([str(folder), "--out", str(tmp_path / "d.json")])) == 1
        assert "name a --label-map" in capsys.readouterr().err


class TestRefused:
    @pytest.mark.parametrize(
        ("file", "text", "message"),
        [
            ("dataset.json", '{"labels": {"background": 0, "spine": 1}}', "names no structure of the class table"),
            (
                "dataset.json",
                '{"labels": {"background": 0, "all": [1, 2]}}',
                "some labels are regions of several values",
            ),
            ("dseg.tsv", "index\tname\n0\tL5\n1\tL4\n", "it calls the value 0 'L5', but 0 must be background"),
        ],
    )
    def test_one(self, folder, tmp_path, file, text, message):
        (folder / file).write_text(text)
        with pytest.raises(DataError, match=message):
            prepare(folder, tmp_path / "d.json")

    def test_two_that_disagree(self, folder, tmp_path):
        (folder / "dataset.json").write_text(NNUNET)
        (folder / "dseg.tsv").write_text("index\tname\n1\tL4\n2\tL5\n")
        with pytest.raises(DataError, match=r"dseg\.tsv names the same values otherwise; move one of them away"):
            prepare(folder, tmp_path / "d.json")

    def test_two_that_agree(self, folder, tmp_path):
        (folder / "dataset.json").write_text(NNUNET)
        (folder / "dseg.tsv").write_text(DSEG)
        assert json.loads(prepare(folder, tmp_path / "d.json").read_text())["label_map"]["map"] == MAP


class TestReaders:
    @pytest.mark.parametrize("reader", [nnunet, slicer_or_snap, slicer_csv, bids, segments])
    @pytest.mark.parametrize("content", [b"", b"a note\n1 is one", b"\xff\xfe\x00", b"[1]", b"{}", b"1 2 3 4 5 6\nx"])
    def test_other_files_say_nothing(self, reader, content, tmp_path):
        (tmp_path / "x").write_bytes(content)
        assert reader(tmp_path / "x") == {}

    def test_one_segment_of_an_old_file(self, tmp_path):
        (tmp_path / "a.seg.nrrd").write_bytes(
            b"NRRD0004\r\ntype: uchar\r\nSegment0_Name:=L5\r\n\r\n\x00Segment1_Name:=L4"
        )
        assert segments(tmp_path / "a.seg.nrrd") == {1: "L5"}


def test_table_of_a_map() -> None:
    lines = mapping_table([LabelMap.load("spider", TABLE)], [], TABLE)
    assert lines[1] == "L5              1"
    assert lines[-2:] == ["background      0, 100", "left out (255)  10-25, 101-125, 210-225"]
