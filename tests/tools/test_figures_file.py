from __future__ import annotations

import json
from pathlib import Path

from scripts.tools.figures_file import add_figures, read_figures, replace_rows


def test_others_figures_stay(tmp_path: Path) -> None:
    file = tmp_path / "results" / "r.json"
    assert read_figures(file) == {}
    mine, later = (
        {"kills": [{"phase": "ä", "survived": True}, {"phase": "b"}], "n": 2},
        {"n": 3, "none": [], "by": {"x": 1}},
    )
    add_figures(file, mine)
    add_figures(file, later)
    assert read_figures(file) == json.loads(file.read_text(encoding="utf-8")) == {**mine, **later}


def test_a_row_is_a_line(tmp_path: Path) -> None:
    """So that a change of one row shows as a change of one line."""
    add_figures(tmp_path / "r.json", {"kills": [{"phase": "a", "n": 1}, {"phase": "b", "n": 2}], "n": 2})
    assert (tmp_path / "r.json").read_text(encoding="utf-8").splitlines() == [
        "{", '"kills": [', ' {"phase": "a", "n": 1},', ' {"phase": "b", "n": 2}', "],", '"n": 2', "}",
    ]  # fmt: skip


def test_new_rows_replace_those_of_equal_keys() -> None:
    rows = [{"a": 1, "b": [0], "c": 1}, {"a": 1, "b": [0], "c": 2}, {"a": 2, "b": [0], "c": 3}]
    assert replace_rows(rows, [{"a": 1, "b": [0], "c": 4}], "a", "b") == [{"a": 1, "b": [0], "c": 4}, rows[2]]
