from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from scripts import weights
from scripts.files import FileError


class Killed(BaseException):
    """Stands for SIGKILL: nothing behind it is done."""


class TestModelFiles:
    def settings(self, folder: Path) -> dict[str, object]:
        found = weights.model_settings(folder)
        assert found is not None
        return found

    def test_checksum_of_the_weights(self, tmp_path: Path) -> None:
        weights.write_model_files(tmp_path, b"weights", {"sha256": "of others", "pixel_mm": 1.2})
        written = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
        assert written == {"sha256": hashlib.sha256(b"weights").hexdigest(), "pixel_mm": 1.2}
        assert self.settings(tmp_path) == {"pixel_mm": 1.2}
        assert sorted(f.name for f in tmp_path.iterdir()) == ["model.json", "model.pt"]

    def test_no_pair_is_refused(self, tmp_path: Path) -> None:
        weights.write_model_files(tmp_path, b"weights", {"pixel_mm": 1.2})
        (tmp_path / "model.pt").write_bytes(b"others")
        with pytest.raises(FileError, match=r"model.pt does not fit its model.json .*: copy both again"):
            weights.model_settings(tmp_path)

    def test_without_a_checksum(self, tmp_path: Path) -> None:
        """A network of another program comes with settings that a person wrote."""
        (tmp_path / "model.pt").write_bytes(b"others")
        assert weights.model_settings(tmp_path) is None
        (tmp_path / "model.json").write_text('{"pixel_mm": 1.2}', encoding="utf-8")
        assert weights.model_settings(tmp_path) == {"pixel_mm": 1.2}

    def test_settings_alone(self, tmp_path: Path) -> None:
        """As beside an exported network."""
        weights.write_model_files(tmp_path, b"weights", {"pixel_mm": 1.2})
        (tmp_path / "model.pt").unlink()
        assert weights.model_settings(tmp_path) == {"pixel_mm": 1.2}

    @pytest.mark.parametrize("earlier", [0, 1])
    @pytest.mark.parametrize("restored", [False, True])
    @pytest.mark.parametrize("after", [False, True])
    @pytest.mark.parametrize("moment", [0, 1, 2])
    def test_killed_at_any_moment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int, after: bool, restored: bool, earlier: int
    ) -> None:
        """Readers find the old pair or the new one, before and after the next start; so does a second death."""
        replace, calls = os.replace, []

        def dies(source: object, target: object) -> None:
            calls.append(target)
            if after or len(calls) <= moment:
                replace(source, target)  # type: ignore[arg-type]
            if len(calls) > moment:
                raise Killed

        def number() -> int:
            """Which pair lies there, read as a whole."""
            file = tmp_path / "model.pt"
            found = weights.model_settings(tmp_path) if file.is_file() else None
            assert (found or {"number": 0})["number"] == (int(file.read_bytes()) if file.is_file() else 0)
            return int((found or {"number": 0})["number"])

        if earlier:
            weights.write_model_files(tmp_path, b"1", {"number": 1})
        last = earlier
        for new in (2, 3):  # a run that dies, and the one that goes on and dies as well
            calls.clear()
            monkeypatch.setattr(os, "replace", dies)
            with pytest.raises(Killed):
                weights.write_model_files(tmp_path, str(new).encode(), {"number": new})
            monkeypatch.setattr(os, "replace", replace)
            assert number() in (last, new)
            last = number()
            if restored:
                weights.restore_model_files(tmp_path)
                assert number() == last
                assert not (tmp_path / ".next-model.json").exists()
                if last:
                    assert json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))["number"] == last
        weights.write_model_files(tmp_path, b"4", {"number": 4})
        assert number() == 4
        assert sorted(f.name for f in tmp_path.iterdir()) == ["model.json", "model.pt"]

    def test_reader_between_the_two_files_of_a_writer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        weights.write_model_files(tmp_path, b"1", {"number": 1})
        digest, calls = weights._weights_sha256, []

        def while_written(folder: Path) -> str | None:
            found = digest(folder)
            if not calls:
                calls.append(folder)
                monkeypatch.setattr(weights, "_weights_sha256", digest)
                weights.write_model_files(tmp_path, b"2", {"number": 2})
            return found

        monkeypatch.setattr(weights, "_weights_sha256", while_written)
        assert weights.model_settings(tmp_path) == {"number": 2}
