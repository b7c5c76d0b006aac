"""Options and fixtures of the reliability tests; `python -m scripts benchmark bad_input` and `kills` run them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("reliability")
    group.addoption("--cases", type=int, help="files of every kind of bad scan (3), or killed runs of each stage (4)")
    group.addoption("--seed", type=int, default=0, help="of these files, and of the moments of the kills")


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    return pytestconfig.getoption("seed", 0)


@pytest.fixture
def record_row(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """`record_row(table, key=value)`: put a row into pytest's JUnit report, from which the commands make tables."""

    def record(table: str, **row: Any) -> None:
        record_property(table, json.dumps(row))

    return record
