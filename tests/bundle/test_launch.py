from __future__ import annotations

from pathlib import Path

import pytest

from scripts.bundle.launch import BUNDLE_ROOT, command, config_paths
from scripts.files import FileError


class TestConfigPaths:
    def test_relative_and_absolute(self, tmp_path: Path) -> None:
        (tmp_path / "own.yaml").write_text("", encoding="utf-8")
        own = str(tmp_path / "own.yaml")
        assert config_paths(["train.yaml", "methods/bcp.yaml", own]) == [
            *(str(BUNDLE_ROOT / "configs" / name) for name in ("train.yaml", "methods/bcp.yaml")),
            own,
        ]

    @pytest.mark.parametrize(
        ("given", "near"), [("narow.yaml", "narrow.yaml"), ("methods/mean_techer.yaml", "methods/mean_teacher.yaml")]
    )
    def test_nearest_name(self, given: str, near: str) -> None:
        with pytest.raises(FileError, match=rf"^there is no config .*/configs/{given}; did you mean {near}\?$"):
            command("training", ["train.yaml", given], {})

    def test_nothing_near(self) -> None:
        with pytest.raises(FileError, match=r"^there is no config .*/configs/qqqqqqqq$"):
            config_paths(["qqqqqqqq"])
