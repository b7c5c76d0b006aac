"""Which files a run, an evaluation, MONAI Label and the Model Zoo need of this repository, and which they do not.

Needed is what a few first files lead to: a config by its name, a module by `_target_` or import, a picture by its link.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from modulefinder import ModuleFinder
from pathlib import Path

from ..__main__ import COMMANDS
from ..bundle.launch import BUNDLE_ROOT

CONFIGS = (
    *("metadata.json", "logging.conf", "classes.json", "inference.yaml", "evaluate.yaml"),
    *("inference_onnx.yaml", "inference_torchscript.yaml"),
    *("pretrain.yaml", "train.yaml", "federated.yaml", "multi_gpu_train.yaml", "multi_gpu_evaluate.yaml"),
)
"""Configs that MONAI's tools, or users of them, ask for by name; `docs/README.md` names the others."""
ZOO_PAGE = "scripts/tools/zoo_readme.md"
"""What the Model Zoo's folder says of itself; `docs/README.md` is made of it."""
ZOO_CONFIGS = ("metadata.json", "logging.conf", "classes.json", "inference.yaml", "evaluate.yaml", "train.yaml")
"""Configs that the Model Zoo and MONAI Label ask for by name; `ZOO_PAGE` names the others."""
OTHER_ROOMS = ("commands", "label_server", "phantom", "tools")
"""Folders of `scripts/` whose commands are for the repository alone."""
NAME = re.compile(r"[\w./-]+\.(?:yaml|json|conf|txt|png|svg|html)\b")
MODULE = re.compile(r"\bscripts(?:\.\w+)+")
PLACE = re.compile(r"(?<![\w./-])((?:docs|configs|scripts|tests)/[\w./-]*\w)`?")
COMMAND = re.compile(r"(?:python -m scripts (\w+)|(?<=`)(make) )(?:[^`\n]*`|[^`)\n]*)")
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s:]+)(?:#[^)\s]*)?\)")


def needed_files(root: Path = BUNDLE_ROOT, page: str = "docs/README.md", configs: Sequence[str] = CONFIGS) -> set[str]:
    """The paths of all needed files, relative to the bundle's root, without weights.

    Args:
        root: the bundle's root.
        page: the document that tells users what there is.
        configs: configs that are asked for by name.
    """
    commands = [module for module, _ in COMMANDS.values() if module.split(".")[1] not in OTHER_ROOMS]
    todo = ["LICENSE", page, "docs/data_license.txt", *(f"configs/{name}" for name in configs)]
    todo += [path.relative_to(root).as_posix() for path in root.glob("configs/label_maps/*.json")]
    todo += [f"{module.replace('.', '/')}.py" for module in ("scripts.__main__", *commands)]
    # on this path there is nothing but the bundle: what other packages import is not followed
    finder = ModuleFinder([str(root)])
    found: set[str] = set()
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        text = (root / name).read_text(encoding="utf-8") if not name.endswith((".png", ".svg")) else ""
        todo += _named_files(text, root / name, root)
        todo += _named_modules(text, root) if name.endswith(".yaml") else []
        if name.endswith(".py"):
            finder.import_hook(name.removesuffix(".py").replace("/", "."))
            files = [getattr(module, "__file__", None) for module in finder.modules.values()]
            todo += [Path(file).relative_to(root).as_posix() for file in files if file]
    return found


def say_where(text: str, page: str, files: Set[str]) -> str:
    """Add "of the project" to all that a copied text names and that is not copied: pages, configs, commands.

    Args:
        text: of the file.
        page: the file's path, relative to the bundle's root.
        files: the copied files, relative too.
    """

    def place(match: re.Match[str]) -> str:
        there = any(file == match[1] or file.startswith(f"{match[1]}/") for file in files)
        return match[0] if there or not (BUNDLE_ROOT / match[1]).exists() else f"{match[0]} of the project"

    def link(match: re.Match[str]) -> str:
        target = (BUNDLE_ROOT / page).parent.joinpath(match[2]).resolve()
        path = target.relative_to(BUNDLE_ROOT).as_posix()
        if path in files or not target.exists():
            return match[0]
        return f"{path} of the project" if match[1] == match[2] else f"{match[1]} ({path} of the project)"

    def command(match: re.Match[str]) -> str:
        return f"{match[0]} of the project" if missing(match) else match[0]

    def missing(match: re.Match[str]) -> bool:
        module = COMMANDS.get(match[1], ("",))[0]
        return bool(match[2]) or (bool(module) and f"{module.replace('.', '/')}.py" not in files)

    if not page.endswith(".md"):
        return COMMAND.sub(command, PLACE.sub(place, text))
    parts = text.split("```")  # prose and code in turns
    parts[::2] = [LINK.sub(link, PLACE.sub(place, COMMAND.sub(command, part))) for part in parts[::2]]
    for i, code in enumerate(parts[1::2]):
        if any(missing(match) for match in COMMAND.finditer(code)) or "\nmake " in code:
            parts[2 * i + 1] = code.replace("\n", "\n# in the repository of the project\n", 1)
    return "```".join(parts)


def _named_files(text: str, page: Path, root: Path) -> Iterator[str]:
    """Configs, lists of requirements and pictures that a text names, from the root, from `configs/` or from itself.

    A module gets its configs from its caller: those that its words name lead nowhere.
    """
    for name in NAME.findall(text):
        for folder in (root, root / "configs", page.parent):
            path = (folder / name).resolve()
            if path.is_file() and path.is_relative_to(root):
                path = path.relative_to(root)
                kind = path.parts[0]
                if (
                    (kind == "configs" and page.suffix != ".py")
                    or kind.startswith("requirements")
                    or path.suffix in (".png", ".svg", ".html")
                ):
                    yield path.as_posix()


def _named_modules(text: str, root: Path) -> Iterator[str]:
    for name in MODULE.findall(text):
        parts = name.split(".")
        files = ["/".join(parts[:i]) + ".py" for i in range(len(parts), 1, -1)]
        yield from [file for file in files if (root / file).is_file()][:1]
