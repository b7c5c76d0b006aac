import json

import pytest

from scripts.labels import CONFIG_DIR, IGNORE, LABEL_MAP_DIR, ClassTable, LabelMap, StructureClass

TABLE = ClassTable.load()
MAPS = sorted(path.stem for path in LABEL_MAP_DIR.glob("*.json"))


class TestClassTable:
    def test_value(self):
        assert TABLE.num_classes == 20
        assert TABLE.names[:4] == ("background", "S", "L5", "L4")
        assert TABLE.names[10:13] == ("T9", "L5/S", "L4/L5")
        assert TABLE.group("sacrum") == (1,)
        assert TABLE.group("vertebra") == tuple(range(2, 11))
        assert TABLE.group("disc") == tuple(range(11, 20))

    def test_chain_alternates_from_the_sacrum_up(self):
        names = [c.name for c in TABLE.chain]
        assert names[:5] == ["S", "L5/S", "L5", "L4/L5", "L4"]
        assert names[-3:] == ["T10", "T9/T10", "T9"]
        assert [c.chain for c in TABLE.chain] == list(range(19))
        # a disc is named by the vertebra above it and the one below it
        for below, disc, above in zip(names[::2], names[1::2], names[2::2], strict=False):
            assert disc == f"{above}/{below}"

    def test_what_must_differ(self):
        assert len({c.long_name for c in TABLE.classes}) == 20
        assert len({c.colour for c in TABLE.classes}) == 20
        assert all(0 <= part <= 255 for c in TABLE.classes for part in c.colour)

    @pytest.mark.parametrize(("name", "expected"), [("S", 1), (1, 1), ("19", 19), ("T9/T10", 19), ("background", 0)])
    def test_id_of(self, name, expected):
        assert TABLE.id_of(name) == expected

    @pytest.mark.parametrize("name", ["L6", 20, "20", -1, ""])
    def test_id_of_exception(self, name):
        with pytest.raises(ValueError, match="class table spine20 has no class"):
            TABLE.id_of(name)

    @pytest.mark.parametrize(
        ("name", "spellings"),
        [
            ("L5", "L5|l5|L05|L5 vertebra|vertebrae_L5|vertebra L5|vert_L5|VB L5|L5 vertebral body|LWK5|Lumbar 5"),
            ("L5", "fifth lumbar vertebra|5th lumbar vertebra|fifth lumbar vertebra L5|lumbar_vertebra_5|Vertebra-L5"),
            ("T12", "T12|Th12|TH12|BWK 12|twelfth thoracic vertebra T12|thoracic 12|vertebrae_T12"),
            ("T9", "T9|T09|th9"),
            ("L5/S", "L5/S|L5-S|L5-S1|L5/S1|L5S1|L5_S1|disc L5/S1|disc_L5_S|IVD L5-S1|S1/L5|disk L5 sacrum"),
            ("L5/S", "intervertebral disc between L5 and sacrum|Bandscheibe LWK5/SWK1|L5/S1 disc"),
            ("L4/L5", "L4/L5|L4-5|L4/5|L4L5|IVD_L4_L5|disc L4-L5|Disc L5/L4"),
            ("T12/L1", "T12/L1|T12-L1|Th12/L1|disc T12L1|disc_T12_L1"),
            ("S", "S|s|S1|sacrum|Sacrum|os sacrum|vertebrae_S1|sacral vertebra 1|SACRUM"),
            ("background", "background|Background|BG|Clear Label|spinal canal|spinal_cord|CSF|Vertebra_Endplate"),
        ],
    )
    def test_class_named(self, name, spellings):
        for spelling in spellings.split("|"):
            assert TABLE.class_named(spelling) == TABLE.id_of(name), spelling

    @pytest.mark.parametrize("name", ["T8", "C2", "L6", "T13", "L5/L6", "L6-S1", "T8/T9", "S1/S2", "C7T1", "ignore"])
    def test_class_named_of_none_in_the_table(self, name):
        assert TABLE.class_named(name) == IGNORE

    @pytest.mark.parametrize(
        "name",
        [
            *[
                "",
                "spine",
                "Label 1",
                "Segment_2",
                "L5 nerve root",
                "left L5 pedicle",
                "disc",
                "vertebra",
                "disc L5",
                "L9",
            ],
            *["L2/L4", "vertebrae L4 L5", "L4/7", "tumour", "D5", "12", "facet joint L4/L5", "L1 L2 L3", "XL5", "L55"],
        ],
    )
    def test_class_named_says_nothing(self, name):
        assert TABLE.class_named(name) is None

    def test_class_named_of_every_class(self):
        for c in TABLE.classes:
            assert TABLE.class_named(c.name) == TABLE.class_named(c.long_name) == c.id
            assert not c.code or TABLE.class_named(c.code[2]) == c.id

    def test_channel_def(self):
        assert TABLE.channel_def()["12"] == "L4/L5"
        assert list(TABLE.channel_def()) == [str(i) for i in range(20)]

    @pytest.mark.skipif(not (CONFIG_DIR / "metadata.json").is_file(), reason="the bundle has no metadata yet")
    def test_metadata_agrees(self):
        outputs = json.loads((CONFIG_DIR / "metadata.json").read_text())["network_data_format"]["outputs"]
        assert outputs["pred"]["channel_def"] == TABLE.channel_def()

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([(0, "background", "background"), (2, "S", "sacrum")], "without a gap"),
            ([(0, "S", "sacrum")], "class 0 must be of group 'background'"),
            ([], "class 0 must be of group 'background'"),
            ([(0, "background", "background"), (1, "S", "sacrum"), (2, "S", "sacrum")], "same name"),
            ([(0, "background", "background"), (1, "cord", "nerve")], r"groups \['nerve'\] are not among"),
        ],
    )
    def test_exception(self, rows, message):
        classes = tuple(StructureClass(i, name, name, group, None, (0, 0, 0)) for i, name, group in rows)
        with pytest.raises(ValueError, match=message):
            ClassTable("test", "{class_name}", {"sacrum": "sacrum"}, classes)


