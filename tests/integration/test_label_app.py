"""The folder of a MONAI Label app: which network it takes along, and what its training then starts with."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from monai.bundle import ConfigParser

from scripts.__main__ import main
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


class TestMadeAnew:
    """A container makes the folder at every start."""

    def test_what_was_trained_stays_beside_a_named_network(
        self, shipped: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        bundle = module.assemble(tmp_path / "app", models=shipped)
        module.assemble(tmp_path / "app", models=shipped)
        assert "stays" not in caplog.text
        write_model_files(bundle / "models", b"mine", {**SETTINGS, "pixel_mm": 2.0})
        module.assemble(tmp_path / "app", models=shipped)
        assert (bundle / "models/model.pt").read_bytes() == b"mine"
        assert f"delete {bundle / 'models/model.pt'} to take that of {shipped}" in caplog.text

    def test_keys_of_one_s_own_stay_and_go_last(self, shipped: Path, tmp_path: Path) -> None:
        (tmp_path / "app").mkdir()
        (tmp_path / "app/settings.yaml").write_text("unlabelled_dir: /scans\npixel_mm: 3.0\n")
        for _ in range(2):
            bundle = module.assemble(tmp_path / "app")
            assert (config(bundle)["unlabelled_dir"], config(bundle)["pixel_mm"]) == ("/scans", 3.0)


class TestStart:
    """`--start` becomes the server that is printed else."""

    def call(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *options: str) -> tuple[list[str], dict[str, str]]:
        called: list[tuple[list[str], dict[str, str]]] = []

        def become(file: str, line: list[str], environment: dict[str, str]) -> None:
            assert file == line[0]
            called.append((line, environment))
            raise SystemExit(0)

        monkeypatch.setattr(module.os, "execve", become)
        with pytest.raises(SystemExit):
            main(["label_app", str(tmp_path / "app"), "--start", *options])
        return called[0]

    def test_the_same_line_as_printed(
        self, shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in module.ARCHIVE:
            monkeypatch.delenv(name, raising=False)
        options = ["--studies", "http://archive:8042/dicom-web", "--port", "8001"]
        assert main(["label_app", str(tmp_path / "app"), *options]) == 0
        words = shlex.split(capsys.readouterr().out.splitlines()[-1])
        line, environment = self.call(monkeypatch, tmp_path, *options)
        assert line == words[2:]
        assert all(environment[name] == value for name, _, value in (word.partition("=") for word in words[:2]))
        assert json.loads(environment["MONAI_LABEL_DICOMWEB_SEARCH_FILTER"]) == {"Modality": "MR"}
        assert line[line.index("--host") + 1] == "127.0.0.1"

    def test_another_address_and_a_filter_of_one_s_own(
        self, shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MONAI_LABEL_DICOMWEB_SEARCH_FILTER", "mine")
        line, environment = self.call(monkeypatch, tmp_path, "--studies", "https://pacs", "--host", "0.0.0.0")
        assert line[line.index("--host") + 1] == "0.0.0.0"
        assert environment["MONAI_LABEL_DICOMWEB_SEARCH_FILTER"] == "mine"
        line, _ = self.call(monkeypatch, tmp_path, "--studies", str(tmp_path / "scans"))
        assert line[line.index("--studies") + 1] == str(tmp_path / "scans")

    def test_settings_of_the_app(self, shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        line, _ = self.call(monkeypatch, tmp_path, "--conf", "stage1", "a.yaml,b.yaml", "--conf", "x", "y")
        assert line[-6:] == ["--conf", "stage1", "a.yaml,b.yaml", "--conf", "x", "y"]
