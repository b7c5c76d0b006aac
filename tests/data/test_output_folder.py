from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from scripts.data.datalist import DataError
from scripts.data.output_folder import OutputFolder

MEND = "; name another --output_dir, or give --overwrite True to replace it"


def entries(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert set(content) == {"files"}
    return dict(content["files"])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def refused(out: Path) -> Callable[..., str]:
    """The sentence with which a run over the scan /in/a.nii is refused; "" if it is not."""

    def refuse(source: str = "/in/a.nii", kept: Any = (), texts: Any = (), **settings: Any) -> str:
        try:
            OutputFolder(out, endings=["_seg.nii.gz", "_levels.json"], **settings).refuse(
                {"a": source}, dict(texts), kept
            )
        except DataError as error:
            return str(error)
        return ""

    return refuse


class TestManifest:
    def test_value(self, out: Path, tmp_path: Path) -> None:
        (tmp_path / "model.pt").write_bytes(b"weights")
        OutputFolder(out, tmp_path / "model.pt").write("a_seg.nii.gz", b"label map", "/in/a.nii")
        (entry,) = entries(out).values()
        date = datetime.fromisoformat(entry.pop("date"))
        assert abs((datetime.now().astimezone() - date).total_seconds()) < 60
        assert entry == {
            "source": "/in/a.nii",
            "sha256": sha256(b"label map").hexdigest(),
            "model": sha256(b"weights").hexdigest(),
        }
        assert (out / "a_seg.nii.gz").read_bytes() == b"label map"

    def test_what_it_tells_of_a_file(self, out: Path) -> None:
        outputs = OutputFolder(out)
        outputs.write("a.csv", b"1", "/in/a.nii")
        (out / "b.csv").write_bytes(b"by hand")
        assert (outputs.source("a.csv"), outputs.source("b.csv")) == ("/in/a.nii", "")
        assert (outputs.is_own("a.csv"), outputs.is_own("b.csv"), outputs.is_own("c.csv")) == (True, False, False)
        (out / "a.csv").write_bytes(b"corrected")
        assert not outputs.is_own("a.csv")
        (out / "a.csv").unlink()
        assert list(outputs.entries()) == ["a.csv"]

    def test_processes_that_share_the_folder(self, out: Path) -> None:
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=write_many, args=(out, letter)) for letter in "ab"]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
            assert process.exitcode == 0
        assert sorted(entries(out)) == sorted(f"{letter}{number}" for letter in "ab" for number in range(20))

    def test_damaged(self, out: Path, refused: Callable[..., str]) -> None:
        (out / "manifest.json").write_text("{", encoding="utf-8")
        assert refused().startswith(f"{out / 'manifest.json'} is damaged; ")


def write_many(folder: Path, letter: str) -> None:
    """What one of the processes does."""
    for number in range(20):
        OutputFolder(folder).write(f"{letter}{number}", b"x", "/in/a.nii")


class TestRefuse:
    def test_nothing_there(self, refused: Callable[..., str]) -> None:
        assert refused() == ""

    def test_own_file_of_the_same_scan(self, out: Path, refused: Callable[..., str]) -> None:
        OutputFolder(out).write("a_seg.nii.gz", b"1", "/in/a.nii")
        assert refused() == ""
        OutputFolder(out).write("a_seg.nii.gz", b"2", "/in/a.nii")
        assert (out / "a_seg.nii.gz").read_bytes() == b"2"

    def test_made_by_hand(self, out: Path, refused: Callable[..., str]) -> None:
        (out / "a_seg.nii.gz").write_bytes(b"by hand")
        assert refused() == f"{out / 'a_seg.nii.gz'} was not written by this program{MEND}"
        assert refused(overwrite=True) == ""
        (out / "a_levels.json").write_bytes(b"by hand")
        assert refused().endswith("to replace it (1 more of its files are kept in the same way)")

    def test_corrected_by_hand(self, out: Path, refused: Callable[..., str]) -> None:
        OutputFolder(out).write("a_seg.nii.gz", b"1", "/in/a.nii")
        (out / "a_seg.nii.gz").write_bytes(b"corrected")
        assert refused() == f"{out / 'a_seg.nii.gz'} was changed since this program wrote it{MEND}"
        assert refused(overwrite=True) == ""

    def test_of_another_scan(self, out: Path, refused: Callable[..., str]) -> None:
        OutputFolder(out).write("a_seg.nii.gz", b"1", "/patA/a.nii")
        message = f"{out / 'a_seg.nii.gz'} was made from /patA/a.nii, and /in/a.nii has the same name{MEND}"
        assert refused() == message
        assert refused(overwrite=True) == ""

    def test_link_to_nowhere(self, out: Path, refused: Callable[..., str]) -> None:
        (out / "a_seg.nii.gz").symlink_to(out / "gone")
        assert "was not written by this program" in refused()

    @pytest.mark.parametrize("link", [None, os.link, os.symlink])
    def test_what_the_datalist_names(self, out: Path, tmp_path: Path, refused: Callable[..., str], link: Any) -> None:
        """Also behind a link, and also if this program wrote it: a prediction is not scored against itself."""
        OutputFolder(out).write("a_seg.nii.gz", b"1", "/in/a.nii")
        label = out / "a_seg.nii.gz"
        if link is not None:
            label = label.rename(tmp_path / "label.nii.gz")
            link(label, out / "a_seg.nii.gz")
        words = "is a scan or label that this run reads, or that the datalist names"
        assert refused(kept=[label, tmp_path / "gone"]) == f"{out / 'a_seg.nii.gz'} {words}{MEND}"
        assert refused(kept=[label], overwrite=True) == ""

    def test_files_of_the_whole_run(self, out: Path, refused: Callable[..., str]) -> None:
        (out / "summary.json").write_text("of another program", encoding="utf-8")
        assert refused(files=["summary.json"]) == f"{out / 'summary.json'} was not written by this program{MEND}"

    def test_other_classes(self, out: Path, refused: Callable[..., str]) -> None:
        OutputFolder(out).write_text(out / "labels.json", "{}")
        assert refused(texts={"labels.json": "{}"}) == ""
        assert refused(texts={"labels.json": "{1}"}).startswith(f"{out / 'labels.json'} tells of other classes than")


