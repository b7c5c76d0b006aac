from __future__ import annotations

from typing import Any

import pytest
from ignite.engine import Engine

from scripts.inference import progress
from scripts.inference.progress import ScanProgress


class Bar:
    """Keeps what a bar of tqdm is told."""

    def __init__(self, **options: Any) -> None:
        self.options, self.told = options, []

    def set_description(self, text: str) -> None:
        self.told.append(text)

    def update(self) -> None:
        self.told.append("+1")

    def close(self) -> None:
        self.told.append("closed")


@pytest.fixture(autouse=True)
def bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "tqdm", Bar)


def run(batches: list[Any], step: Any = lambda engine, batch: None) -> tuple[Any, BaseException | None]:
    engine, handler = Engine(step), ScanProgress()
    handler.attach(engine)
    try:
        engine.run(batches)
    except ValueError as error:
        return handler.bar, error
    return handler.bar, None


class TestScanProgress:
    def test_names(self) -> None:
        bar, _ = run([[{"case": "a"}], {"case": ["b"]}, [{}]])
        assert bar.told == ["a", "+1", "b", "+1", "labelling", "+1", "labelling", "closed"]
        assert bar.options["total"] == 3
        assert bar.options["disable"] is None

    def test_the_scan_of_an_error_stays_in_sight(self) -> None:
        def fail(engine: Engine, batch: Any) -> None:
            raise ValueError("no")

        bar, error = run([[{"case": "a"}], [{"case": "b"}]], fail)
        assert bar.told == ["a"]
        assert str(error) == "no"
