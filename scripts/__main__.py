"""`python -m scripts COMMAND`: one word for what a user does; label and train stand for runs of MONAI's bundles."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Collection
from pathlib import Path

COMMANDS = {
    "label": ("scripts.commands.label", "label scans with the shipped network, or with that of a training"),
    "train": ("scripts.commands.train", "train on a datalist, stage 1 and stage 2"),
    "evaluate": ("scripts.commands.evaluate", "score a folder of label maps against a folder of labels"),
    "info": ("scripts.info", "list the classes, label maps and methods"),
    "prepare": ("scripts.data.prepare.command", "make a datalist of a folder of scans"),
    "check": ("scripts.data.check.command", "open every file of a datalist and report problems"),
    "quantise": ("scripts.tools.quantise", "make a trained network fast on a CPU, for label --fast"),
    "measure": ("scripts.measure.command", "measure the structures of label maps"),
    "phantom": ("scripts.phantom.command", "draw synthetic spine volumes with labels"),
    "demo": ("scripts.tools.demo", "label a real scan, then show the whole method on phantoms, in minutes"),
    "benchmark": ("scripts.tools.benchmark", "measure accuracy or speed"),
    "label_app": ("scripts.label_server.assemble", "make the folder that a MONAI Label server is started with"),
    "label_demo": ("scripts.label_server.demo", "start a MONAI Label server with phantoms"),
    "tutorial": ("scripts.tools.tutorial", "run docs/tutorial.ipynb and keep it with its outputs"),
    "report": ("scripts.tools.results.command", "make tables, pictures and pages of what a benchmark wrote"),
    "zoo": ("scripts.tools.zoo", "assemble the folder that MONAI's Model Zoo would take"),
}


def main(
    argv: list[str] | None = None, prog: str = "python -m scripts", names: Collection[str] = tuple(COMMANDS)
) -> int:
    """Parse the command line and run one command; return its exit code.

    A command is a module with `add_arguments(parser)` and `run(args) -> int`; only the one asked for is imported. The
    Model Zoo's folder has not all of them, and offers those that it has.

    Args:
        argv: words behind the program's name; None takes this process's.
        prog: how the program is called.
        names: commands that it offers.
    """
    given = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").replace("python -m scripts", prog))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    root = Path(__file__).parents[1]
    there = {
        name: row
        for name, row in COMMANDS.items()
        if name in names and (root / f"{row[0].replace('.', '/')}.py").is_file()
    }
    for name, (module, words) in there.items():
        sub = commands.add_parser(name, help=words, description=words[0].upper() + words[1:] + ".")
        if given[:1] == [name]:
            command = importlib.import_module(module)
            command.add_arguments(sub)
            sub.set_defaults(run=command.run)
    args, settings = parser.parse_known_args(given)
    if settings and not hasattr(args, "settings"):
        parser.error(f"unrecognized arguments: {' '.join(settings)}")
    args.settings = settings
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return int(args.run(args) or 0)
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
