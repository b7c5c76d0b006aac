"""Damaged, unusable and unusual scans: inference labels or refuses each, by a message that names the file."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from scripts.bundle.launch import command
from scripts.bundle.model_file import write_model
from scripts.data.scans import find_scans
from scripts.files import PART
from scripts.labels import ClassTable
from scripts.networks.resunet import ResUNet2d
from tests.reliability import commands
from tests.reliability.bad_lists import FOLDERS, LISTS, TAKEN, good_list
from tests.reliability.bad_runs import RUNS
from tests.reliability.bad_scans import EITHER, ODD, REFUSED, new_scan

WANTED = {"refused": REFUSED, "labelled": ODD, "either": EITHER}
KINDS = {kind: wanted for wanted, group in WANTED.items() for kind in group}
ONE_FILE = ("3000 slices",)
"""Kinds of which all files would be alike."""
CPU = "$torch.device('cpu')"

Messages = dict[str, list[tuple[str, str]]]
"""Path of a scan -> ("error" or "warning", message)."""


def write_scans(folder: Path, cases: int, seed: int, kinds: Sequence[str] = tuple(KINDS)) -> dict[str, list[Path]]:
    """Write random files of some kinds, each into a folder of its own: kind -> paths."""
    written = {}
    for wanted, group in WANTED.items():
        for number, (kind, write) in enumerate(group.items()):
            if kind in kinds:
                written[kind] = [
                    write(new_scan(folder / f"{wanted}_{number:02d}_{case}", seed, number, case))
                    for case in range(1 if kind in ONE_FILE else cases)
                ]
    return written


def write_untrained_model(folder: Path) -> Path:
    """A folder `models` with random weights."""
    table = ClassTable.load()
    settings = {"classes": list(table.names), "image_size": [32, 16], "pixel_mm": 8.0, "channels": [4, 8, 8]}
    network = ResUNet2d(in_channels=1, out_channels=table.num_classes, channels=(4, 8, 8), norm="batch")
    write_model(network, folder, {**settings, "norm": "batch", "statistics": "volume"})
    return folder


def read_messages(text: str, code: int, paths: Sequence[str]) -> Messages:
    """Find each scan's errors, at the end of inference's output, and its warnings, in the log before."""
    log, mark, end = text.rpartition("\nError: ")
    assert code == int(bool(mark)), f"exit code {code}, output: {text[-2000:]}"
    if not mark:
        log, end = text, ""
    messages: Messages = defaultdict(list)
    for path in paths:
        for level, part in (("error", end), ("warning", log)):
            messages[path] += [(level, piece.split("\n", 1)[0]) for piece in part.split(f"{path}: ")[1:]]
        errors, warnings = ({text for level, text in messages[path] if level == of} for of in ("error", "warning"))
        assert errors <= warnings, f"{path} is named at the end, but not at the beginning"
    return messages


@dataclass(frozen=True)
class Batch:
    """Scans of the selected tests.

    Attributes:
        work: folder of all files; `out` below it gets the label maps.
        models: untrained network.
        paths: kind -> files.
        names: path -> name of the case.
        datalist: the scans as its unlabelled section.
    """

    work: Path
    models: Path
    paths: dict[str, list[Path]]
    names: dict[str, str]
    datalist: dict[str, Any]

    @property
    def out(self) -> Path:
        return self.work / "out"

    def relative(self, messages: Sequence[str]) -> list[str]:
        """Messages without the work folder's name."""
        return [message.replace(f"{self.work}/", "") for message in messages]


@pytest.fixture(scope="module")
def batch(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, seed: int) -> Batch:
    params = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    kinds = [of["kind"] for of in params if of.get("kind") in KINDS] or list(KINDS)
    work = tmp_path_factory.mktemp("bad_scans")
    written = write_scans(work / "scans", request.config.getoption("cases", None) or 3, seed, kinds)
    names = {scan["image"]: scan["case"].replace("/", "_") for scan in find_scans(work / "scans")}
    paths = [str(path) for of_kind in written.values() for path in of_kind]
    datalist = good_list(new_scan(work / "good", seed, 99))
    datalist["unlabelled"] = [{"image": path, "case": f"u{n}"} for n, path in enumerate(paths)]
    return Batch(work, write_untrained_model(work / "models"), written, names, datalist)


@pytest.fixture(scope="module")
def messages(batch: Batch) -> Messages:
    """What one inference of all scans said of each."""
    given = {"input_dir": batch.work / "scans", "output_dir": batch.out, "ckpt_dir": batch.models, "device": CPU}
    code, text = commands.in_new_process(command("inference", ["inference.yaml"], given))
    return read_messages(text, code, list(batch.names))


@pytest.fixture(scope="module")
def checked(batch: Batch) -> tuple[int, dict[str, Any]]:
    """Exit code and report of `check` on a datalist of all scans."""
    path, report = batch.work / "list.json", batch.work / "problems.json"
    path.write_text(json.dumps(batch.datalist), encoding="utf-8")
    code, _ = commands.in_process(["check", str(path), "--json", str(report)])
    return code, json.loads(report.read_text(encoding="utf-8"))


