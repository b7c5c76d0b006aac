"""No file that is read can run code: weights are tensors, datalists are data, and configs alone are programs."""

from __future__ import annotations

import ast
import inspect
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.handlers import CheckpointLoader

from scripts.bundle.model_file import load_weights
from scripts.data.datalist import select
from scripts.files import FileError
from scripts.training import start as runs
from scripts.training.handlers import TrainingCheckpoint
from tests.small_bundle import refused, write_config
from tests.tiny import network

ROOT = Path(__file__).resolve().parent.parent
FILES = [path for folder in ("scripts", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]
RUN_CODE = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CODE_IN_NAMES = ["$open('pwned', 'w')", "@datalist", "%datalist", "$@bundle_root", "a$b@c%d.nii.gz"]


def name_of(node: ast.AST) -> str:
    return ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""


def faults(tree: ast.AST) -> list[str]:
    """What in a file could run code out of another file."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"imports {name}" for name in names if name.split(".")[0] in RUN_CODE]
        if not isinstance(node, ast.Call):
            continue
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        called = name_of(node.func)
        if called == "torch.load" and given.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if given.get("allow_pickle", "False") != "False" or given.get("weights_only", "True") != "True":
            found.append(f"{called} that unpickles")
        if called in ("eval", "exec", "os.system", "yaml.load") or given.get("shell") == "True":
            found.append(called)
    return found


class TestSources:
    @pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
    def test_nothing_unpickles(self, path: Path) -> None:
        assert faults(ast.parse(path.read_text(encoding="utf-8"))) == []

    @pytest.mark.parametrize(
        "text",
        [
            "torch.load(p)",
            "torch.load(p, weights_only=False)",
            "import pickle",
            "from joblib import load",
            "np.load(p, allow_pickle=True)",
            "eval(t)",
            "subprocess.run(t, shell=True)",
        ],
    )
    def test_would_be_found(self, text: str) -> None:
        assert faults(ast.parse(text)) != []

    def test_monais_loader_of_weights(self) -> None:
        """`inference.yaml` reads weights by it."""
        assert "weights_only=True" in inspect.getsource(CheckpointLoader)

    def test_configs(self) -> None:
        for path in sorted((ROOT / "configs").rglob("*.yaml")):
            text = path.read_text(encoding="utf-8")
            assert not any(word in text for word in ("torch.load", "pickle", "np.load", "os.system", "__import__")), (
                path
            )


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A file of weights that would make the folder `sprung` beside it."""
    torch.save({"weights": torch.ones(1), "more": Trap(tmp_path / "sprung")}, tmp_path / "trap.pt")
    return tmp_path / "trap.pt"


class TestWeights:
    def test_warm_start(self, trap: Path) -> None:
        with pytest.raises(FileError, match=r"trap.pt cannot be read, it is damaged or holds more than weights"):
            load_weights(trap, [network()])
        assert not (trap.parent / "sprung").exists()

    def test_checkpoint(self, trap: Path) -> None:
        with pytest.raises(FileError, match="holds more than weights; remove it to begin anew"):
            TrainingCheckpoint(trap, {}, None, resume=True).load(Engine(lambda e, b: None))
        assert not (trap.parent / "sprung").exists()

    def test_inference(self, trap: Path) -> None:
        with pytest.raises(Exception, match="weights_only"):
            CheckpointLoader(str(trap), {"weights": network()})(Engine(lambda e, b: None))
        assert not (trap.parent / "sprung").exists()

    def test_the_trap_works(self, trap: Path) -> None:
        """Read by torch as it must not be; the name is split so that no search takes it for a use."""
        getattr(torch, "load")(trap, **{"weights_only": False})  # noqa: B009
        assert (trap.parent / "sprung").is_dir()


class TestDatalist:
    """Names of files, cases and patients that look like expressions of MONAI's config language."""

    @pytest.mark.parametrize("name", CODE_IN_NAMES)
    def test_entries_are_data(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.chdir(tmp_path)
        entry = {"image": name, "case": name, "patient": name}
        (tmp_path / "d.json").write_text(json.dumps({"unlabelled": [entry]}), encoding="utf-8")
        component = {"_target_": "scripts.data.datalist.select", "datalist": str(tmp_path / "d.json")}
        parser = ConfigParser({"data": component | {"section": "unlabelled"}, "again": "@data", "datalist": "other"})
        for key in ("data", "again"):
            (read,) = parser.get_parsed_content(key)
            assert (read["image"], read["case"], read["patient"]) == (str(tmp_path / name), name, name)
        assert not (tmp_path / "pwned").exists()

    @pytest.mark.parametrize("name", CODE_IN_NAMES)
    def test_entries_stay_data_on_their_way_to_stage_1(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "configs").mkdir()
        content = {"pretraining": ["$print(@train#data, @datalist)"], "train": {"data": []}, "datalist": ""}
        (tmp_path / "configs" / "pretrain.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        entries = [{"image": name, "case": name}]
        runs.pretrain(bundle_root=tmp_path, datalist=name, **{"train#data": entries})
        assert capsys.readouterr().out == f"{tuple(entries)} {name}\n"
        assert not (tmp_path / "pwned").exists()

    @pytest.mark.parametrize("name", [name for name in CODE_IN_NAMES if name[0] in "$@"])
    def test_entries_of_a_config_that_look_like_code_are_refused(self, tmp_path: Path, name: str) -> None:
        """MONAI Label writes the names of its files into the config."""
        sentence = refused(write_config(tmp_path), **{"train#data": [{"image": name}]})
        assert "begins as an expression of the config language does; rename the file" in sentence
        assert not (tmp_path / "pwned").exists()

    def test_plain_names(self, tmp_path: Path) -> None:
        (tmp_path / "d.json").write_text(json.dumps({"unlabelled": [{"image": "a b.nii.gz"}]}), encoding="utf-8")
        assert select(tmp_path / "d.json", "unlabelled")[0]["case"] == "a b"
