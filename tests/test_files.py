from __future__ import annotations

import contextlib
import errno
import gzip
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from scripts import files
from scripts.files import (
    FolderInUseError,
    StorageError,
    lock_folder,
    storage_problem,
    whole_file,
    whole_folder,
    write_nifti,
    write_whole,
)
from scripts.weights import is_unfinished, mark_unfinished


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """No file of this process may grow beyond 1000 bytes, not even one that pytest writes its lines to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(autouse=True)
def not_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_swept", set())


@pytest.fixture(params=[False, True], ids=["posix", "windows"])
def windows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both orders of closing, locking and renaming; that of Windows works elsewhere, too."""
    monkeypatch.setattr(files, "WINDOWS", request.param)
    return bool(request.param)


def no_locks(*_: object, **__: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def other_process(program: str, *arguments: object) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parent.parent
    line = [sys.executable, "-c", f"import os, sys, time; from scripts.files import *; {program}", *map(str, arguments)]
    return subprocess.Popen(line, cwd=root, stdout=subprocess.PIPE, text=True)


class TestWholeFile:
    @pytest.mark.usefixtures("windows")
    def test_value(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "a.txt"
        for text in ("old", "newer"):
            write_whole(path, text)
        assert path.read_text(encoding="utf-8") == "newer"
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
    def test_private_while_it_is_written_then_as_the_user_wants(self, tmp_path: Path, umask: int, mode: int) -> None:
        before = os.umask(umask)
        try:
            with whole_file(tmp_path / "a") as file:
                (part,) = tmp_path.iterdir()
                assert part.stat().st_mode & 0o777 == 0o600
                file.write(b"x")
        finally:
            os.umask(before)
        assert (tmp_path / "a").stat().st_mode & 0o777 == mode

    @pytest.mark.parametrize("kind", ["bytes", "numpy", "torch"])
    def test_limit_leaves_the_old_file(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "a"
        write_whole(path, "old")

        def write() -> None:
            with whole_file(path) as file:
                if kind == "bytes":
                    file.write(bytes(100_000))
                elif kind == "numpy":
                    np.save(file, np.zeros(100_000))
                else:
                    torch.save({"a": torch.zeros(100_000)}, file)

        refused = r"/a cannot be written: (it would be larger|the disk is full)"
        with small_files(), pytest.raises(StorageError, match=refused):
            write()
        assert path.read_text(encoding="utf-8") == "old"
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
    def test_full_disk(self, tmp_path: Path) -> None:
        write_whole(tmp_path / "a", "old")
        with pytest.raises(StorageError, match="the disk is full; free some space"):  # noqa: SIM117
            with whole_file(tmp_path / "a"), Path("/dev/full").open("wb", buffering=0) as full:
                full.write(b"x")
        assert (tmp_path / "a").read_text(encoding="utf-8") == "old"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder")
    def test_read_only_folder(self, tmp_path: Path) -> None:
        write_whole(tmp_path / "a", "old")
        tmp_path.chmod(0o500)
        try:
            with pytest.raises(StorageError, match="this user may not write there"):
                write_whole(tmp_path / "a", "new")
        finally:
            tmp_path.chmod(0o700)
        assert (tmp_path / "a").read_text(encoding="utf-8") == "old"

    def test_no_folder_can_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(StorageError, match="cannot be written: "):
            write_whole(tmp_path / "file" / "a", "new")

    def test_faults_of_ours_stay_what_they_are(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError, match="bug"), whole_file(tmp_path / "a"):
            raise KeyError("bug")
        assert list(tmp_path.iterdir()) == []

    def test_what_killed_writers_left_is_removed_and_what_living_ones_write_is_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = (
            "f = whole_file(sys.argv[1]); f.__enter__().write(b'half'); print('writing', flush=True); time.sleep(60)"
        )
        writer = other_process(program, tmp_path / "a")
        assert writer.stdout is not None
        writer.stdout.readline()
        write_whole(tmp_path / "a", "mine")
        assert len(list(tmp_path.iterdir())) == 2
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        monkeypatch.setattr(files, "_swept", set())  # as a new process
        write_whole(tmp_path / "a", "again")
        assert list(tmp_path.iterdir()) == [tmp_path / "a"]

    def test_without_locks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "lock_descriptor", no_locks)
        (tmp_path / ".part-a-old").write_bytes(b"of a writer that may live")
        write_whole(tmp_path / "a", "new")
        assert sorted(path.name for path in tmp_path.iterdir()) == [".part-a-old", "a"]


class TestWriteNifti:
    def test_value_is_what_nibabel_writes_itself(self, tmp_path: Path) -> None:
        image = nibabel.Nifti1Image(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.diag([1.0, 2.0, 3.0, 1.0]))
        write_nifti(tmp_path / "a.nii.gz", image)
        image.to_filename(tmp_path / "b.nii.gz")
        a, b = (gzip.decompress((tmp_path / name).read_bytes()) for name in ("a.nii.gz", "b.nii.gz"))
        assert a == b
        before = (tmp_path / "a.nii.gz").read_bytes()
        write_nifti(tmp_path / "a.nii.gz", image)
        assert (tmp_path / "a.nii.gz").read_bytes() == before

    def test_limit_leaves_the_old_file(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 255, (40, 40, 40), dtype=np.uint8)
        write_whole(tmp_path / "a.nii.gz", "old")
        with small_files(), pytest.raises(StorageError, match="it would be larger"):
            write_nifti(tmp_path / "a.nii.gz", nibabel.Nifti1Image(noise, np.eye(4)))
        assert (tmp_path / "a.nii.gz").read_text(encoding="utf-8") == "old"
        assert list(tmp_path.iterdir()) == [tmp_path / "a.nii.gz"]


class TestWholeFolder:
    @pytest.mark.usefixtures("windows")
    def test_value(self, tmp_path: Path) -> None:
        for text in ("first", "second"):
            with whole_folder(tmp_path / "x") as part:
                assert part.stat().st_mode & 0o777 == 0o700
                (part / "a").write_text(text)
        assert (tmp_path / "x" / "a").read_text() == "first"  # who comes second writes the same
        assert list(tmp_path.iterdir()) == [tmp_path / "x"]

    def test_limit_leaves_nothing(self, tmp_path: Path) -> None:
        refused = pytest.raises(StorageError, match="x cannot be written")
        with small_files(), refused, whole_folder(tmp_path / "x") as part:
            np.save(part / "a.npy", np.zeros(100_000))
        assert list(tmp_path.iterdir()) == []

    def test_what_killed_writers_left_is_removed(self, tmp_path: Path) -> None:
        (tmp_path / ".part-old").mkdir()
        (tmp_path / ".part-old" / "a.npy").write_bytes(b"half")
        with whole_folder(tmp_path / "x"):
            pass
        assert list(tmp_path.iterdir()) == [tmp_path / "x"]


class Owner:
    """What a lock is held for."""


class TestLockFolder:
    def test_second_process_is_refused_until_the_first_is_killed(self, tmp_path: Path) -> None:
        program = "lock_folder(sys.argv[1]); child = os.fork(); os.write(1, b'%d\\n' % child); time.sleep(60)"
        first = other_process(program, tmp_path)
        assert first.stdout is not None
        children = sorted(int(first.stdout.readline()) for _ in range(2))
        with pytest.raises(FolderInUseError, match=rf"is in use: process {first.pid} on .* is writing into it; wait"):
            lock_folder(tmp_path)
        first.send_signal(signal.SIGKILL)
        first.wait()
        first.stdout.close()
        owner = Owner()
        lock_folder(tmp_path, owner)  # although a process that the first had started lives on
        os.kill(children[-1], signal.SIGKILL)

    def test_loader_process_that_outlives_a_killed_run_does_not_hold_it(self, tmp_path: Path) -> None:
        program = """
from torch.utils.data import DataLoader
class Slow:
    def __len__(self):
        return 1
    def __getitem__(self, index):
        os.write(1, b"%d\\n" % os.getpid())
        time.sleep(60)
lock_folder(sys.argv[1])
next(iter(DataLoader(Slow(), num_workers=1, multiprocessing_context="fork")))
"""
        run = other_process(program, tmp_path)
        assert run.stdout is not None
        loader = int(run.stdout.readline())
        assert loader != run.pid
        with pytest.raises(FolderInUseError, match=rf"is in use: process {run.pid} on"):
            lock_folder(tmp_path)
        run.send_signal(signal.SIGKILL)
        run.wait()
        run.stdout.close()
        owner = Owner()
        try:
            os.kill(loader, 0)  # it lives
            lock_folder(tmp_path, owner)
        finally:
            os.kill(loader, signal.SIGKILL)

    def test_program_that_a_killed_run_started_does_not_hold_it(self, tmp_path: Path) -> None:
        program = (
            "import subprocess; lock_folder(sys.argv[1]); "
            "child = subprocess.Popen(['sleep', '60'], close_fds=False, stdout=subprocess.DEVNULL); "
            "print(child.pid, flush=True); time.sleep(60)"
        )
        run = other_process(program, tmp_path)
        assert run.stdout is not None
        child = int(run.stdout.readline())
        run.send_signal(signal.SIGKILL)
        run.wait()
        run.stdout.close()
        owner = Owner()
        try:
            lock_folder(tmp_path, owner)
        finally:
            os.kill(child, signal.SIGKILL)

    def test_end_of_a_forked_process_leaves_the_lock_to_its_parent(self, tmp_path: Path) -> None:
        program = """
class Owner: pass
owner = Owner()
lock_folder(sys.argv[1], owner)
child = os.fork()
if not child:
    del owner
    sys.exit()  # as a program ends, with all that is done at its end
os.waitpid(child, 0)
print("waited", flush=True)
time.sleep(60)
"""
        run = other_process(program, tmp_path)
        assert run.stdout is not None
        assert run.stdout.readline() == "waited\n"
        try:
            with pytest.raises(FolderInUseError, match=rf"is in use: process {run.pid} on"):
                lock_folder(tmp_path)
        finally:
            run.kill()
            run.wait()
            run.stdout.close()

    def test_given_back_in_another_thread(self, tmp_path: Path) -> None:
        owners = [Owner()]
        lock_folder(tmp_path, owners[0])
        thread = threading.Thread(target=owners.clear)
        thread.start()
        thread.join()
        assert not self.refused("lock_folder(sys.argv[1])", tmp_path)

    def test_without_locks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files.FileLock, "acquire", no_locks)
        lock_folder(tmp_path / "new")
        assert (tmp_path / "new").is_dir()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder")
    def test_read_only_folder(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        try:
            with pytest.raises(StorageError, match="this user may not write there"):
                lock_folder(tmp_path)
        finally:
            tmp_path.chmod(0o700)

    def test_runs_of_one_process_follow_each_other(self, tmp_path: Path) -> None:
        first, second = Owner(), Owner()
        lock_folder(tmp_path, first)
        lock_folder(tmp_path, second)
        program = "lock_folder(sys.argv[1])"
        del first
        assert self.refused(program, tmp_path)  # held for the second
        del second
        assert not self.refused(program, tmp_path)

    @staticmethod
    def refused(program: str, folder: Path) -> bool:
        tried = other_process(f"\ntry: {program}\nexcept FolderInUseError: print('refused')", folder)
        return "refused" in tried.communicate()[0]


class TestStorageProblem:
    def test_value(self) -> None:
        wrapped = RuntimeError("wrapped by MONAI")
        wrapped.__cause__ = OSError(errno.ENOSPC, "No space left", "events.out")
        assert storage_problem(wrapped) == (
            "events.out cannot be written: the disk is full; free some space, or name a folder on another disk"
        )
        assert storage_problem(StorageError("one sentence")) == "one sentence"
        assert storage_problem(FileNotFoundError(errno.ENOENT, "no such file")) is None
        assert storage_problem(None) is None


class TestMarkUnfinished:
    def test_value(self, tmp_path: Path) -> None:
        folder = tmp_path / "prompt"
        mark_unfinished(folder, False)
        assert not is_unfinished(folder)
        mark_unfinished(folder, True)
        assert is_unfinished(folder)
        mark_unfinished(folder, False)
        assert not is_unfinished(folder)


class TestWindows:
    def test_what_a_run_needs_is_imported_where_there_is_no_fcntl(self) -> None:
        root = Path(__file__).resolve().parent.parent
        paths = (path.relative_to(root).with_suffix("") for path in sorted((root / "scripts").rglob("*.py")))
        others = {"tools", "label_server", "__main__"}  # what measures and publishes, MONAI Label's own process
        names = [".".join(path.parts) for path in paths if path.parts[1] not in others and path.stem != "__init__"]
        program = (
            "import sys, importlib; sys.modules['fcntl'] = None\n"
            "for name in sys.argv[1:]: importlib.import_module(name)"
        )
        line = [sys.executable, "-W", "ignore", "-c", program, *names]
        done = subprocess.run(line, cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert len(names) > 60
