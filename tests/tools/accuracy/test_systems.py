from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.tools.accuracy.systems import (
    CONFIGS,
    System,
    bases,
    chosen,
    header,
    one_key_ablations,
    pairs,
    systems,
    variant,
)

OVERLAY = "# overlay on: {}\n# {}\nkey: 1\n{}"


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """Files of all kinds: who trains what follows from their headers alone."""
    files = {
        "methods/supervised": OVERLAY.format("train", "words", "prompt_maps: null\n"),
        "methods/cps4_literal": OVERLAY.format(
            "train", "equal weights: a#b=0.5, c=0.25\n# stage 1: literal.yaml", "prompt_map#gate: 0.0\n"
        ),
        "literal": OVERLAY.format("pretrain", "words", ""),
        "originals/supervised": OVERLAY.format("train + methods/supervised", "words", "loss_weights#b: 0.5\n"),
        "originals/contrast": OVERLAY.format("pretrain + methods/contrast", "words", ""),
        "methods/contrast": OVERLAY.format("pretrain", "words", ""),
        "methods/both": OVERLAY.format("train, pretrain", "words", ""),
        "ablations/one_loss": OVERLAY.format("pretrain", "words", ""),
        "ablations/live": OVERLAY.format("train", "words", ""),
        "ablations/between": OVERLAY.format("pretrain + encoders", "words", ""),
        "ablations/again": OVERLAY.format("pretrain", "follows: cps4 as of_run", ""),
    }
    for name, text in files.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    rows = {
        "one_key": {"base": "train", "key": "a#b", "value": 0},
        "one_key_of_stage_1": {"base": "pretrain + encoders", "key": "c", "value": "$None"},
    }
    (tmp_path / "ablations.json").write_text(json.dumps(rows), encoding="utf-8")
    return tmp_path


class TestSystems:
    def test_value(self, configs: Path) -> None:
        found = systems(configs)
        equal = {"a#b": "0.5", "c": "0.25"}
        literal, supervised = "methods/cps4_literal.yaml", ("methods/supervised.yaml",)
        assert found == {
            "cps4": System("cps4"),
            "supervised": System("supervised", supervised, stage1_of=None),
            "full": System("full", supervised, stage1_of=None, all_labelled=True),
            "cps4_literal": System("cps4_literal", (literal,), equal, "cps4_literal", ("literal.yaml",)),
            "contrast": System("contrast", (literal,), equal, "contrast", ("methods/contrast.yaml",)),
            "both": System("both", ("methods/both.yaml",), {}, "both", ("methods/both.yaml",)),
            "one_loss": System("one_loss", (), {}, "one_loss", ("ablations/one_loss.yaml",)),
            "live": System("live", ("ablations/live.yaml",)),
            "between": System("between", (), {}, "between", ("ablations/between.yaml",)),
            "again": System("again", (), {}, "again", ("ablations/again.yaml",), follows=("cps4", "of_run")),
            "supervised_original": System("supervised_original", supervised, {"loss_weights#b": 0.5}, stage1_of=None),
            "one_key": System("one_key", overrides={"a#b": 0}),
            "one_key_of_stage_1": System(
                "one_key_of_stage_1", stage1_of="one_key_of_stage_1", stage1_overrides={"c": "$None"}
            ),
        }

    def test_every_file_and_every_row_of_the_table_is_a_system(self) -> None:
        files = {path.stem for folder in ("methods", "ablations") for path in (CONFIGS / folder).glob("*.yaml")}
        originals = {f"{name}_original" for name in ("bcp", "graphcl", "mc_net", "ss_net", "ucmt")}
        assert set(systems()) == files | set(one_key_ablations()) | originals | {"cps4", "full"}

    def test_of_the_bundle(self) -> None:
        found = systems()
        assert found["mean_teacher"].stage1_of is None
        assert found["cps4_literal"].stage1 == ("literal_pretraining.yaml",)
        assert (found["clip"].stage1, found["clip"].stage1_of) == (("methods/clip.yaml",), "clip")
        assert found["cps4_literal"].overrides == {"loss_weights#prompt": "0.5", "loss_weights#enhanced": "0.5"}
        assert (found["token"].stage1_of, found["token"].stage2) == ("token", ())
        assert found["token"].stage1_overrides == {"loss_weights#pixel": 0.0}
        assert (found["live_maps"].stage1_of, found["live_maps"].stage2) == ("", ())
        assert found["live_maps"].overrides == {"attention_source": "$@prompt_maps.compute_online"}
        assert found["mc_net_original"].stage2 == ("methods/mc_net.yaml",)
        assert found["mc_net_original"].overrides == {"loss_weights#supervised": 1.5, "loss_weights#consistency": 0.6}
        assert found["measured_weight"].stage2 == ("ablations/measured_weight.yaml",)

    def test_exception(self, configs: Path) -> None:
        (configs / "ablations/both.yaml").write_text("# overlay on: train\n", encoding="utf-8")
        with pytest.raises(ValueError, match="both cannot be the name of a method or ablation: it is taken"):
            systems(configs)
        (configs / "ablations/both.yaml").write_text("key: 1\n", encoding="utf-8")
        with pytest.raises(ValueError, match="the header must say what it lies on"):
            systems(configs)


