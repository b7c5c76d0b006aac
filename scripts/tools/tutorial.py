"""`python -m scripts tutorial`: run docs/tutorial.ipynb from top to bottom and keep it with its outputs."""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..bundle.launch import BUNDLE_ROOT
from ..files import write_whole

NOTEBOOK = BUNDLE_ROOT / "docs" / "tutorial.ipynb"
WORKING_FOLDER = "CPS4_TUTORIAL"
"""Variable of the environment that names the notebook's working folder; its commands call it $WORK."""
LAST_LINES = 15
BAR = re.compile(r"[^|]*: +(?P<percent>\d+)%\|")
CURSOR_UP = "\x1b[A"
"""What tqdm writes behind a bar below another bar."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--notebook", type=Path, default=NOTEBOOK, help="the notebook to run")
    parser.add_argument("--out", type=Path, help="where it goes with its outputs; in place if not given")


def run(args: argparse.Namespace) -> int:
    """Run the notebook and say where it is; a cell that fails leaves the file as it was."""
    if missing := [name for name in ("nbclient", "nbformat", "ipykernel") if find_spec(name) is None]:
        raise ValueError(f"{', '.join(missing)} not installed; pip install -r requirements-dev.txt, or make setup")
    import nbformat

    notebook = nbformat.read(args.notebook, as_version=4)
    given = os.environ.get(WORKING_FOLDER)
    with tempfile.TemporaryDirectory(prefix="cps4_tutorial_") as scratch:
        work = Path(given).absolute() if given else Path(scratch).resolve()
        work.mkdir(parents=True, exist_ok=True)
        execute(notebook, args.notebook.absolute().parent, work)
    clean(notebook, {str(work): "$WORK", str(BUNDLE_ROOT): "."})
    out: Path = args.out or args.notebook
    write_whole(out, nbformat.writes(notebook) + "\n")
    print(out)
    return 0


def execute(notebook: Any, folder: Path, work: Path) -> None:
    """Run all cells in a fresh kernel of this Python; their outputs replace those in the notebook.

    Args:
        notebook: as nbformat reads it.
        folder: the kernel's folder at first.
        work: the notebook's working folder.

    Raises:
        ValueError: a cell failed; the message names it and ends with the last lines that it printed.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    environment = {**os.environ, WORKING_FOLDER: str(work)}
    environment.pop("MPLBACKEND", None)  # a kernel has its own, which puts figures below the cells
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        failed = next(cell for cell in notebook.cells if any(o.output_type == "error" for o in cell.get("outputs", ())))
        printed = "".join(o.text for o in failed.outputs if o.output_type == "stream").splitlines()
        said = [*printed[-LAST_LINES:], f"{error.ename}: {error.evalue}"]
        raise ValueError(
            f"cell [{failed.execution_count}] of the notebook failed:\n{failed.source}\n\n" + "\n".join(said)
        ) from error


def clean(notebook: Any, names: dict[str, str]) -> None:
    """Leave in the outputs what a reader wants to see: bars as they ended, and folders by their names.

    Args:
        notebook: as nbformat reads it, with outputs.
        names: folder of this machine -> what is written in its place.
    """
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if output["output_type"] == "stream":
                output["text"] = _plain_text(output["text"], names)
            elif "text/plain" in output.get("data", {}):
                output["data"]["text/plain"] = _plain_text(output["data"]["text/plain"], names)


def _plain_text(text: str, names: dict[str, str]) -> str:
    """What a terminal would show in the end, without bars on their way; the longer of two folders is named first."""
    lines = [re.split(r"\r(?=[^\n])", line)[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    text = "\n".join(line for line in lines if not _is_unfinished(line))
    for folder in sorted(names, key=len, reverse=True):
        text = text.replace(folder, names[folder])
    return text


def _is_unfinished(line: str) -> bool:
    bar = BAR.match(line)
    return CURSOR_UP in line or (bar is not None and bar["percent"] != "100")
