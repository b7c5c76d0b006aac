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

    def test_exception(self):
        with pytest.raises(ValueError, match="neither a file nor one of mrspineseg, spider"):
            LabelMap.load("spyder", TABLE)
        with pytest.raises(ValueError, match="has no class 'L9'"):
            LabelMap.load({"map": {"1": "L9"}}, TABLE)