class TestVariant:
    def test_overrides(self, configs: Path) -> None:
        known = systems(configs)
        assert variant(["gate", "prompt_map#gate=0.1"], known) == System("gate", overrides={"prompt_map#gate": "0.1"})
        made = variant(["b", "cps4_literal", "c=1", "stage1:wording=short"], known)
        assert made.overrides == {"a#b": "0.5", "c": "1"}
        assert (made.stage1_of, made.stage1_overrides) == ("b", {"wording": "short"})

    def test_stage1_of_the_changed_row_is_shared(self, configs: Path) -> None:
        assert variant(["b", "contrast", "x=1"], systems(configs)).stage1_of == "contrast"

    def test_files(self, tmp_path: Path) -> None:
        own = tmp_path / "own.yaml"
        own.write_text("# overlay on: pretrain\n", encoding="utf-8")
        made = variant(["b", "ablations/measured_weight.yaml", str(own)], systems())
        assert made == System("b", ("ablations/measured_weight.yaml",), {}, "b", (str(own),))

    def test_exception(self, configs: Path) -> None:
        with pytest.raises(ValueError, match="there is a row live already"):
            variant(["live", "a=1"], systems(configs))
        with pytest.raises(ValueError, match="nowhere is neither a known row, nor a config file, nor KEY=VALUE"):
            variant(["b", "nowhere"], systems(configs))
        with pytest.raises(ValueError, match=r"there is no config file .*nowhere.yaml"):
            variant(["b", "nowhere.yaml"], systems(configs))


class TestChosen:
    def test_aliases_and_repetitions(self) -> None:
        names = [row.name for row in chosen(["all", "token", "cps4", "baseline"], systems())]
        assert names == ["cps4", "token", "mean_teacher"]

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match="there is no method or ablation nobody; there are cps4"):
            chosen(["nobody"], systems())


class TestHeader:
    def test_value(self, tmp_path: Path) -> None:
        path = tmp_path / "x.yaml"
        path.write_text("# x, overlay on: train, pretrain\n# words: a.\n# none\nk: 1\n# late: b\n", encoding="utf-8")
        assert header(path, "overlay on") == bases(path) == ["train", "pretrain"]
        assert header(path, "words") == ["a"]
        assert header(path, "late") == []


class TestPairs:
    def test_exception(self) -> None:
        assert pairs(["a=b=c"]) == {"a": "b=c"}
        with pytest.raises(ValueError, match="an override is KEY=VALUE, got word"):
            pairs(["a=1", "word"])
