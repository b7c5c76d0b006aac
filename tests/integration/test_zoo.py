"""What MONAI's Model Zoo verifies of a bundle, on the folder that `python -m scripts zoo` makes for trained weights."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ckpt_export, download_large_files, verify_metadata, verify_net_in_out

from scripts.tools.zoo import NAME, assemble, checked

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "tests/schema/meta_schema_20240725.json"
LIMIT = 25 * 2**20
SECTIONS = (
    *("Model Overview", "Data", "Preprocessing", "Training configuration", "Memory Consumption Warning", "Input"),
    *("Output", "Performance", "Training Loss", "Validation Dice", "MONAI Bundle Commands"),
    *("Execute training, stage 1, then stage 2:", "Override the `train` config to execute multi-GPU training:"),
    *("Export checkpoint to TensorRT based models with fp32 or fp16 precision:", "System Configuration"),
    *("Limitations", "References", "License"),
)
"""In the order of the Zoo's brats_mri_segmentation, whose headings these are."""
MOST_FILES = 165
INFERENCE_IDS = ("bundle_root", "device", "network_def", "inferer", "output_dir")
TRAINING_IDS = (
    *("bundle_root", "device", "dataset_dir", "output_dir", "val_interval"),
    *("train#trainer", "train#trainer#max_epochs", "train#dataset", "train#dataset#data", "train#handlers"),
    *("train#inferer", "validate#evaluator", "validate#handlers", "validate#dataset", "validate#dataset#data"),
    *("validate#inferer", "validate#postprocessing", "validate#key_metric"),
)
FORMATTERS = {
    "black": ["--check", "--line-length", "120", "--skip-magic-trailing-comma"],
    "isort": ["--check", "--profile", "black", "--line-length", "120"],
    "flake8": ["--max-line-length", "120", "--select", "C,E,F,W", "--ignore", "E203,E501,E741,W503,W504,C408"],
}
"""The Zoo's code checks with the settings of its setup.cfg; its plug-ins of flake8 are rules of ruff here."""


@pytest.fixture(scope="module")
def zoo(trained: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The assembled folder, without weights."""
    folder = tmp_path_factory.mktemp("zoo") / NAME
    weights = trained.models / "model.pt"
    metrics = trained.models.parent / "run/metrics.csv"
    assemble(weights, weights.as_uri(), folder, "They were trained on drawn phantoms.", metrics)
    return folder


@pytest.fixture(scope="module")
def fetched(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the folder with the weights fetched, as the Zoo's tests make it."""
    folder = tmp_path_factory.mktemp("fetched") / NAME
    shutil.copytree(zoo, folder)
    download_large_files(bundle_path=str(folder))
    return folder


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def metadata(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "configs/metadata.json").read_text(encoding="utf-8"))


def config(folder: Path, name: str) -> ConfigParser:
    return ConfigParser(ConfigParser.load_config_files(str(folder / f"configs/{name}.yaml")))


class TestFiles:
    @pytest.mark.parametrize(
        "name",
        [
            *("LICENSE", "large_files.yml", "configs/metadata.json", "configs/inference.yaml", "configs/train.yaml"),
            *("configs/logging.conf", "docs/README.md", "docs/data_license.txt", "scripts/__main__.py"),
            *("configs/evaluate.yaml", "configs/multi_gpu_train.yaml", "configs/label_maps/spider.json"),
        ],
    )
    def test_needed_file(self, zoo: Path, name: str) -> None:
        assert (zoo / name).stat().st_size > 0

    def test_no_more_than_runs(self, zoo: Path) -> None:
        assert [room for room in ("label_server", "phantom", "tools") if (zoo / "scripts" / room).exists()] == []
        assert sum(path.stat().st_size for path in files(zoo)) < 2 * 2**20
        assert len(files(zoo)) <= MOST_FILES

    def test_code_is_the_project_s_own(self, zoo: Path) -> None:
        code = [path.relative_to(zoo) for path in files(zoo / "scripts")]
        assert [path for path in code if (zoo / path).read_bytes() != (ROOT / path).read_bytes()] == []

    def test_every_file_is_small(self, zoo: Path) -> None:
        assert [path.name for path in files(zoo) if path.stat().st_size > LIMIT] == []

    def test_names(self, zoo: Path) -> None:
        names = [path.relative_to(zoo).as_posix() for path in files(zoo)]
        assert [name for name in names if not re.fullmatch(r"[A-Za-z0-9_/.-]+", name)] == []
        assert [name for name in names if "__pycache__" in name or "/." in f"/{name}"] == []

    def test_weights_are_elsewhere(self, zoo: Path) -> None:
        assert [path.name for path in files(zoo) if path.suffix in (".pt", ".ts", ".onnx", ".pth")] == []
        assert [path.name for path in (zoo / "models").iterdir()] == ["model.json"]

    def test_no_weights_but_the_shipped_are_tracked(self) -> None:
        if not (ROOT / ".git").exists():
            pytest.skip("not a checkout of git")
        line = ["git", "ls-files", "*.pt", "*.ts", "*.onnx", "*.pth", "models", "zoo"]
        assert subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout == (
            "models/model.bin\nmodels/model.json\nmodels/model.pt\nmodels/model.xml\n"
        )

    def test_no_personal_paths(self, zoo: Path) -> None:
        personal = re.compile(r"(?<![\w.])/(home|Users|root|tmp|mnt)/\w")
        texts = {
            path: path.read_text(encoding="utf-8", errors="ignore")
            for path in files(zoo)
            if path.name != "large_files.yml"
        }
        assert [path.name for path, text in texts.items() if path.suffix != ".png" and personal.search(text)] == []