class TestLabelMap:
    def test_identity(self):
        assert LabelMap.load(None, TABLE).mapping == {**{i: i for i in range(20)}, IGNORE: IGNORE}

    @pytest.mark.parametrize("name", MAPS)
    def test_every_map(self, name):
        label_map = LabelMap.load(name, TABLE)
        assert label_map.mapping[0] == 0
        targets = [target for target in label_map.mapping.values() if target not in (0, IGNORE)]
        assert len(set(targets)) == len(targets), "two values become one structure"
        # what a data set shows is either labelled or said to be unlabelled
        assert set(targets) | set(label_map.unlabelled_classes) == set(range(1, 20))

    @pytest.mark.parametrize(
        ("name", "value", "target"),
        [
            ("mrspineseg", 1, "S"),
            ("mrspineseg", 10, "T9"),
            ("mrspineseg", 11, "L5/S"),
            ("mrspineseg", 19, "T9/T10"),
            ("spider", 1, "L5"),
            ("spider", 9, "T9"),
            ("spider", 201, "L5/S"),
            ("spider", 209, "T9/T10"),
            ("spider", 100, "background"),
            ("totalspineseg", 50, "S"),
            ("totalspineseg", 45, "L5"),
            ("totalspineseg", 41, "L1"),
            ("totalspineseg", 32, "T12"),
            ("totalspineseg", 29, "T9"),
            ("totalspineseg", 100, "L5/S"),
            ("totalspineseg", 95, "L4/L5"),
            ("totalspineseg", 91, "T12/L1"),
            ("totalspineseg", 80, "T9/T10"),
            ("spineps", 26, "S"),
            ("spineps", 24, "L5"),
            ("spineps", 20, "L1"),
            ("spineps", 19, "T12"),
            ("spineps", 16, "T9"),
            ("spineps", 124, "L5/S"),
            ("spineps", 119, "T12/L1"),
            ("spineps", 116, "T9/T10"),
            ("spineps", 223, "background"),
        ],
    )
    def test_value(self, name, value, target):
        assert TABLE.names[LabelMap.load(name, TABLE).mapping[value]] == target

    @pytest.mark.parametrize(("name", "value"), [("spider", 10), ("spider", 101), ("spider", 210), ("spineps", 28)])
    def test_ignored(self, name, value):
        assert LabelMap.load(name, TABLE).mapping[value] == IGNORE

    def test_unlabelled_classes(self):
        assert LabelMap.load("spider", TABLE).unlabelled_classes == (1,)
        assert LabelMap.load("mrspineseg", TABLE).unlabelled_classes == ()

    def test_file_and_table(self, tmp_path):
        raw = {"map": {"3": "L1", "4": 2, "5": "ignore"}, "unlabelled_classes": ["S", 11]}
        (tmp_path / "own.json").write_text(json.dumps(raw))
        for source in (raw, tmp_path / "own.json", str(tmp_path / "own.json")):
            label_map = LabelMap.load(source, TABLE)
            assert label_map.mapping == {3: 6, 4: 2, 5: IGNORE}
            assert label_map.unlabelled_classes == (1, 11)

    def test_from_names(self):
        names = {0: "background", 1: "L5", 2: "vertebrae_L4", 10: "L5/S", 11: "spinal canal", 12: "T8", 13: "lesion"}
        label_map = LabelMap.from_names("dataset.json", names, TABLE)
        assert label_map.mapping == {0: 0, 1: 2, 2: 3, 10: 11, 11: 0, 12: IGNORE, 13: IGNORE}
        assert label_map.unlabelled_classes == tuple(i for i in range(1, 20) if i not in (2, 3, 11))
        again = LabelMap.load(label_map.to_dict(TABLE), TABLE)
        assert (again.mapping, again.unlabelled_classes) == (label_map.mapping, label_map.unlabelled_classes)
        with pytest.raises(ValueError, match="calls the value 0 'L5', but 0 must be background"):
            LabelMap.from_names("x", {0: "L5"}, TABLE)

    def test_exception(self):
        with pytest.raises(ValueError, match="neither a file nor one of mrspineseg, spider"):
            LabelMap.load("spyder", TABLE)
        with pytest.raises(ValueError, match="has no class 'L9'"):
            LabelMap.load({"map": {"1": "L9"}}, TABLE)
