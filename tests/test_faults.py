from __future__ import annotations

import sys

import pytest
import torch

from scripts import faults
from scripts.data.datalist import DataError
from scripts.files import StorageError


class TestErrors:
    def show(self, error: BaseException) -> None:
        start_hook = faults._one_sentence
        start_hook(type(error), error, error.__traceback__)

    def test_faults_of_the_user_are_one_sentence(self, capsys: pytest.CaptureFixture[str]) -> None:
        try:
            try:
                raise DataError("no scans")
            except DataError as error:
                raise RuntimeError("wrapped by MONAI") from error
        except RuntimeError as error:
            self.show(error)
        assert capsys.readouterr().err == "Error: no scans\n"

    def test_full_disk_is_one_sentence(self, capsys: pytest.CaptureFixture[str]) -> None:
        wrapped = RuntimeError("wrapped by MONAI")
        wrapped.__cause__ = StorageError("c.pt cannot be written: the disk is full")
        self.show(wrapped)
        assert capsys.readouterr().err == "Error: c.pt cannot be written: the disk is full\n"

    @pytest.mark.parametrize(
        ("error", "mend"),
        [
            (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "a smaller --num_workers"),
            (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "a smaller --num_workers"),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "smaller --batch_size"),
            (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "a smaller --batch_size"),
            (MemoryError(), "a smaller --batch_size"),
        ],
    )
    def test_machine_at_its_end(self, error: Exception, mend: str, capsys: pytest.CaptureFixture[str]) -> None:
        wrapped = RuntimeError("wrapped by MONAI")
        wrapped.__cause__ = error
        self.show(wrapped)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("Error: ")
        assert mend in line
        assert line.endswith("--resume True goes on after the last epoch that was kept")

    def test_faults_of_ours_keep_their_traceback(self, capsys: pytest.CaptureFixture[str]) -> None:
        try:
            raise KeyError("bug")
        except KeyError as error:
            self.show(error)
        assert "Traceback" in capsys.readouterr().err

    def test_shown_from_now_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
        faults.show_as_sentences()
        assert sys.excepthook is faults._one_sentence
