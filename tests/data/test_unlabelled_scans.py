from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.data.datalist import DataError
from scripts.data.unlabelled_scans import unlabelled_scans


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Six scans in a server's folder, two of them labelled; the labels have the scans' names."""
    final = tmp_path / "studies" / "labels" / "final"
    final.mkdir(parents=True)
    for name in "abcdef":
        (tmp_path / "studies" / f"{name}.nii.gz").touch()
    for name in "ab":
        (final / f"{name}.nii.gz").touch()
    (tmp_path / "studies" / "c_seg.nii.gz").touch()
    (tmp_path / "studies" / "datastore_v2.json").write_text("{}", encoding="utf-8")
    return tmp_path / "studies"


def entry(folder: Path, name: str) -> dict[str, str]:
    return {"image": str(folder / f"{name}.nii.gz"), "label": str(folder / "labels/final" / f"{name}.nii.gz")}


def names(scans: list[dict[str, str]]) -> list[str]:
    return [scan["case"] for scan in scans]


class TestUnlabelledScans:
    def test_beside_the_labelled_ones(self, studies: Path) -> None:
        found = unlabelled_scans("", [entry(studies, "a")], [entry(studies, "b")])
        assert names(found) == ["c", "d", "e", "f"]
        assert [set(scan) for scan in found] == [{"image", "case"}] * 4

    def test_never_those_of_validation(self, studies: Path) -> None:
        (studies.parent / "link").symlink_to(studies)  # a datastore gives real paths, an environment maybe others
        validation = [entry(studies.parent / "link", name) for name in "bd"]
        assert names(unlabelled_scans("", [entry(studies, "a")], validation)) == ["c", "e", "f"]

    def test_in_the_server_s_studies(self, studies: Path, tmp_path: Path) -> None:
        fetched = tmp_path / "cache"
        fetched.mkdir()
        for name in ("a", "z"):
            (fetched / f"{name}.nii.gz").touch()
        labelled = [entry(fetched, "a")]
        assert names(unlabelled_scans("", labelled, [], studies=str(studies))) == ["z", "a", "b", "c", "d", "e", "f"]
        assert names(unlabelled_scans("", labelled, [], studies="https://dicom.example/wado")) == ["z"]

    def test_folder(self, studies: Path, tmp_path: Path) -> None:
        (tmp_path / "more" / "deep").mkdir(parents=True)
        (tmp_path / "more" / "deep" / "g.nii.gz").touch()
        assert names(unlabelled_scans("", [entry(studies, "a")], [], folder=tmp_path / "more")) == ["deep_g"]

    def test_none(self, studies: Path) -> None:
        assert unlabelled_scans("", [], [], studies=str(studies)) == []
        assert unlabelled_scans("", [entry(studies, n) for n in "acdef"], [entry(studies, "b")]) == []

    def test_datalist(self, studies: Path, tmp_path: Path) -> None:
        datalist = tmp_path / "d.json"
        datalist.write_text(json.dumps({"unlabelled": [{"image": "studies/e.nii.gz"}]}), encoding="utf-8")
        assert names(unlabelled_scans(datalist, [entry(studies, "a")], [], studies=str(studies))) == ["e"]

    def test_exception(self, studies: Path) -> None:
        with pytest.raises(DataError, match="leave out --unlabelled_dir"):
            unlabelled_scans("d.json", [entry(studies, "a")], [], folder=studies)