class TestName:
    def test_value(self) -> None:
        # organ, modality, task; the last word tells MONAI Label the task, and _vX would be read as a version
        assert re.fullmatch(r"[a-z0-9_]+_segmentation", NAME)
        assert "_v" not in NAME


class TestMetadata:
    def test_schema(self, zoo: Path) -> None:
        # the schema's file is there, so nothing is downloaded
        kept = {"hash_val": hashlib.sha256(SCHEMA.read_bytes()).hexdigest(), "hash_type": "sha256"}
        verify_metadata(meta_file=str(zoo / "configs/metadata.json"), filepath=str(SCHEMA), **kept)
        assert metadata(zoo)["schema"].endswith(SCHEMA.name)

    def test_version_is_in_the_changelog(self, zoo: Path) -> None:
        assert re.fullmatch(r"\d+\.\d+\.\d+", metadata(zoo)["version"])
        assert metadata(zoo)["changelog"][metadata(zoo)["version"]]

    def test_versions_can_be_pinned(self, zoo: Path) -> None:
        given = metadata(zoo)
        versions = {**given["required_packages_version"], **{k: v for k, v in given.items() if k.endswith("_version")}}
        versions.pop("required_packages_version")
        assert [name for name, version in versions.items() if not re.fullmatch(r"\d+(\.\d+)+", version)] == []
        assert "optional_packages_version" not in given

    def test_display_name_and_apps(self, zoo: Path) -> None:
        assert metadata(zoo)["name"].strip()
        assert isinstance(metadata(zoo)["supported_apps"], dict)

    def test_sizes_are_the_weights_own(self, zoo: Path) -> None:
        trained_for = json.loads((zoo / "models/model.json").read_text(encoding="utf-8"))["image_size"]
        given = metadata(zoo)["network_data_format"]
        assert given["inputs"]["image"]["spatial_shape"] == given["outputs"]["pred"]["spatial_shape"] == trained_for
        shipped = json.loads((ROOT / "configs/metadata.json").read_text(encoding="utf-8"))
        assert shipped["network_data_format"]["inputs"]["image"]["spatial_shape"] != trained_for


class TestScores:
    def test_of_other_weights_are_not_ours(self, zoo: Path) -> None:
        assert metadata(zoo)["eval_metrics"] == {}
        assert "were not evaluated" in (zoo / "docs/README.md").read_text(encoding="utf-8")

    def test_of_the_shipped_weights(self, tmp_path: Path) -> None:
        assemble(ROOT / "models/model.pt", "https://host/model.pt", tmp_path / NAME)
        scores = json.loads((ROOT / "configs/metadata.json").read_text(encoding="utf-8"))["eval_metrics"]
        text = (tmp_path / NAME / "docs/README.md").read_text(encoding="utf-8")
        assert metadata(tmp_path / NAME)["eval_metrics"] == scores
        assert f"- Mean Dice: {scores['mean_dice']}" in text
        assert "SPIDER-SPACE" in text[text.index("**Weights**") : text.index("## Data")]
        assert (tmp_path / NAME / "docs/validation_dice.png").is_file()


