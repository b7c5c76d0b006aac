"""What MONAI's command line, the Model Zoo and MONAI Label read from the bundle, checked with their own functions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, verify_metadata, verify_net_in_out

from tests.overlays import methods_on

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
SCHEMA = ROOT / "tests/schema/meta_schema_20240725.json"
SCHEMA_SHA256 = "cd64aa8a5904426f6fc6855dabe46af8c742d5bad644b4e9cfb78ebad09ad678"
TRAINING = [[], *[[path] for path in methods_on("train")]]
PRETRAINING = [[], *[[path] for path in methods_on("pretrain")]]


def existing(name: str) -> Path:
    path = CONFIGS / f"{name}.yaml"
    if not path.is_file():
        pytest.skip(f"{path.name} does not exist yet")
    return path


def raw(name: str) -> dict[str, Any]:
    return ConfigParser.load_config_files(str(existing(name)))


def has(config: dict[str, Any], key: str) -> bool:
    """Whether the id stands in the file itself, each part of it as a key."""
    for part in key.split("#"):
        if not isinstance(config, dict) or part not in config:
            return False
        config = config[part]
    return True


def workflow(files: list[Path], kind: str, output_dir: Path) -> ConfigWorkflow:
    made = ConfigWorkflow(
        config_file=[str(path) for path in files],
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(ROOT),
        output_dir=str(output_dir),
        device="$torch.device('cpu')",
    )
    made.initialize()
    return made


class TestProperties:
    """The whole graph builds without data, downloads or a prompt model, and has what the specification requires."""

    @pytest.mark.parametrize("overlays", TRAINING, ids=lambda files: files[0].stem if files else "train")
    def test_training(self, overlays: list[Path], tmp_path: Path) -> None:
        assert workflow([existing("train"), *overlays], "train", tmp_path).check_properties() == []

    @pytest.mark.parametrize("overlays", PRETRAINING, ids=lambda files: files[0].stem if files else "pretrain")
    def test_pretraining(self, overlays: list[Path], tmp_path: Path) -> None:
        # pretrain.yaml's own encoders come from a hub; the overlay builds its encoders from their settings
        files = [existing("pretrain"), existing("offline_encoders"), *overlays]
        assert workflow(files, "train", tmp_path).check_properties() == []

    def test_inference(self, tmp_path: Path) -> None:
        assert workflow([existing("inference")], "infer", tmp_path).check_properties() == []

    def test_evaluation(self, tmp_path: Path) -> None:
        files = [existing("inference"), existing("evaluate")]
        assert workflow(files, "infer", tmp_path).check_properties() == []


class TestMonaiLabel:
    """MONAI Label reads one file without metadata and reaches into its text, so these ids have to be literal."""

    @pytest.mark.parametrize(
        "key",
        ["bundle_root", "device", "network_def", "preprocessing", "inferer", "postprocessing", "dataset", "evaluator"],
    )
    def test_inference_ids(self, key: str) -> None:
        assert has(raw("inference"), key)

    @pytest.mark.parametrize(
        "key",
        [
            *("bundle_root", "device", "dataset_dir", "output_dir", "network_def", "network", "val_interval"),
            *("train#dataset#data", "train#trainer#max_epochs", "train#handlers", "train#inferer"),
            *("validate#dataset#data", "validate#evaluator", "validate#handlers"),
        ],
    )
    def test_training_ids(self, key: str) -> None:
        assert has(raw("train"), key)

    @pytest.mark.parametrize(
        ("name", "run_id"), [("train", "training"), ("pretrain", "pretraining"), ("inference", "inference")]
    )
    def test_run_ids(self, name: str, run_id: str) -> None:
        # documents name the long one; MONAI Label and the Zoo's tests call `run`
        config = raw(name)
        assert isinstance(config[run_id], list)
        assert "run" in config

    def test_handlers_are_a_list_of_components(self) -> None:
        handlers = raw("train")["train"]["handlers"]
        assert isinstance(handlers, list)
        assert [handler for handler in handlers if "_target_" not in handler] == []

    @pytest.mark.parametrize("name", ["train", "inference"])
    def test_no_reference_to_metadata(self, name: str) -> None:
        assert "_meta_" not in json.dumps(raw(name))

    @pytest.mark.parametrize("name", ["train", "pretrain", "inference"])
    def test_scripts_stay_out_of_imports_and_initialize(self, name: str) -> None:
        # the bundle's folder is put on the path after both have run
        config = raw(name)
        assert "scripts" not in json.dumps([config.get("imports"), config.get("initialize")])

    def test_no_plain_spacing_at_inference(self) -> None:
        # MONAI 1.6's Spacingd updates every key that starts with `image_`; MONAI Label puts a string into image_path
        targets = [
            item.get("_target_") for item in raw("inference")["preprocessing"]["transforms"] if isinstance(item, dict)
        ]
        assert "Spacingd" not in targets

    @pytest.mark.parametrize("name", ["train", "pretrain", "inference"])
    @pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
    def test_device_may_be_a_word(self, name: str, device: str | torch.device) -> None:
        # MONAI Label gives its name, the configs an object
        parser = ConfigParser(raw(name))
        parser["device"] = device
        assert parser.get_parsed_content("amp") is False

    def test_network_takes_dropout(self) -> None:
        # scoring by dropout writes this key into the file
        parser = ConfigParser(raw("inference"))
        parser["network_def"]["dropout"] = 0.2
        network = parser.get_parsed_content("network_def")
        assert any(
            isinstance(layer, torch.nn.Dropout | torch.nn.Dropout2d) and layer.p == 0.2 for layer in network.modules()
        )


class TestCheckpoints:
    @pytest.mark.parametrize("name", ["train", "pretrain"])
    def test_writers_run_on_every_rank(self, name: str) -> None:
        # saving takes part in collectives: a writer that is missing on one rank hangs the others
        config = raw(name)
        handlers = [*config["train"]["handlers"], *config.get("validate", {}).get("handlers", [])]
        writers = [
            h for h in handlers if isinstance(h, dict) and re.search("Saver|Checkpoint|ModelFile", h["_target_"])
        ]
        assert writers, "no handler writes a checkpoint"
        assert [writer for writer in writers if "rank" in str(writer.get("_disabled_"))] == []


class TestZoo:
    def test_metadata_follows_the_schema(self) -> None:
        # the schema's file is there, so nothing is downloaded; the hash says that it is the published one
        meta_file = str(CONFIGS / "metadata.json")
        verify_metadata(meta_file=meta_file, filepath=str(SCHEMA), hash_val=SCHEMA_SHA256, hash_type="sha256")

    def test_schema_is_the_named_one(self) -> None:
        assert json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))["schema"].endswith(f"/{SCHEMA.name}")

    @pytest.mark.parametrize("name", ["train", "inference"])
    def test_network_input_and_output(self, name: str) -> None:
        verify_net_in_out(
            net_id="network_def",
            meta_file=str(CONFIGS / "metadata.json"),
            config_file=str(existing(name)),
            device="cpu",
        )

    def test_network_scripts(self) -> None:
        network = ConfigParser(raw("inference")).get_parsed_content("network_def").eval()
        image = torch.rand(1, 1, 45, 37)
        with torch.no_grad():
            assert torch.equal(torch.jit.script(network)(image), network(image))

    def test_licence_and_size_of_files(self) -> None:
        assert (ROOT / "LICENSE").read_text(encoding="utf-8").lstrip().startswith("Apache License")
        folders = [ROOT / name for name in ("configs", "scripts", "docs", "tests")]
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        assert [path.name for path in files if path.stat().st_size > 25 * 2**20] == []
