"""Every overlay, by its own header, on every base that it names: keys exist, references resolve, targets import."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import yaml
from monai.bundle import ComponentLocator, ConfigExpression, ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
BASES = ("train", "pretrain", "inference")
FILES = sorted(CONFIGS.rglob("*.yaml"))
OVERLAYS = [path for path in FILES if path.relative_to(CONFIGS).as_posix() not in {f"{base}.yaml" for base in BASES}]
LOCATOR = ComponentLocator()


def name_of(path: Path) -> str:
    return path.relative_to(CONFIGS).with_suffix("").as_posix()


def header(path: Path, word: str) -> list[str]:
    """The comma-separated entries of all `# word: a, b` lines at the top of a file; a title may stand before it."""
    entries: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        match = re.search(rf"\b{word}:\s*([^()]+)", line)
        entries += re.split(r"\s*,\s*", match.group(1).strip().rstrip(".,")) if match else []
    return entries


def stack(spec: str) -> list[Path]:
    """Files of one base of a header: `train`, or `inference + evaluate` where an overlay lies on another overlay."""
    return [CONFIGS / f"{part.strip()}.yaml" for part in spec.split("+")]


def merged(*files: Path) -> ConfigParser:
    parser = ConfigParser(ConfigParser.load_config_files([str(path) for path in files]))
    parser.parse()
    return parser


def keys_of(path: Path) -> list[str]:
    return [str(key).replace("::", "#") for key in yaml.safe_load(path.read_text(encoding="utf-8")) or {}]


def leaves(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The (id, value) pairs of everything in a config that is neither a dictionary nor a list."""
    if isinstance(config, dict | list):
        for name, value in config.items() if isinstance(config, dict) else enumerate(config):
            yield from leaves(value, f"{key}#{name}" if key else str(name))
    else:
        yield key, config


def broken_references(parser: ConfigParser) -> list[str]:
    return [
        f"{key}: @{target}"
        for key, value in leaves(parser.get())
        if isinstance(value, str)
        for target in ReferenceResolver.match_refs_pattern(value)
        if target not in parser
    ]


def broken_targets(parser: ConfigParser) -> list[str]:
    return [
        f"{key}: {value}"
        for key, value in leaves(parser.get())
        if key.split("#")[-1] == "_target_" and not str(value).startswith(("$", "@", "%"))
        if LOCATOR.get_component_module_name(value) is None and locate(value) is None
    ]


def broken_expressions(parser: ConfigParser) -> list[str]:
    """Expressions that are not Python, once their references are names."""
    broken = []
    for key, value in leaves(parser.get()):
        if ConfigExpression.is_expression(value):
            try:
                ast.parse(re.sub(r"@[\w#:]*\w", "reference", value[1:]))
            except SyntaxError:
                broken.append(f"{key}: {value}")
    return broken


@pytest.fixture(
    params=OVERLAYS or [pytest.param(None, marks=pytest.mark.skip("no overlay yet"))], ids=lambda p: p and name_of(p)
)
def overlay(request: pytest.FixtureRequest) -> Path:
    return request.param


class TestBases:
    @pytest.mark.parametrize("base", BASES)
    def test_stands_by_itself(self, base: str) -> None:
        path = CONFIGS / f"{base}.yaml"
        if not path.is_file():
            pytest.skip(f"{path.name} does not exist yet")
        parser = merged(path)
        assert broken_references(parser) == []
        assert broken_targets(parser) == []
        assert broken_expressions(parser) == []


class TestOverlays:
    def test_header_names_existing_bases(self, overlay: Path) -> None:
        specs = header(overlay, "overlay on")
        assert specs, f"{name_of(overlay)} has no line '# overlay on: BASE, ...'"
        assert [path.name for spec in specs for path in stack(spec) if not path.is_file()] == []
        assert [spec for spec in specs if name_of(stack(spec)[0]) not in BASES] == []

    def test_merged_with_each_base(self, overlay: Path) -> None:
        for spec in header(overlay, "overlay on"):
            parser = merged(*stack(spec), overlay)
            assert broken_references(parser) == [], f"on {spec}"
            assert broken_targets(parser) == [], f"on {spec}"
            assert broken_expressions(parser) == [], f"on {spec}"

    def test_keys_exist_in_each_base(self, overlay: Path) -> None:
        adds = set(header(overlay, "adds"))
        for spec in header(overlay, "overlay on"):
            base = ConfigParser(ConfigParser.load_config_files([str(path) for path in stack(spec)]))
            unknown = [key for key in keys_of(overlay) if key not in adds and key.removeprefix("+") not in base]
            assert unknown == [], f"on {spec}"

    def test_adds_are_needed(self, overlay: Path) -> None:
        assert [key for key in header(overlay, "adds") if key not in keys_of(overlay)] == []

    def test_no_addresses_into_lists(self, overlay: Path) -> None:
        assert [key for key in keys_of(overlay) if any(part.isdigit() for part in key.split("#"))] == []


