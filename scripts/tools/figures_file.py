"""Read and write the JSON file of figures that several benchmarks share."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..bundle.launch import BUNDLE_ROOT
from ..files import write_whole

RELIABILITY = BUNDLE_ROOT / "docs" / "results" / "reliability.json"


def read_figures(path: Path) -> dict[str, Any]:
    """Read the figures; none without a file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def add_figures(path: Path, figures: Mapping[str, Any]) -> None:
    """Add figures to a file, or replace those of the same names; each row of a list gets its own line."""
    content = {**read_figures(path), **figures}
    entries = [f"{json.dumps(name)}: {_text(value)}" for name, value in content.items()]
    write_whole(path, "{\n" + ",\n".join(entries) + "\n}\n")


def replace_rows(rows: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    """Put new rows in the place of those with the same values of some keys, or at the end."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for source in (rows, new):
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in source:
            found[json.dumps([row[key] for key in keys])].append(row)
        groups |= found
    return [row for group in groups.values() for row in group]


def _text(value: Any) -> str:
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(f" {json.dumps(row, ensure_ascii=False)}" for row in value) + "\n]"
    return json.dumps(value, ensure_ascii=False)
