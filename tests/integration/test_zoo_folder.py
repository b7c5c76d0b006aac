"""The folder for MONAI's Model Zoo holds all that its code, configs and documents refer to, and its commands run."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from monai.bundle import download_large_files

from scripts.tools.zoo import NAME, assemble

ROOT = Path(__file__).resolve().parents[2]

COMMANDS = ["info", "prepare", "check", "measure"]
"""Of `python -m scripts` in the Zoo's folder."""


@pytest.fixture(scope="module")
def zoo(trained: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The assembled folder, without weights."""
    folder = tmp_path_factory.mktemp("zoo") / NAME
    assemble(trained.models / "model.pt", (trained.models / "model.pt").as_uri(), folder)
    return folder


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


class TestClosure:
    """Nothing that the folder's code and configs refer to is left behind."""

    def test_imports(self, zoo: Path) -> None:
        # by the syntax tree, those inside functions too
        broken = []
        for path in (file for file in files(zoo / "scripts") if file.suffix == ".py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.level:
                    base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                    module = base.with_suffix(".py").is_file()
                    inside = [(base / f"{alias.name}.py").is_file() for alias in node.names]
                    broken += [] if module or all(inside) else [f"{path.relative_to(zoo)}: {ast.unparse(node)}"]
        assert broken == []

    def test_modules_and_targets(self, zoo: Path) -> None:
        """All modules, and all `_target_` of the configs, in a process that knows this folder alone."""
        modules = [
            path.relative_to(zoo).with_suffix("").as_posix().replace("/", ".") for path in files(zoo / "scripts")
        ]
        modules = [name.removesuffix(".__init__") for name in modules]
        texts = [path.read_text(encoding="utf-8") for path in (zoo / "configs").rglob("*.yaml")]
        targets = sorted({name for text in texts for name in re.findall(r"_target_: (scripts\.[\w.]+)", text)})
        assert len(targets) > 40
        program = "import importlib, json, pydoc, sys; modules, targets = json.load(sys.stdin)\n"
        program += "for name in modules: importlib.import_module(name)\n"
        program += "print([name for name in targets if pydoc.locate(name) is None])"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            cwd=zoo,
            input=json.dumps([modules, targets]),
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr[-2000:]

    def test_commands(self, zoo: Path) -> None:
        done = subprocess.run([sys.executable, "-m", "scripts", "--help"], cwd=zoo, capture_output=True, text=True)
        assert re.findall(r"^    (\w+) ", done.stdout, flags=re.MULTILINE) == COMMANDS
        for name in COMMANDS:
            line = [sys.executable, "-W", "ignore", "-m", "scripts", name, "--help"]
            assert subprocess.run(line, cwd=zoo, capture_output=True, check=False).returncode == 0

    def test_named_files_and_commands(self, zoo: Path) -> None:
        """Whatever its documents, configs and metadata name is there, or is said to be elsewhere."""
        broken = []
        for path in [*files(zoo / "docs"), *files(zoo / "configs")]:
            if path.suffix == ".png":
                continue
            text = path.read_text(encoding="utf-8")
            text = re.sub(r"```\n# in the repository of the project\n.*?```", "", text, flags=re.DOTALL)
            text = re.sub(r"(`[^`\n]*`|[\w./-]+) of the project", "", text)
            found = re.findall(r"\b(?:docs|configs|scripts)/[\w./-]*\w(?![\w*])", text)
            found += re.findall(r"\b(?:requirements[\w-]*|LICENSE|Makefile)(?:\.txt)?\b", text)
            broken += [f"{path.name}: {name}" for name in found if not (zoo / name).exists()]
            commands = re.findall(r"python -m scripts (\w+)", text)
            broken += [
                f"{path.name}: {name}" for name in commands if name not in ("info", "prepare", "check", "measure")
            ]
            broken += [f"{path.name}: make" for _ in re.findall(r"`make |\nmake ", text)]
        assert broken == []


def small(line: str, datalist: Path, folder: Path) -> str:
    """A command of the README with files in place of its capitals, and with the smoke run's sizes where it trains."""
    smoke = str(ROOT / "configs/smoke.yaml")
    python = f"{shlex.quote(sys.executable)} -W ignore"
    line = line.replace("torchrun", f"{python} -m torch.distributed.run").replace("python -m", f"{python} -m")
    line = line.replace("FOLDER --out D.json", f"{datalist.parent} --out {folder / 'D.json'}")
    line = line.replace("D.json", str(datalist)) if "monai.bundle" in line else line
    line = line.replace("SCANS", str(datalist.parent / "images")).replace("OUT", str(folder / "OUT"))
    line = line.replace("--max_epochs 300", "--max_epochs 2")
    if files := re.search(r"--config_file (\S+)", line):
        names = re.findall(r"configs/[\w/]+\.yaml", files[1])
        names += ["configs/offline_encoders.yaml"] if "configs/pretrain.yaml" in names else []
        names += [smoke] if {"configs/pretrain.yaml", "configs/train.yaml"} & set(names) else []
        line = line.replace(files[1], shlex.quote(str(names)) if len(names) > 1 else names[0])
    return line


class TestCommands:
    @pytest.mark.slow
    def test_of_the_readme(self, zoo: Path, datalist: Path, tmp_path: Path) -> None:
        """Each line of `MONAI Bundle Commands`, one after the other, on phantoms, with the smoke run's sizes."""
        folder = tmp_path / NAME
        shutil.copytree(zoo, folder)
        download_large_files(bundle_path=str(folder))
        text = (folder / "docs/README.md").read_text(encoding="utf-8").split("### Preprocessing")[1]
        lines = [line for block in text.split("```")[1::2] for line in block.splitlines() if "-m " in line]
        lines = [line for line in lines if "model_trt.ts" not in line]  # TensorRT needs a GPU
        assert len(lines) == 10
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "HF_HUB_OFFLINE": "1"}
        for line in lines:
            line = small(line, datalist, tmp_path)
            done = subprocess.run(
                shlex.split(line), cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
        assert len(list((tmp_path / "OUT").glob("*_seg.nii.gz"))) == 6
        assert (folder / "models/prompt/model.pt").is_file()
        assert (folder / "models/model.ts").is_file()
