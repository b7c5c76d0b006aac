"""Datalists, labels and folders that cannot be used: `check` and `prepare` refuse each with an error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from scripts.bundle.launch import BUNDLE_ROOT
from tests.reliability import commands
from tests.reliability.bad_lists import FOLDERS, LISTS, TAKEN, good_list, scan_folder
from tests.reliability.bad_scans import new_scan


def every_fourth(kinds: Iterable[str]) -> list[Any]:
    """Parameters of which `make test` takes every fourth."""
    return [
        pytest.param(number, kind, marks=pytest.mark.reliability if number % 4 else (), id=kind)
        for number, kind in enumerate(kinds)
    ]


def errors_of(arguments: list[str], folder: Path) -> list[str]:
    """Run a command that has to fail, and return its errors, without names of this machine's folders."""
    code, text = commands.in_process(arguments)
    assert code == 1, text
    lines = [line for line in text.splitlines() if line.startswith(("error", "Error"))]
    assert lines, text
    names = ((f"{folder}/", ""), (f"{folder}", "."), (f"{BUNDLE_ROOT}/", ""))
    return [" ".join(reduce(lambda text, name: text.replace(*name), names, line).split()) for line in lines]


def test_check_accepts_the_list_before_its_change(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps(good_list(new_scan(tmp_path / "good", seed, 0))), encoding="utf-8")
    code, text = commands.in_process(["check", str(path)])
    assert code == 0, text


def test_prepare_accepts_the_folder_before_its_change(seed: int, tmp_path: Path) -> None:
    scan, out = new_scan(tmp_path / "good", seed, 0), tmp_path / "out.json"
    folder = scan_folder(scan, "images/a.nii.gz", "labels/a.nii.gz")
    code, text = commands.in_process(["prepare", str(folder), "--out", str(out)])
    assert code == 0, text


@pytest.mark.parametrize(("number", "kind"), every_fourth(LISTS))
def test_check_refuses(number: int, kind: str, seed: int, tmp_path: Path, record_row: Callable[..., None]) -> None:
    folder = tmp_path / f"{number:02d}"
    content, path = LISTS[kind](new_scan(folder, seed, number)), folder / "data.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    errors = errors_of(["check", str(path)], folder)
    assert ": " in errors[0]
    record_row("bad_input", part="lists", kind=kind, input=f"{number:02d}", outcome="refused", check=errors)


@pytest.mark.parametrize("kind", TAKEN)
def test_check_accepts(kind: str, seed: int, tmp_path: Path, record_row: Callable[..., None]) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps(TAKEN[kind](new_scan(tmp_path / "it", seed, 0))), encoding="utf-8")
    code, text = commands.in_process(["check", str(path)])
    assert code == 0, text
    record_row("bad_input", part="lists", kind=kind, input="00", outcome="labelled", check=[])


def test_prepare_says_that_labels_pair_with_nothing(seed: int, tmp_path: Path, record_row: Callable[..., None]) -> None:
    """All others are prepared, but the exit code is 1."""
    folder = scan_folder(new_scan(tmp_path / "it", seed, 0), "images/a.nii.gz", "labels/a.nii.gz", "labels/b.nii.gz")
    errors = errors_of(["prepare", str(folder), "--out", str(tmp_path / "out.json")], folder)
    assert errors[0].startswith("error: 1 labels pair with no scan")
    kind = "labels that pair with nothing"
    record_row("bad_input", part="folders", kind=kind, input="00", outcome="refused", prepare=errors)


@pytest.mark.parametrize(("number", "kind"), every_fourth(FOLDERS))
def test_prepare_refuses(number: int, kind: str, seed: int, tmp_path: Path, record_row: Callable[..., None]) -> None:
    folder, out = tmp_path / f"{number:02d}", tmp_path / "out.json"
    arguments = [str(argument) for argument in FOLDERS[kind](new_scan(folder, seed, number))]
    errors = errors_of(["prepare", *arguments, *([] if "--out" in arguments else ["--out", str(out)])], folder)
    assert errors[0].startswith("error: ")
    assert not out.exists()
    record_row("bad_input", part="folders", kind=kind, input=f"{number:02d}", outcome="refused", prepare=errors)
