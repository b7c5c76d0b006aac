"""A JSON file of figures that several benchmarks write, each its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..bundle.launch import BUNDLE_ROOT
from ..files import write_whole

RELIABILITY = BUNDLE_ROOT / "docs" / "results" / "reliability.json"


def read_figures(path: Path) -> dict[str, Any]:
    """The figures that a file holds; none without a file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def add_figures(path: Path, figures: Mapping[str, Any]) -> None:
    """Put figures into a file beside those that others have written there, each row of a list on a line of its own."""
    content = {**read_figures(path), **figures}
    entries = [f"{json.dumps(name)}: {_text(value)}" for name, value in content.items()]
    write_whole(path, "{\n" + ",\n".join(entries) + "\n}\n")


def _text(value: Any) -> str:
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(f" {json.dumps(row, ensure_ascii=False)}" for row in value) + "\n]"
    return json.dumps(value, ensure_ascii=False)
