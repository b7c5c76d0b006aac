from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from scripts.files import FileError
from scripts.networks.pretrained import require_pretrained


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """A hub that offers `hub/there`, and whatever was asked of it; `hub/kept` was fetched earlier."""
    asked: list[tuple[str, float]] = []

    def info(name: str, timeout: float) -> None:
        asked.append((name, timeout))
        if name != "hub/there":
            raise ConnectionError("Name or service not known")

    def cached(name: str, file: str) -> Any:
        return "/cache/config.json" if name == "hub/kept" else None

    monkeypatch.setattr(huggingface_hub, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    return asked


def test_folders_and_what_was_fetched_ask_nobody(hub: list[tuple[str, float]], tmp_path: Path) -> None:
    require_pretrained([str(tmp_path), "hub/kept"])
    assert hub == []
    require_pretrained(["hub/there"])
    assert hub == [("hub/there", 5)]


def test_without_a_network(hub: list[tuple[str, float]]) -> None:
    mend = r"without a network add configs/offline_encoders\.yaml behind configs/pretrain\.yaml"
    with pytest.raises(FileError, match=rf"^the pretrained encoder 'hub/vit' is no folder .*; {mend}"):
        require_pretrained(["hub/vit", "hub/bert"])
    assert hub == [("hub/vit", 5)]  # once, and not again and again
