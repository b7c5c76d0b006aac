"""Who may import whom inside `scripts`, which packages each part may use, and which imports have to stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
# imported by the function that needs them
LAZY = {
    "transformers",
    "huggingface_hub",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "mlflow",
    "nbclient",
    "nbformat",
    "highdicom",
    "pydicom",
}
TORCH = "torch numpy"
MONAI = "torch numpy monai"
# room of scripts: (rooms it may import beside itself, packages it may import beside the standard library)
TABLE = {
    "labels": ("", ""),
    "weights": ("files", ""),
    "files": ("", "filelock"),
    "ops": ("labels", f"{MONAI} scipy"),
    "networks": ("labels files weights ops", f"{MONAI} transformers huggingface_hub onnxruntime openvino nncf"),
    "methods": ("labels ops", TORCH),
    "phantom": ("labels files", "numpy scipy nibabel tqdm"),
    "report": ("labels files", "numpy matplotlib nibabel tabulate PIL skimage"),
    "data": ("labels files weights ops", f"{MONAI} ignite nibabel itk highdicom pydicom scipy tqdm"),
    "measure": ("labels files weights ops data report", "numpy nibabel scipy tqdm jinja2 PIL"),
    "evaluation": ("labels files weights report", f"{MONAI} ignite nibabel scipy tqdm"),
    "bundle": ("labels files weights data", f"{TORCH} monai"),
    "inference": ("labels files weights ops data measure bundle report", f"{MONAI} ignite tqdm"),
    "training": ("labels files weights ops data evaluation bundle report", f"{MONAI} ignite matplotlib tqdm yaml"),
    "commands": ("labels files weights ops networks data evaluation bundle report", f"{MONAI} fire tqdm"),
    "label_server": (
        "weights data phantom",
        "monai yaml numpy nibabel fastapi pydicom monailabel monaibundle_app answers class_labels label_grid "
        "viewer_colours",
    ),
    "info": ("labels", ""),
    "tools": (
        "labels files weights ops networks phantom data measure evaluation bundle training report __main__",
        f"{MONAI} ignite nibabel itk scipy skimage pandas jinja2 markupsafe matplotlib tqdm yaml nbclient nbformat "
        "filelock pytest nnunetv2",
    ),
    "__main__": ("", ""),  # imports the one command that is asked for by its name
}


class Import(NamedTuple):
    """One import: the module it names, whether in absolute form, and whether it runs when the file is imported."""

    target: str
    absolute: bool
    at_once: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted((ROOT / "scripts").rglob("*.py"))}
MODULES = [name for name in FILES if name != "scripts"]


def nodes(tree: ast.AST, at_once: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes below `tree`, each with whether it runs on import (not in a function, not for type checkers alone)."""
    for child in ast.iter_child_nodes(tree):
        deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        )
        yield child, at_once
        yield from nodes(child, at_once and not deferred)


def imports_of(name: str) -> Iterator[Import]:
    path = FILES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node, at_once in nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, True, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield Import(inner if inner in FILES else base, not node.level, at_once)


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


class TestImportTable:
    @pytest.mark.parametrize("name", MODULES)
    def test_parts_point_down(self, name: str) -> None:
        assert part_of(name) in TABLE, f"{name} has no row in the import table"
        allowed = {part_of(name), *TABLE[part_of(name)][0].split()}
        found = {part_of(i.target) for i in imports_of(name) if i.target.split(".")[0] == "scripts"}
        assert found - allowed == set()

    def test_rows_are_parts(self) -> None:
        assert [part for part in TABLE if part not in {part_of(name) for name in MODULES}] == []

    @pytest.mark.parametrize("name", MODULES)
    def test_packages(self, name: str) -> None:
        allowed = {"scripts", *sys.stdlib_module_names, *TABLE.get(part_of(name), ("", ""))[1].split()}
        assert {i.target.split(".")[0] for i in imports_of(name)} - allowed == set()

    @pytest.mark.parametrize("name", MODULES)
    def test_heavy_packages_are_imported_where_used(self, name: str) -> None:
        assert {i.target.split(".")[0] for i in imports_of(name) if i.at_once} & LAZY == set()

    @pytest.mark.parametrize("name", MODULES)
    def test_relative_inside_scripts(self, name: str) -> None:
        assert [i.target for i in imports_of(name) if i.absolute and i.target.split(".")[0] == "scripts"] == []

    @pytest.mark.parametrize("name", [name for name, path in FILES.items() if path.name == "__init__.py"])
    def test_packages_re_export_nothing(self, name: str) -> None:
        assert list(imports_of(name)) == []

    def test_no_cycles(self) -> None:
        graph = {name: {i.target for i in imports_of(name) if i.target in FILES} for name in FILES}
        assert len(tuple(TopologicalSorter(graph).static_order())) == len(FILES)


class TestSizes:
    """Bounds that keep a room to what one can take in."""

    def test_modules(self) -> None:
        lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in FILES.items()}
        assert {name: count for name, count in lines.items() if count > 400} == {}

    def test_folders(self) -> None:
        folders = Counter(path.parent for path in FILES.values())
        assert [str(folder) for folder, count in folders.items() if count > 15] == []
        assert folders[ROOT / "scripts"] <= 8


class TestLightImports:
    """What a fresh interpreter has loaded after one import."""

    @pytest.mark.parametrize(
        ("name", "unwanted"),
        [
            ("scripts.labels", "torch numpy monai"),
            ("scripts.networks.prompts", "torch numpy monai"),
            ("scripts.ops.losses", "ignite transformers"),
            ("scripts.networks.resunet", "ignite transformers"),
            *[(name, "torch monai matplotlib") for name in MODULES if name.startswith("scripts.report.")],
        ],
    )
    def test_import_is_light(self, name: str, unwanted: str) -> None:
        if name not in FILES:
            pytest.skip(f"{name} does not exist yet")
        program = f"import sys, {name}; print(*(p for p in {unwanted.split()} if p in sys.modules))"
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.split() == []