class TestOneKeyAblations:
    """Rows of `ablations.json`, which stand for overlays of one key each."""

    ROWS = json.loads((CONFIGS / "ablations.json").read_text(encoding="utf-8"))

    @pytest.mark.parametrize("name", ROWS)
    def test_composes(self, name: str) -> None:
        row = self.ROWS[name]
        assert set(row) == {"base", "key", "value", "about"}
        parser = merged(*stack(row["base"]))
        assert name_of(stack(row["base"])[0]) in BASES
        assert row["key"] in parser
        assert parser[row["key"]] != row["value"]
        parser[row["key"]] = row["value"]
        parser.parse()
        assert broken_references(parser) == []
        assert broken_expressions(parser) == []

    @pytest.mark.parametrize("name", ROWS)
    def test_command_line_is_documented(self, name: str) -> None:
        row = self.ROWS[name]
        word = str(row["value"])
        shown = f"'{word}'" if "$" in word else f'"{word}"' if " " in word else word
        docs = (CONFIGS.parent / "docs/configs.md").read_text(encoding="utf-8")
        assert f"| `{name}` | {row['base']} | `--{row['key']} {shown}` |" in docs


class TestSections:
    def test_one_order(self) -> None:
        """A reader of one base finds his way through the others."""
        sections = {
            base: [
                line.removeprefix("# ---- ").split(":")[0].split(",")[0]
                for line in (CONFIGS / f"{base}.yaml").read_text(encoding="utf-8").splitlines()
                if line.startswith("# ---- ")
            ]
            for base in BASES
        }
        for base in BASES:
            common = [section for section in sections[base] if section in sections["train"]]
            assert common == [section for section in sections["train"] if section in common]
            assert len(common) == len(set(common))
        assert len(set(sections["pretrain"]) & set(sections["train"])) >= 11


class TestHeader:
    """The reader of headers itself, on text that no overlay has."""

    def test_value(self, tmp_path: Path) -> None:
        path = tmp_path / "x.yaml"
        path.write_text(
            "# x — overlay on: train, inference + evaluate\n# adds: a, b#c\nkey: 1\n# adds: d\n", encoding="utf-8"
        )
        assert header(path, "overlay on") == ["train", "inference + evaluate"]
        assert header(path, "adds") == ["a", "b#c"]

    def test_broken_parts_are_found(self) -> None:
        parser = ConfigParser({"a": "$@b + 1", "c": {"_target_": "scripts.nowhere.X"}, "d": "$f(", "e": "@a"})
        assert broken_references(parser) == ["a: @b"]
        assert broken_targets(parser) == ["c#_target_: scripts.nowhere.X"]
        assert broken_expressions(parser) == ["d: $f("]


class TestFolders:
    """Where a training writes unless it is told: to folders named after its method."""

    @pytest.mark.parametrize("path", sorted((CONFIGS / "methods").glob("*.yaml")), ids=lambda path: path.stem)
    def test_of_a_method(self, path: Path) -> None:
        base = CONFIGS / f"{header(path, 'overlay on')[0]}.yaml"
        parser = merged(base, path)
        parser["bundle_root"] = "/b"
        assert parser.get_parsed_content("output_dir") == f"/b/runs/{path.stem}"

    def test_of_the_network(self) -> None:
        """The result lies in the run's folder; stage 1 lies where stage 2 looks for it, wherever that writes."""
        train, pretrain = merged(CONFIGS / "train.yaml"), merged(CONFIGS / "pretrain.yaml")
        train["output_dir"] = "/r"
        for parser in (train, pretrain):
            parser["bundle_root"] = "/b"
        assert train.get_parsed_content("ckpt_dir") == "/r/models"
        train["ckpt_dir"] = "/elsewhere"
        found = {parser.get_parsed_content("prompt_model_dir") for parser in (train, pretrain)}
        assert found == {"/b/models/prompt"}