class TestWrite:
    def test_file_that_came_meanwhile(self, out: Path) -> None:
        (out / "a_seg.nii.gz").write_bytes(b"by hand")
        with pytest.raises(DataError, match=r"a_seg.nii.gz was not written by this program; name another"):
            OutputFolder(out).write("a_seg.nii.gz", b"1", "/in/a.nii")
        assert (out / "a_seg.nii.gz").read_bytes() == b"by hand"
        OutputFolder(out, overwrite=True).write("a_seg.nii.gz", b"1", "/in/a.nii")
        assert (out / "a_seg.nii.gz").read_bytes() == b"1"

    @pytest.mark.parametrize("moment", range(4))
    def test_killed_run_knows_its_files(
        self, out: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str], moment: int
    ) -> None:
        OutputFolder(out).write("a_seg.nii.gz", b"1", "/in/a.nii")
        replace, calls = os.replace, []

        def dies(source: Any, target: Any) -> None:
            calls.append(target)
            if len(calls) > moment // 2 + moment % 2:
                raise KeyboardInterrupt
            replace(source, target)
            if len(calls) > moment // 2:
                raise KeyboardInterrupt

        for content in (b"2", b"3"):  # both die at the same place
            monkeypatch.setattr(os, "replace", dies)
            calls.clear()
            with pytest.raises(KeyboardInterrupt):
                OutputFolder(out).write("a_seg.nii.gz", content, "/in/a.nii")
            monkeypatch.setattr(os, "replace", replace)
            assert refused() == ""
        OutputFolder(out).write("a_seg.nii.gz", b"4", "/in/a.nii")
        assert (out / "a_seg.nii.gz").read_bytes() == b"4"

    def test_file_by_hand_is_not_ours_after_a_kill(
        self, out: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
    ) -> None:
        """It was to be replaced, and was not."""
        (out / "a_seg.nii.gz").write_bytes(b"by hand")
        replace = os.replace

        def dies(source: Any, target: Any) -> None:
            if Path(target).name == "a_seg.nii.gz":
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            OutputFolder(out, overwrite=True).write("a_seg.nii.gz", b"1", "/in/a.nii")
        assert "was changed since this program wrote it" in refused()


class TestHolds:
    def test_value(self, out: Path) -> None:
        outputs = OutputFolder(out)
        assert not outputs.holds("a_seg.nii.gz", "/in/a.nii")
        outputs.write("a_seg.nii.gz", b"1", "/in/a.nii")
        assert outputs.holds("a_seg.nii.gz", "/in/a.nii")
        (out / "b_seg.nii.gz").write_bytes(b"by hand")
        assert outputs.holds("b_seg.nii.gz", "/in/b.nii")

    def test_of_another_scan(self, out: Path) -> None:
        OutputFolder(out).write("a_seg.nii.gz", b"1", "/patA/a.nii")
        with pytest.raises(DataError, match=r"a_seg.nii.gz was made from /patA/a.nii, and /in/a.nii has the same"):
            OutputFolder(out).holds("a_seg.nii.gz", "/in/a.nii")
        assert not OutputFolder(out, overwrite=True).holds("a_seg.nii.gz", "/in/a.nii")
