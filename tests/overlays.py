"""Which overlays lie on which base, by their own headers."""

from __future__ import annotations

from pathlib import Path

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def methods_on(base: str) -> list[Path]:
    """Overlays of `configs/methods` whose header names the base."""
    files = sorted((CONFIGS / "methods").glob("*.yaml"))
    return [path for path in files if path.read_text(encoding="utf-8").startswith(f"# overlay on: {base}\n")]
