"""A DICOM series names its patient; nothing that the bundle writes or prints does."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from scripts.__main__ import main
from scripts.data.cache import SliceCache
from scripts.data.datalist import select
from scripts.training.start import start

NAMES = (b"Doe", b"Jane", b"MRN4711")


def written(folder: Path) -> bytes:
    """All that lies in a folder, unpacked."""
    contents = [(p, p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()]
    names = "\n".join(str(path.relative_to(folder)) for path, _ in contents).encode()
    return b"\n".join([names, *(gzip.decompress(c) if p.suffix == ".gz" else c for p, c in contents)])


@pytest.fixture
def series(tmp_path, write_dicom) -> Path:
    write_dicom(tmp_path / "in" / "scan_a", number=3)
    write_dicom(tmp_path / "in" / "scan_b", number=4)
    assert all(name in written(tmp_path / "in") for name in NAMES)
    return tmp_path / "in"


def test_prepare_and_check(series, tmp_path, capsys, caplog):
    caplog.set_level(logging.DEBUG)
    out = tmp_path / "out"
    assert main(["prepare", str(series), "--out", str(out / "d.json"), "--layout", "dicom"]) == 0
    main(["check", str(out / "d.json")])
    said = capsys.readouterr()
    everything = written(out) + (said.out + said.err + caplog.text).encode()
    assert b"scan_a" in everything
    assert [name for name in NAMES if name in everything] == []


def test_training_and_inference_read_the_series_itself(series, tmp_path, capsys, caplog, bundle_root, monkeypatch):
    """What a run records, what its slices hold, and what is said meanwhile."""
    monkeypatch.setattr("sys.excepthook", None)
    caplog.set_level(logging.DEBUG)
    out = tmp_path / "out"
    entries = [{"image": str(path)} for path in sorted(series.iterdir())]
    (tmp_path / "d.json").write_text(json.dumps({"unlabelled": entries}), encoding="utf-8")
    start(out / "run", tmp_path / "d.json", {"unlabelled": ""}, cache_dir=out / "cache")
    parser = ConfigParser(ConfigParser.load_config_files([str(bundle_root / "configs" / "train.yaml")]))
    parser["bundle_root"] = str(bundle_root)
    slices = SliceCache(out / "cache", parser.get_parsed_content("slice_cache#transform"))
    for entry in select(tmp_path / "d.json", "unlabelled"):
        assert (slices.build(entry) / "image.npy").is_file()
    said = capsys.readouterr()
    everything = written(out) + (said.out + said.err + caplog.text).encode()
    assert b"scan_a" in everything
    assert [name for name in NAMES if name in everything] == []
