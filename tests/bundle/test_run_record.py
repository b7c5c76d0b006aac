from __future__ import annotations

import hashlib
import json
import logging
import sys
from pathlib import Path

import pytest
import torch

from scripts.bundle.run_record import _command, git_state, has_datalist, hide_secret, record_run
from scripts.data.check import remembered as module
from scripts.data.check.remembered import checksums


@pytest.fixture
def scans(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "a.nii.gz", tmp_path / "series"]
    paths[0].write_bytes(b"image")
    paths[1].mkdir()
    for name in ("2.dcm", "1.dcm"):
        (paths[1] / name).write_bytes(name.encode())
    return [str(path) for path in paths]


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class TestChecksums:
    def test_value(self, scans: list[str]) -> None:
        assert checksums(scans) == {scans[0]: sha(b"image"), scans[1]: sha(b"1.dcm2.dcm")}

    def test_remembered_until_a_file_changes(
        self, scans: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = checksums(scans, tmp_path / "cache")
        read: list[str] = []
        real = module._checksum
        monkeypatch.setattr(module, "_checksum", lambda path: read.append(path) or real(path))
        assert checksums(scans, tmp_path / "cache") == first
        assert read == []
        Path(scans[0]).write_bytes(b"another")
        assert checksums(scans, tmp_path / "cache")[scans[0]] == sha(b"another")
        assert read == [scans[0]]
        (tmp_path / "cache" / module.MEMORY).write_text("damaged")
        assert checksums(scans, tmp_path / "cache")[scans[1]] == first[scans[1]]


def test_datalist_of_the_last_start(tmp_path: Path) -> None:
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    first.write_text("{}")
    second.write_text("[]")
    assert not has_datalist(tmp_path, first)  # nothing recorded
    record_run(tmp_path, first, [], None)
    assert has_datalist(tmp_path, first)
    assert not has_datalist(tmp_path, second)
    second.write_text("{}")
    assert has_datalist(tmp_path, second)  # the content counts, not the name


class TestRecordRun:
    def test_value(self, scans: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        datalist = tmp_path / "d.json"
        datalist.write_text("{}")
        monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", "--seed", "3"])
        entries = [{"image": scans[0], "label": scans[1], "patient": "Doe^Jane", "case": "1"}]
        record_run(tmp_path, datalist, entries, None)
        text = (tmp_path / "run.json").read_text(encoding="utf-8")
        made = json.loads(text)
        assert made["files"] == checksums(scans)
        assert made["datalist"] == {"path": str(datalist), "sha256": sha(b"{}")}
        (start,) = made["starts"]
        assert start["command"] == ["monai.bundle", "run", "--seed", "3"]
        assert start["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
        assert start["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
        assert "Doe" not in text

    def test_starts_add_up_and_other_data_are_noticed(
        self, scans: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for content in (b"image", b"image", b"other"):
            Path(scans[0]).write_bytes(content)
            assert "the data are not those of the last start" not in caplog.text
            with caplog.at_level(logging.WARNING):
                record_run(tmp_path, None, [{"image": scans[0]}], None)
        assert f"the data are not those of the last start in {tmp_path}" in caplog.text
        assert len(json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["starts"]) == 3

    def test_damaged_record_is_begun_anew(self, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text("{")
        record_run(tmp_path, None, [], None)
        assert len(json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["starts"]) == 1


class TestGitState:
    def test_outside_a_repository(self, tmp_path: Path) -> None:
        assert git_state(tmp_path) is None


class TestSecrets:
    def test_command(self) -> None:
        given = (
            "run --mlflow_token abc --password=xyz --loss_weights#token 0.5 --tracking https://me:pw@host/x --seed 1"
        )
        shown = "run --mlflow_token *** --password=*** --loss_weights#token 0.5 --tracking https://***@host/x --seed 1"
        assert _command(given.split()) == shown.split()

    @pytest.mark.parametrize(
        ("name", "value", "shown"),
        [
            ("api_key", "abc", "***"),
            ("api_key", "", ""),
            ("api_key", "@other", "@other"),
            ("ckpt_key", "student", "student"),
            ("image", "a@b.nii.gz", "a@b.nii.gz"),
        ],
    )
    def test_setting(self, name: str, value: str, shown: str) -> None:
        assert hide_secret(name, value) == shown