class TestLargeFiles:
    def test_form(self, zoo: Path, trained: SimpleNamespace) -> None:
        (entry,) = yaml.safe_load((zoo / "large_files.yml").read_text(encoding="utf-8"))["large_files"]
        weights = trained.models / "model.pt"
        assert entry == {
            "path": "models/model.pt",
            "url": weights.as_uri(),
            "hash_val": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "hash_type": "sha256",
        }

    def test_fetched_by_monai(self, fetched: Path, trained: SimpleNamespace) -> None:
        assert (fetched / "models/model.pt").read_bytes() == (trained.models / "model.pt").read_bytes()

    def test_another_file_is_refused(self, trained: SimpleNamespace, tmp_path: Path) -> None:
        for name in ("model.pt", "model.json"):
            shutil.copyfile(trained.models / name, tmp_path / name)
        folder = tmp_path / NAME
        assemble(tmp_path / "model.pt", (tmp_path / "model.pt").as_uri(), folder)
        (tmp_path / "model.pt").write_bytes(b"other weights")
        with pytest.raises(Exception, match="check"):
            download_large_files(bundle_path=str(folder))


class TestConfigs:
    @pytest.mark.parametrize("key", INFERENCE_IDS)
    def test_inference_ids(self, zoo: Path, key: str) -> None:
        assert key in config(zoo, "inference")

    @pytest.mark.parametrize("key", TRAINING_IDS)
    @pytest.mark.parametrize("name", ["train", "pretrain"])
    def test_training_ids(self, zoo: Path, name: str, key: str) -> None:
        assert key in config(zoo, name)

    @pytest.mark.parametrize("name", ["train", "pretrain"])
    def test_val_interval_is_used(self, zoo: Path, name: str) -> None:
        handlers = [h for h in config(zoo, name)["train#handlers"] if h["_target_"] == "ValidationHandler"]
        assert [handler["interval"] for handler in handlers] == ["@val_interval"]

    @pytest.mark.parametrize("name", ["train", "pretrain", "inference"])
    def test_bundle_root_is_nobody_s(self, zoo: Path, name: str) -> None:
        assert config(zoo, name)["bundle_root"] == "."


class TestDocuments:
    def test_readme_sections(self, zoo: Path) -> None:
        text = (zoo / "docs/README.md").read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
        assert [heading for heading in headings if heading in SECTIONS] == list(SECTIONS)
        assert "{{" not in text
        assert "{%" not in text

    def test_curves_are_the_run_s(self, zoo: Path) -> None:
        for name in ("training_loss.png", "validation_dice.png"):
            assert (zoo / "docs" / name).read_bytes().startswith(b"\x89PNG")
            assert f"]({name})" in (zoo / "docs/README.md").read_text(encoding="utf-8")

    def test_no_curves_without_metrics(self, trained: SimpleNamespace, tmp_path: Path) -> None:
        for name in ("model.pt", "model.json"):
            (tmp_path / "alone").mkdir(exist_ok=True)
            shutil.copyfile(trained.models / name, tmp_path / "alone" / name)
        assemble(tmp_path / "alone/model.pt", "https://host/model.pt", tmp_path / NAME)
        text = (tmp_path / NAME / "docs/README.md").read_text(encoding="utf-8")
        assert "Training Loss" not in text
        assert list((tmp_path / NAME / "docs").glob("*.png")) == []

    @pytest.mark.parametrize("word", ["**Authors**", "**Tags**", "TorchScript", "TensorRT", "Not run here"])
    def test_readme_says(self, zoo: Path, word: str) -> None:
        assert word in (zoo / "docs/README.md").read_text(encoding="utf-8")

    def test_licences(self, zoo: Path) -> None:
        assert (zoo / "LICENSE").read_text(encoding="utf-8").lstrip().startswith("Apache License")
        data = (zoo / "docs/data_license.txt").read_text(encoding="utf-8")
        assert "no weights" not in data
        assert "They were trained on drawn phantoms." in data
        assert "They were trained on drawn phantoms." in (zoo / "docs/README.md").read_text(encoding="utf-8")

    def test_links_lead_somewhere(self, zoo: Path) -> None:
        broken = [
            f"{page.name}: {link}"
            for page in (zoo / "docs").rglob("*.md")
            for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
            if "://" not in link and not (page.parent / link).exists()
        ]
        assert broken == []

    def test_commands_name_files_of_the_bundle(self, zoo: Path) -> None:
        text = (zoo / "docs/README.md").read_text(encoding="utf-8")
        named = set(re.findall(r"configs/[\w/]+\.(?:yaml|json)", text))
        assert "configs/train.yaml" in named
        assert [name for name in named if not (zoo / name).is_file()] == []