@pytest.mark.reliability
class TestBadScans:
    @pytest.mark.parametrize("kind", KINDS)
    def test_labelled_or_refused(
        self,
        kind: str,
        batch: Batch,
        messages: Messages,
        checked: tuple[int, dict[str, Any]],
        record_row: Callable[..., None],
    ) -> None:
        for path in batch.paths[kind]:
            assert str(path) in batch.names, f"{path} was not found"
            label_map = batch.out / f"{batch.names[str(path)]}_seg.nii.gz"
            outcome = "labelled" if label_map.name in {made.name for made in batch.out.iterdir()} else "refused"
            errors = [message for level, message in messages[str(path)] if level == "error"]
            said = f"{path} was {outcome}: {messages[str(path)]}"
            assert (outcome == "refused") == bool(errors), said
            assert KINDS[kind] in (outcome, "either"), said
            if outcome == "labelled" and path.name.endswith((".nii", ".nii.gz")):
                scan, label = nibabel.load(path), nibabel.load(label_map)
                assert label.shape == scan.shape[:3]
                np.testing.assert_allclose(label.affine, scan.affine, atol=1e-2)
            problems = [f"{p['level']}: {p['message']}" for p in checked[1]["problems"] if p["path"] == str(path)]
            told = errors or [message for _, message in messages[str(path)]]
            where = str(path.relative_to(batch.work / "scans"))
            record_row("bad_input", part="scans", kind=kind, input=where, outcome=outcome,
                       inference=batch.relative(told), check=batch.relative(problems))  # fmt: skip

    def test_no_partial_file_is_left(self, batch: Batch, messages: Messages) -> None:
        assert messages
        assert [path for path in batch.out.iterdir() if path.name.startswith(PART)] == []

    def test_exit_code_of_check(self, checked: tuple[int, dict[str, Any]]) -> None:
        code, report = checked
        assert code == int(report["errors"] > 0)

    def test_evaluation_writes_nothing(self, batch: Batch) -> None:
        """Scores are of all scans or of none."""
        entries = batch.datalist["unlabelled"]
        label = batch.datalist["test"][0]["label"]
        scored = [{**entry, "label": label, "patient": f"t{n}"} for n, entry in enumerate(entries)]
        path, out = batch.work / "scored.json", batch.work / "scores"
        content = {**batch.datalist, "test": [*batch.datalist["test"], *scored], "unlabelled": []}
        path.write_text(json.dumps(content), encoding="utf-8")
        given = {"datalist": path, "output_dir": out, "ckpt_dir": batch.models, "device": CPU}
        code, text = commands.in_new_process(command("evaluating", ["inference.yaml", "evaluate.yaml"], given))
        assert code == 1
        assert "problems with the data:" in text
        assert not out.exists()


class TestKinds:
    def test_there_are_many(self) -> None:
        kinds = [*REFUSED, *ODD, *EITHER, *LISTS, *TAKEN, *FOLDERS, *RUNS]
        assert len(kinds) == len(set(kinds)) > 100

    def test_scans_are_a_function_of_the_seed(self, tmp_path: Path) -> None:
        def written(name: str) -> list[bytes]:
            scans = write_scans(tmp_path / name, 2, 3, ["text", "NIfTI cut off", "header with damaged bytes"])
            return [path.read_bytes() for paths in scans.values() for path in paths]

        assert written("a") == written("b")
        assert len(written("c")) == 6


class TestReadMessages:
    LOG = "WARNING /a/x.nii: is bad\nlabelled\n"
    END = "\nError: 1 scan:\n/a/x.nii: is bad\n"

    def test_value(self) -> None:
        messages = read_messages(self.LOG + self.END, 1, ["/a/x.nii", "/a/y.nii"])
        assert messages["/a/x.nii"] == [("error", "is bad"), ("warning", "is bad")]
        assert messages["/a/y.nii"] == []
        assert read_messages(self.LOG, 0, ["/a/x.nii"])["/a/x.nii"] == [("warning", "is bad")]

    @pytest.mark.parametrize(("text", "code"), [(LOG, 1), (LOG + END, 0)])
    def test_exit_code_and_errors_disagree(self, text: str, code: int) -> None:
        with pytest.raises(AssertionError, match=f"exit code {code}"):
            read_messages(text, code, ["/a/x.nii"])

    def test_error_without_warning(self) -> None:
        with pytest.raises(AssertionError, match="named at the end, but not at the beginning"):
            read_messages(self.END, 1, ["/a/x.nii"])


def test_a_command_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "main", lambda arguments: 1 / 0)
    with pytest.raises(AssertionError, match="check x raised ZeroDivisionError"):
        commands.in_process(["check", "x"])
