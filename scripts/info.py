"""`python -m scripts info`: list classes, label maps and methods."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .labels import CONFIG_DIR, LABEL_MAP_DIR, ClassTable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the classes, the label maps and the methods."""
    table = ClassTable.load()
    found: dict[str, Any] = {
        "classes": {c.id: {"name": c.name, "group": c.group, "prompt": c.long_name} for c in table.classes},
        "label_maps": sorted(p.stem for p in LABEL_MAP_DIR.glob("*.json")),
        "methods": ["cps4", *sorted(p.stem for p in (CONFIG_DIR / "methods").glob("*.yaml"))],
    }
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    for c in table.classes:
        print(f"{c.id:3d}  {c.name:8s} {c.group:11s} {c.long_name}")
    print("label maps:", ", ".join(found["label_maps"]))
    print("methods:   ", ", ".join(found["methods"]))
    return 0
