"""What tools force the bundle to say twice, compared: metadata, changelog, requirements, class table, main configs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver

from scripts.labels import ClassTable

ROOT = Path(__file__).resolve().parents[2]
METADATA = json.loads((ROOT / "configs/metadata.json").read_text(encoding="utf-8"))
FORMAT = METADATA["network_data_format"]


def load(name: str) -> ConfigParser:
    """A config as it is for a bundle without trained weights."""
    path = ROOT / "configs" / f"{name}.yaml"
    if not path.is_file():
        pytest.skip(f"{path.name} does not exist yet")
    parser = ConfigParser(ConfigParser.load_config_files(str(path)))
    parser["bundle_root"] = str(ROOT)
    parser["ckpt_dir"] = str(ROOT / "models" / "not there")
    return parser


def with_constants(parser: ConfigParser, value: Any) -> Any:
    """A part of a config as text, and beside each reference the value that it stands for."""
    if isinstance(value, dict):
        return {key: with_constants(parser, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_constants(parser, inner) for inner in value]
    refs = ReferenceResolver.match_refs_pattern(value) if isinstance(value, str) else {}
    return (value, {ref: parser.get_parsed_content(ref) for ref in refs}) if refs else value


def for_images(transforms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a list of transforms does to the image, written as for a list that knows no other key."""
    kept = []
    for transform in transforms:
        keys = transform["keys"] if isinstance(transform["keys"], list) else [transform["keys"]]
        if "image" in keys:
            one = {name: value for name, value in transform.items() if name != "allow_missing_keys"}
            mode = transform.get("mode")
            kept.append(
                {**one, "keys": "image"} | ({"mode": mode[keys.index("image")]} if isinstance(mode, list) else {})
            )
    return kept


def pinned(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


class TestMetadata:
    def test_copies_are_equal(self) -> None:
        assert (ROOT / "metadata.json").read_bytes() == (ROOT / "configs/metadata.json").read_bytes()

    def test_version_is_in_both_changelogs(self) -> None:
        assert METADATA["version"] in METADATA["changelog"]
        in_file = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert in_file[0] == METADATA["version"]
        assert set(in_file) == set(METADATA["changelog"])

    def test_versions_are_the_pinned_ones(self) -> None:
        own = {f"{key}_version": METADATA[f"{key}_version"] for key in ("monai", "pytorch", "numpy")}
        requirements = pinned("requirements.txt")
        assert own == {
            "monai_version": requirements.pop("monai"),
            "pytorch_version": requirements.pop("torch"),
            "numpy_version": requirements.pop("numpy"),
        }
        assert METADATA["required_packages_version"] == requirements

    def test_classes_are_the_table_s(self) -> None:
        table = ClassTable.load()
        pred = next(iter(FORMAT["outputs"].values()))
        assert pred["channel_def"] == table.channel_def()
        assert pred["num_channels"] == table.num_classes
        assert pred["channel_def"]["0"] == "background"

    def test_first_input_and_output(self) -> None:
        # MONAI Label takes the names of its keys, and the dimension, from the first entries
        assert next(iter(FORMAT["inputs"])) == "image"
        assert next(iter(FORMAT["outputs"])) == "pred"
        assert len(FORMAT["inputs"]["image"]["spatial_shape"]) == 2
        assert FORMAT["inputs"]["image"]["spatial_shape"] == FORMAT["outputs"]["pred"]["spatial_shape"]


class TestMainConfigs:
    def test_same_network(self) -> None:
        train, inference = load("train"), load("inference")
        ours = dict(inference["network_def"])
        assert ours.pop("norm") == "$'batch_statistics' if @norm == 'batch' and @statistics == 'volume' else @norm"
        theirs = dict(train["network_def"])
        assert theirs.pop("norm") == "@norm"
        assert with_constants(train, theirs) == with_constants(inference, ours)

    def test_same_transforms_of_the_image(self) -> None:
        train, inference = load("train"), load("inference")
        *slices, cut = with_constants(train, for_images(train["deterministic_transforms"]))
        *scan, pad = with_constants(inference, for_images(inference["preprocessing"]["transforms"]))
        # inference cuts nothing but empty borders, since the network finds the spine in the plane
        scan.remove({"_target_": "scripts.data.transforms.CropEmptyd", "keys": "image"})
        spacing = next(one for one in scan if one["_target_"].endswith("InPlaneSpacingd"))
        assert spacing.pop("window") == cut["spatial_size"][1]
        assert slices == scan
        assert pad.pop("_target_") == "SpatialPadd"
        assert cut.pop("_target_") == "ResizeWithPadOrCropd"
        assert cut["spatial_size"][1:] == pad["spatial_size"][1:]
        assert pad["spatial_size"][0] == -1
        assert {**cut, "spatial_size": None} == {**pad, "spatial_size": None}

    @pytest.mark.parametrize(
        "key", ["deterministic_transforms", "label_transforms", "image_size", "pixel_mm", "class_table"]
    )
    def test_both_stages_see_the_same_slices(self, key: str) -> None:
        train, pretrain = load("train"), load("pretrain")
        assert with_constants(train, train[key]) == with_constants(pretrain, pretrain[key])

    @pytest.mark.parametrize(
        "key",
        [
            *("augmentation", "slice_cache", "table", "prompt_map", "train#dataset", "train#inferer"),
            *("validate#dataset", "validate#dataloader"),
        ],
    )
    def test_both_stages_have_the_same_parts(self, key: str) -> None:
        assert load("train")[key] == load("pretrain")[key]

    @pytest.mark.parametrize("name", ["train", "inference", "pretrain"])
    def test_class_count(self, name: str) -> None:
        assert load(name).get_parsed_content("num_classes") == ClassTable.load().num_classes

    @pytest.mark.parametrize("name", ["train", "inference", "pretrain"])
    def test_size_is_the_metadata_s(self, name: str) -> None:
        assert load(name).get_parsed_content("image_size") == FORMAT["inputs"]["image"]["spatial_shape"]


class TestEngines:
    """What all engines of the bundle have in common."""

    FILES = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if " amp:" in path.read_text(encoding="utf-8"))

    @pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
    def test_one_policy_of_precision(self, file: Path) -> None:
        """Evaluators take it from `scripts.ops.precision`; trainers in the step, which all of them have."""
        found = 0
        for engine in engines(ConfigParser.load_config_file(str(file))):
            found += 1
            assert engine["amp"] == "@amp"
            if engine["_target_"] == "SupervisedEvaluator":
                assert engine["amp_kwargs"] == {"_target_": "scripts.ops.precision.amp_kwargs", "device": "@device"}
            else:
                assert engine["iteration_update"].endswith("#step")
                assert engine["non_blocking"] is True  # the loader's memory is pinned
        assert found

    def test_rounds_and_prompt_maps(self) -> None:
        parser = load("train")
        assert parser["pseudo_labels"]["amp"] == parser["prompt_maps"]["amp"] == "@amp"


def engines(config: Any) -> list[dict[str, Any]]:
    """All trainers and evaluators below a config."""
    inner = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    own = isinstance(config, dict) and config.get("_target_") in ("SupervisedTrainer", "SupervisedEvaluator")
    return [*([config] if own else []), *(engine for value in inner for engine in engines(value))]
