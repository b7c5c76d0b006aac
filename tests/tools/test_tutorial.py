"""The notebook as it is kept: complete, without a trace of the machine that ran it, and true to the bundle."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from scripts.__main__ import COMMANDS
from scripts.bundle.command_line import refuse_overrides
from scripts.tools.tutorial import clean

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs/tutorial.ipynb"
CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
PROSE = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
FOLDER_OF_A_MACHINE = re.compile(r"(?<![\w.$}~/])/(?!bin/bash)\w[\w.-]*/")


def text_of(output: dict[str, Any]) -> str:
    """All that an output says in words."""
    return "".join(output.get("text", output.get("data", {}).get("text/plain", "")))


def commands() -> list[list[str]]:
    """Every command that a cell runs, as the words that the program gets behind `python -m`."""
    shell = "\n".join("".join(c["source"]) for c in CODE if "".join(c["source"]).startswith("%%bash"))
    lines = shell.replace("\\\n", " ").splitlines()
    lines += [line[1:] for c in CODE for line in "".join(c["source"]).splitlines() if line.startswith("!")]
    calls = [shlex.split(line.split(">")[0]) for line in lines if line.startswith("python -m ")]
    return [call[2:] for call in calls]


RUNS = [call[2:] for call in commands() if call[:2] == ["monai.bundle", "run"]]
OTHERS = [call[1:] for call in commands() if call[0] == "scripts"]


class TestAsItIsKept:
    def test_every_cell_has_run_in_order(self) -> None:
        assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))

    def test_every_cell_shows_something(self) -> None:
        assert ["".join(cell["source"]) for cell in CODE if not cell["outputs"]] == []

    def test_no_errors(self) -> None:
        assert [o for cell in CODE for o in cell["outputs"] if o["output_type"] == "error"] == []

    def test_pictures(self) -> None:
        assert sum("image/png" in o.get("data", {}) for cell in CODE for o in cell["outputs"]) >= 6

    def test_no_folder_of_the_machine(self) -> None:
        texts = ["".join(cell["source"]) for cell in CODE]
        texts += [text_of(output) for cell in CODE for output in cell["outputs"]]
        assert [line for text in texts for line in text.splitlines() if FOLDER_OF_A_MACHINE.search(line)] == []

    def test_no_half_drawn_bars(self) -> None:
        texts = [text_of(output) for cell in CODE for output in cell["outputs"]]
        assert [text for text in texts if re.search(r"\r|\x1b|\D\d\d?%\|", text)] == []

    def test_size(self) -> None:
        assert NOTEBOOK.stat().st_size < 1.5e6


class TestTrueToTheBundle:
    def test_both_kinds_of_commands_are_found(self) -> None:
        assert {call[0] for call in RUNS} == {"pretraining", "training", "evaluating", "inference"}
        assert {call[0] for call in OTHERS} == {"label", "phantom", "prepare", "check"}

    @pytest.mark.parametrize("call", RUNS, ids=" ".join)
    def test_run(self, call: list[str]) -> None:
        run_id, given = call[0], dict(zip(call[1::2], call[2::2], strict=True))
        files = re.findall(r"[\w/]+\.yaml", given.pop("--config_file"))
        assert run_id in ConfigParser.load_config_files([str(ROOT / file) for file in files])
        words: dict[str, Any] = {"True": True, "False": False}
        overrides = {key.removeprefix("--"): words.get(value, value) for key, value in given.items()}
        refuse_overrides(overrides, [ROOT / file for file in files])

    @pytest.mark.parametrize("call", OTHERS, ids=" ".join)
    def test_command(self, call: list[str]) -> None:
        parser = argparse.ArgumentParser(exit_on_error=False)
        import_module(COMMANDS[call[0]][0]).add_arguments(parser)
        parser.parse_args(call[1:])

    def test_imports(self) -> None:
        code = "\n".join("".join(cell["source"]) for cell in CODE)
        named = re.findall(r"^from (scripts[\w.]*) import (\w+)", code, flags=re.MULTILINE)
        assert len(named) > 3
        assert [f"{module}.{name}" for module, name in named if not hasattr(import_module(module), name)] == []

    def test_links_lead_somewhere(self) -> None:
        links = re.findall(r"\]\(([^)#\s]+)", PROSE)
        assert links
        assert [link for link in links if "://" not in link and not (NOTEBOOK.parent / link).exists()] == []

    def test_files_and_keys_that_the_text_names(self) -> None:
        named = re.findall(r"`((?:configs|datasets|methods)/[\w/]+(?:\.yaml|/)|[a-z_]+\.yaml)`", PROSE)
        assert [n for n in named if n != "my.yaml" and not any((ROOT / d / n).exists() for d in ("", "configs"))] == []

    @pytest.mark.parametrize("base", ["train", "pretrain"])
    def test_overlay_of_one_s_own(self, base: str, tmp_path: Path) -> None:
        text = re.findall(r"```yaml\n(.*?)```", PROSE, flags=re.DOTALL)
        assert len(text) == 1
        (tmp_path / "my.yaml").write_text(text[0], encoding="utf-8")
        overlay = ConfigParser.load_config_file(tmp_path / "my.yaml")
        assert len(overlay) == 5
        refuse_overrides(overlay, [ROOT / f"configs/{base}.yaml"])

    @pytest.mark.parametrize("folder", [".", "docs"])
    def test_finds_the_bundle_from(self, folder: str, tmp_path: Path) -> None:
        program = "".join(CODE[0]["source"]) + "\nprint(os.getcwd(), os.environ['WORK'])"
        env = {"CPS4_TUTORIAL": str(tmp_path), "PATH": ""}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT / folder, env=env, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == f"{ROOT} {tmp_path}"


class TestClean:
    def test_stream(self) -> None:
        printed = "a 10%|█   |\ra 100%|████|\nwritten: /m/work/D.json\r\n/m/bundle/docs \n"
        notebook = {"cells": [{"outputs": [{"output_type": "stream", "text": printed}]}, {"source": "no outputs"}]}
        clean(notebook, {"/m": ".", "/m/work": "$WORK"})
        assert text_of(notebook["cells"][0]["outputs"][0]) == "a 100%|████|\nwritten: $WORK/D.json\n./bundle/docs\n"

    def test_bars(self) -> None:
        ended = "slicing: 100%|███| 3/3\ntraining: 100%|███| 4/4 [00:01<00:00, loss=0.1]\n"
        printed = "\rtraining:   0%|   | 0/4\n" + ended.replace(
            "\nt", "\ntraining:  50%|█  |\n\rlabels: 100%|███|\x1b[A\nt"
        )
        notebook = {"cells": [{"outputs": [{"output_type": "stream", "text": printed}]}]}
        clean(notebook, {})
        assert text_of(notebook["cells"][0]["outputs"][0]) == ended

    def test_result(self) -> None:
        data = {"image/png": "/m/work", "text/plain": "PosixPath('/m/work/a.png')"}
        notebook = {"cells": [{"outputs": [{"output_type": "execute_result", "data": data}]}]}
        clean(notebook, {"/m/work": "$WORK"})
        assert data == {"image/png": "/m/work", "text/plain": "PosixPath('$WORK/a.png')"}
