"""Runs that a user set up wrongly: each ends with one sentence and leaves what was there as it was."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.bundle.launch import BUNDLE_ROOT
from scripts.phantom.write import write_phantoms
from tests.reliability import commands
from tests.reliability.bad_runs import RUNS, Place
from tests.reliability.bad_scans import new_scan
from tests.reliability.test_bad_lists import every_fourth

LOGS = ("config.yaml", "run.json", "log.txt")
"""What a run writes of itself before it begins."""
RESULTS = ("_seg.nii.gz", "_levels.json", "model.pt", "checkpoint.pt", "summary.json", "per_case.csv", ".png")


@pytest.fixture(autouse=True)
def same_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs set how errors are shown; put it back."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    """A finished training in `run` and `models`."""
    place = Place(new_scan(tmp_path_factory.mktemp("trained") / "it", seed, 98), Path())
    assert commands.bundle(*place.training()) == ""
    return place.folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize(("number", "kind"), every_fourth(RUNS))
def test_run_refuses(
    number: int, kind: str, seed: int, tmp_path: Path, trained: Path, record_row: Callable[..., None]
) -> None:
    folder = tmp_path / f"{number:02d}"
    run = RUNS[kind](Place(new_scan(folder, seed, number), trained))
    before = contents(folder)
    said = commands.bundle(*run)
    assert said, "it was not refused"
    after = contents(folder)
    changed = [name for name, content in before.items() if after.get(name) != content]
    assert [name for name in changed if Path(name).name not in LOGS] == []
    made = [name for name in after if name not in before]
    assert [name for name in made if name.endswith(RESULTS)] == []
    for name in (f"{folder}/", f"{trained}/", f"{BUNDLE_ROOT}/"):
        said = said.replace(name, "")
    text = " ".join(said.replace(str(folder), ".").split())
    record_row("bad_input", part="runs", kind=kind, input=f"{number:02d}", outcome="refused", run=[text])


def test_folder_that_cannot_be_written_is_named_by_its_key(seed: int, tmp_path: Path) -> None:
    place = Place(new_scan(tmp_path / "it", seed, 0), Path())
    said = commands.bundle(*place.training(output_dir=place.by_hand("file") / "run"))
    assert said.endswith("file/run cannot be written: Not a directory; name another folder with --output_dir")


@pytest.mark.reliability
def test_config_that_is_misspelt(tmp_path: Path, record_row: Callable[..., None]) -> None:
    write_phantoms(tmp_path / "phantoms", labelled=4, unlabelled=0, validation=1, test=1, shape_hw=(40, 32), pixel_mm=7)
    given = ["--data", str(tmp_path / "phantoms"), "--out", str(tmp_path / "out"), "--overlays", "narow.yaml"]
    code, text = commands.in_process(["benchmark", "accuracy", *given])
    assert code == 1
    said = text.strip().splitlines()[-1]
    assert "narow.yaml" in said
    assert "narrow.yaml" in said.replace("narow.yaml", "")
    run = [said.replace(f"{BUNDLE_ROOT}/", "")]
    record_row("bad_input", part="runs", kind="config misspelt", input="00", outcome="refused", run=run)


@pytest.mark.reliability
def test_from_another_folder_without_bundle_root(tmp_path: Path, record_row: Callable[..., None]) -> None:
    line = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file"]
    code, text = commands.in_new_process([*line, str(BUNDLE_ROOT / "configs/train.yaml")], cwd=tmp_path)
    assert code == 1
    said = text[text.index("Error: ") + 7 :].strip()
    assert f"add --bundle_root {BUNDLE_ROOT}" in said
    said = said.replace(f"{tmp_path}/", "").replace(str(BUNDLE_ROOT), "BUNDLE")
    record_row("bad_input", part="runs", kind="no bundle_root", input="00", outcome="refused", run=[said])
