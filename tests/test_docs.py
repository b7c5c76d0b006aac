"""What the documents name exists: links, files of the bundle, and the commands between fences."""

from __future__ import annotations

import argparse
import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from scripts.__main__ import COMMANDS
from scripts.bundle.command_line import refuse_overrides
from scripts.commands.long_form import read_settings

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SOURCES = [path for folder in ("configs", "scripts") for path in (ROOT / folder).rglob("*.*") if path.suffix != ".pyc"]
NAMED = re.compile(r"(?<![\w/.$-])(?:configs|docs|scripts)/[\w./-]*\w\.(?:py|yaml|json|md|txt|ipynb)\b")
"""A file of the bundle, by its path from the root; a path that stands behind another folder is not one."""


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them from its headings."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def commands(page: Path) -> list[list[str]]:
    """Every `-m scripts` or `-m monai.bundle run` between fences, as words; what stands in brackets is given."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = re.sub(r" \\\n|\[(--[^\]]*)\]", r" \1", "\n".join(blocks)).splitlines()
    found = [re.search(r"-m ((?:scripts|monai\.bundle run) [^`]*?)(?:\s+#.*)?$", line) for line in lines]
    return [shlex.split(match[1]) for match in found if match]


CALLS = [(page.name, call) for page in PAGES for call in commands(page)]
RUNS = [pytest.param(call[2:], id=f"{name}: {' '.join(call[2:])}") for name, call in CALLS if call[0] != "scripts"]
OTHERS = [pytest.param(call[1:], id=f"{name}: {' '.join(call[1:])}") for name, call in CALLS if call[0] == "scripts"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
class TestPages:
    def test_links_lead_somewhere(self, page: Path) -> None:
        broken = []
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            if "://" in link:
                continue
            if not target.exists() or (anchor and anchor not in headings(target)):
                broken.append(link)
        assert broken == []

    def test_named_files_exist(self, page: Path) -> None:
        named = set(NAMED.findall(page.read_text(encoding="utf-8")))
        assert [name for name in sorted(named) if "NAME" not in name and not (ROOT / name).is_file()] == []


def test_pages_that_the_sources_name_exist() -> None:
    named = {n for path in SOURCES for n in re.findall(r"docs/[\w/]+\.md", path.read_text(encoding="utf-8"))}
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


class TestCommands:
    @pytest.mark.parametrize("call", RUNS)
    def test_run(self, call: list[str]) -> None:
        run_id, options = ("run", call) if call[0].startswith("--") else (call[0], call[1:])
        given = dict(zip(options[::2], options[1::2], strict=True))
        files = [ROOT / name for name in re.findall(r"[\w/]+\.yaml", given.pop("--config_file"))]
        assert run_id in ConfigParser.load_config_files([str(file) for file in files])
        words: dict[str, Any] = {"True": True, "False": False}
        overrides = {name.removeprefix("--"): words.get(value, value) for name, value in given.items()}
        for added_by_monai in ("tracking", "tracking_uri", "run_name", "experiment_name"):
            overrides.pop(added_by_monai, None)
        refuse_overrides(overrides, files)

    @pytest.mark.parametrize("call", OTHERS)
    def test_command(self, call: list[str]) -> None:
        if "--help" in call:
            return
        parser = argparse.ArgumentParser(exit_on_error=False)
        import_module(COMMANDS[call[0]][0]).add_arguments(parser)
        args, settings = parser.parse_known_args(call[1:])
        assert not settings or (hasattr(args, "settings") and read_settings(settings))
