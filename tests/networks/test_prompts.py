import json

import pytest

from scripts.labels import ClassTable
from scripts.networks.prompts import Caption, class_prompts


@pytest.fixture
def table() -> ClassTable:
    return ClassTable.load()


class TestClassPrompts:
    def test_long(self, table):
        prompts = class_prompts(table)
        assert len(prompts) == table.num_classes
        assert prompts[0] == "A magnetic resonance image of the background"
        assert prompts[table.id_of("S")] == "A magnetic resonance image of a sacrum"
        assert prompts[table.id_of("L5")] == "A magnetic resonance image of a fifth lumbar vertebra L5"
        disc = "A magnetic resonance image of an intervertebral disc between L4 and L5"
        assert prompts[table.id_of("L4/L5")] == disc

    def test_short(self, table):
        prompts = class_prompts(table, "short")
        assert prompts[table.id_of("L4/L5")] == "A magnetic resonance image of an L4/L5"
        assert prompts[table.id_of("T12")] == "A magnetic resonance image of a T12"

    @pytest.mark.parametrize("wording", ["long", "short"])
    def test_all_differ(self, table, wording):
        assert len(set(class_prompts(table, wording))) == table.num_classes

    def test_file(self, table, tmp_path):
        file = tmp_path / "wording.json"
        file.write_text(json.dumps({"L5": "lowest vertebra"}))
        prompts = class_prompts(table, file)
        assert prompts[table.id_of("L5")] == "A magnetic resonance image of a lowest vertebra"
        assert prompts[table.id_of("L4")] == class_prompts(table)[table.id_of("L4")]

    def test_exception(self, table, tmp_path):
        with pytest.raises(ValueError, match="neither 'long' nor 'short' nor a JSON file"):
            class_prompts(table, "nowhere.json")
        file = tmp_path / "wording.json"
        file.write_text(json.dumps({"C9": "ninth cervical vertebra"}))
        with pytest.raises(ValueError, match="no class 'C9'"):
            class_prompts(table, file)
        file.write_text(json.dumps({"L5": "vertebra", "L4": "vertebra"}))
        with pytest.raises(ValueError, match="two classes have the same prompt"):
            class_prompts(table, str(file))


class TestCaption:
    def test_long(self, table):
        sentence = "A magnetic resonance image of a sacrum, intervertebral disc between L5 and sacrum"
        assert Caption(table)([11, 0, 1]) == sentence
        assert Caption(table)([0]) == Caption(table)([]) == "A magnetic resonance image of the background"

    def test_short(self, table):
        assert Caption(table, "short")([2, 3]) == "A magnetic resonance image of an L5, L4"
