"""The folder of a MONAI Label app: which network it takes along, and what its training then starts with."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from monai.bundle import ConfigParser

from scripts.label_server import assemble as module
from scripts.weights import write_model_files

SETTINGS = {"image_size": [192, 96], "pixel_mm": 1.55, "channels": [4, 8], "norm": "group", "statistics": "running"}


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shipped network, beside which somebody trained stage 1."""
    folder = tmp_path / "models"
    write_model_files(folder, b"weights", {**SETTINGS, "classes": []})
    (folder / "prompt").mkdir()
    (folder / "prompt/model.pt").write_bytes(b"stage 1")
    monkeypatch.setattr(module, "SHIPPED", folder)
    monkeypatch.setattr(module, "_monai_label_app", lambda target: target.write_text("", encoding="utf-8"))
    return folder


def config(bundle: Path) -> dict[str, object]:
    return dict(yaml.safe_load((bundle / "configs/train.yaml").read_text(encoding="utf-8")))


class TestShippedNetwork:
    def test_is_taken_along(self, shipped: Path, tmp_path: Path) -> None:
        bundle = module.assemble(tmp_path / "app")
        assert sorted(path.name for path in (bundle / "models").iterdir()) == ["model.json", "model.pt"]
        assert (bundle / "models/model.pt").read_bytes() == b"weights"
        assert {key: config(bundle)[key] for key in SETTINGS} == SETTINGS

    def test_later_training_starts_from_it(self, shipped: Path, tmp_path: Path) -> None:
        bundle = module.assemble(tmp_path / "app")
        parser = ConfigParser(ConfigParser.load_config_file(bundle / "configs/train.yaml"))
        parser["bundle_root"] = str(bundle)
        assert parser.get_parsed_content("warm_start") == f"{bundle}/models/model.pt"
        (bundle / "models/model.pt").unlink()
        parser = ConfigParser(parser.config)
        assert parser.get_parsed_content("warm_start") == ""

    def test_a_later_training_stays(self, shipped: Path, tmp_path: Path) -> None:
        bundle = module.assemble(tmp_path / "app")
        write_model_files(bundle / "models", b"mine", {**SETTINGS, "pixel_mm": 2.0})
        module.assemble(tmp_path / "app")
        assert (bundle / "models/model.pt").read_bytes() == b"mine"
        assert config(bundle)["pixel_mm"] == 2.0
        assert (shipped / "model.pt").read_bytes() == b"weights"

    def test_not_beside_overlays(self, shipped: Path, tmp_path: Path) -> None:
        bundle = module.assemble(tmp_path / "app", ["datasets/phantom.yaml"])
        assert not (bundle / "models").exists()
        assert config(bundle)["pixel_mm"] == 3.1

    def test_a_named_one_goes_before(self, shipped: Path, trained: SimpleNamespace, tmp_path: Path) -> None:
        bundle = module.assemble(tmp_path / "app", models=trained.models)
        settings = json.loads((trained.models / "model.json").read_text(encoding="utf-8"))
        assert config(bundle)["channels"] == settings["channels"] == [4, 8, 8]