class TestFormat:
    def test_ruff(self, zoo: Path) -> None:
        settings = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
        for line in (["check", *settings], ["format", "--check", *settings]):
            done = subprocess.run([sys.executable, "-m", "ruff", *line, str(zoo)], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout

    @pytest.mark.slow
    @pytest.mark.parametrize("tool", FORMATTERS)
    def test_the_zoo_s_own_tools(self, zoo: Path, tool: str) -> None:
        if find_spec(tool) is None:
            pytest.skip(f"{tool} is not installed (requirements-zoo.txt)")
        line = [sys.executable, "-m", tool, *FORMATTERS[tool], str(zoo / "scripts")]
        done = subprocess.run(line, capture_output=True, text=True, cwd=zoo)
        assert done.returncode == 0, done.stdout + done.stderr


class TestWeights:
    def test_network_input_and_output(self, fetched: Path) -> None:
        verify_net_in_out(
            net_id="network_def",
            meta_file=str(fetched / "configs/metadata.json"),
            config_file=str(fetched / "configs/inference.yaml"),
            device="cpu",
            bundle_root=str(fetched),
        )

    def test_torchscript(self, fetched: Path, tmp_path: Path) -> None:
        ckpt_export(
            net_id="network_def",
            filepath=str(tmp_path / "model.ts"),
            ckpt_file=str(fetched / "models/model.pt"),
            meta_file=str(fetched / "configs/metadata.json"),
            config_file=str(fetched / "configs/inference.yaml"),
            bundle_root=str(fetched),
        )
        exported = torch.jit.load(tmp_path / "model.ts")
        assert exported(torch.zeros(1, 1, 32, 16)).shape == (1, 20, 32, 16)

    @pytest.mark.slow
    def test_inference_from_the_folder(self, fetched: Path, datalist: Path, tmp_path: Path) -> None:
        # a process of its own: nothing of this checkout may be imported
        line = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "inference"]
        line += ["--config_file", "configs/inference.yaml", "--output_dir", str(tmp_path)]
        line += ["--input_dir", str(datalist.parent / "images/phantom_0002.nii.gz")]
        done = subprocess.run(line, cwd=fetched, capture_output=True, text=True)
        assert (tmp_path / "phantom_0002_seg.nii.gz").is_file(), done.stderr[-2000:]


class TestRefusals:
    def test_no_weights(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="there are no weights"):
            checked(tmp_path / "model.pt")

    def test_no_settings(self, trained: SimpleNamespace, tmp_path: Path) -> None:
        shutil.copyfile(trained.models / "model.pt", tmp_path / "model.pt")
        with pytest.raises(ValueError, match=r"no model\.json beside it"):
            checked(tmp_path / "model.pt")

    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            (lambda path: path.write_bytes(b"nothing"), "is damaged or holds more than weights"),
            (lambda path: torch.save({"student": torch.load(path, weights_only=True)}, path), "of another network"),
        ],
        ids=["damaged", "nested"],
    )
    def test_other_weights(
        self, trained: SimpleNamespace, tmp_path: Path, damage: Callable[[Path], Any], words: str
    ) -> None:
        for name in ("model.pt", "model.json"):
            shutil.copyfile(trained.models / name, tmp_path / name)
        damage(tmp_path / "model.pt")
        with pytest.raises(ValueError, match=r"does not fit its model.json"):
            checked(tmp_path / "model.pt")
        settings = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
        del settings["sha256"]  # settings that another program wrote
        (tmp_path / "model.json").write_text(json.dumps(settings), encoding="utf-8")
        with pytest.raises(ValueError, match=words):
            checked(tmp_path / "model.pt")

    @pytest.mark.parametrize("url", ["", "model.pt", "https://host"])
    def test_no_address(self, trained: SimpleNamespace, tmp_path: Path, url: str) -> None:
        with pytest.raises(ValueError, match="--url must be the address"):
            assemble(trained.models / "model.pt", url, tmp_path / NAME)

    def test_a_folder_of_something_else_stays(self, trained: SimpleNamespace, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
        with pytest.raises(ValueError, match="was not made by this command"):
            assemble(trained.models / "model.pt", "https://host/model.pt", tmp_path)
        assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"
