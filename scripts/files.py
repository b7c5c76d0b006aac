"""Files and folders that appear whole or not at all, whatever kills the writer, and the lock of a run's folder."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import io
import os
import shutil
import socket
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout, lock_descriptor

PROGRAM = os.environ.get("CPS4_PROGRAM", "python -m scripts")
"""How this program was called, for messages that name one of its commands; the installed `cps4` tells all its runs."""
WINDOWS = os.name == "nt"
PART, LOCK = ".part-", ".lock"
"""Beginning of the names of what is not written yet; the lock of a run's folder."""
REASONS = {
    errno.ENOSPC: "the disk is full; free some space, or name a folder on another disk",
    errno.EDQUOT: "the quota of this user is used up; free some space, or name a folder on another disk",
    errno.EFBIG: "it would be larger than this process may write; raise the limit (`ulimit -f`)",
    errno.EROFS: "the file system is read-only; name another folder",
    errno.EACCES: "this user may not write there; name another folder, or change its permissions",
    errno.EPERM: "this user may not write there; name another folder, or change its permissions",
}
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""Errors of file systems that know no locks."""


class FileError(ValueError):
    """A file or folder that cannot be used; the message is one sentence that names it and the mend."""


class StorageError(FileError):
    """Something that cannot be written."""


class FolderInUseError(FileError):
    """Another run writes into the folder."""


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to write; it takes the place of `path` when the block ends, and never in part.

    Until then its content lies beside `path` under a name of its own, for this user alone; what killed writers left
    there is removed. Contents reach the disk before the name does, so that a power cut cannot leave an empty file.

    Raises:
        StorageError: it cannot be written (the disk is full, a limit, a read-only folder); `path` is what it was.
    """
    path = Path(path)
    with as_storage_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent, f"{PART}{path.name}-")
        handle, name = _begin(lambda: tempfile.mkstemp(dir=path.parent, prefix=f"{PART}{path.name}-"))
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.chmod(name, 0o666 & ~_umask())
                os.fsync(handle)
                if WINDOWS:
                    file.close()  # Windows renames no open file
                os.replace(name, path)  # elsewhere while the lock is held: nobody sweeps it away
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync(path.parent)


def write_whole(path: str | Path, text: str) -> None:
    """Write a text as UTF-8, see :func:`whole_file`."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_nifti(path: str | Path, image: Any) -> None:
    """Write an image of nibabel as `.nii.gz`, see :func:`whole_file`; the same image gives the same bytes."""
    with whole_file(path) as file:
        file.write(nifti_bytes(image))


def nifti_bytes(image: Any) -> bytes:
    """Content of a `.nii.gz` file of an image of nibabel."""
    content = io.BytesIO()
    with gzip.GzipFile("", "wb", 1, content, mtime=0) as packed:
        image.to_stream(packed)
    return content.getvalue()


@contextlib.contextmanager
def whole_folder(target: str | Path) -> Iterator[Path]:
    """An empty folder to fill; it becomes `target` when the block ends, unless another process was faster.

    What killed writers left is removed, but on Windows, where a folder cannot be locked.

    Raises:
        StorageError: as :func:`whole_file`; there is no `target` then.
    """
    target = Path(target)
    with as_storage_error(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent, PART)
        handle, name = _begin(lambda: _open_folder(tempfile.mkdtemp(dir=target.parent, prefix=PART)))
        part = Path(name)
        try:
            yield part
            for file in part.iterdir():
                sync(file)
            sync(part)
            try:
                part.rename(target)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                shutil.rmtree(part)  # another process was faster; what it wrote is the same
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        finally:
            if handle is not None:
                os.close(handle)
        sync(target.parent)


def lock_folder(folder: str | Path, owner: object = None) -> None:
    """Keep other processes from writing into a folder until `owner` is gone, or this process is.

    The system drops the lock of a process that is killed, at once, also while its loader processes live on: filelock
    closes in a forked process what it inherits. Runs that follow each other in one process share the lock.

    Args:
        folder: made if it is missing.
        owner: whose end gives the lock back; None keeps it as long as the process lives.

    Raises:
        FolderInUseError: another process holds it.
        StorageError: the folder cannot be written.
    """
    folder = Path(folder).resolve()
    # one object for each folder, which counts who holds it; the last may let go in another thread than the first
    lock = FileLock(folder / LOCK, thread_local=False, is_singleton=True, fallback_to_soft=False)
    with as_storage_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise FolderInUseError(
                f"{folder} is in use: {_holder(folder / LOCK)} is writing into it; wait for its end, or give this run "
                "an --output_dir of its own"
            ) from None
        except OSError as error:
            if error.errno in WITHOUT_LOCKS:
                return  # nothing to be done about it
            raise
        weakref.finalize(lock_folder if owner is None else owner, lock.release)  # the function lives to the end
        with (folder / LOCK).open("r+b") as file:
            file.seek(1)  # on Windows nobody else may touch the byte that is locked, the first
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            file.truncate()


@contextlib.contextmanager
def take_turns(lock: str | Path) -> Iterator[None]:
    """Do something while no other process that names the same lock does; waits for its turn.

    Raises:
        StorageError: the lock cannot be written.
    """
    lock = Path(lock)
    turn = FileLock(lock, fallback_to_soft=False)
    with as_storage_error(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            turn.acquire()
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
    try:
        yield
    finally:
        turn.release()


def _holder(lock: Path) -> str:
    """Who wrote its name into a lock."""
    try:
        with lock.open("rb") as file:
            file.seek(1)
            return file.read(200).decode(errors="replace") or "another process"
    except OSError:
        return "another process"  # it has just let go


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def storage_problem(error: BaseException | None) -> str | None:
    """The sentence about a full disk or an unusable file, if an error comes from one; else None."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, FileError):
            return str(error)
        # a missing permission to read has its own words elsewhere; these can come from writing alone
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            return f"{error.filename or 'a file of this run'} cannot be written: {REASONS[error.errno]}"
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def as_storage_error(path: Path) -> Iterator[None]:
    """What goes wrong in writing becomes a sentence about `path`."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        cause = _system_error(error)
        if cause is None:
            raise
        # numpy says how many bytes were missing, and no number: the system's answer to a disk that is full
        number = cause.errno or errno.ENOSPC
        reason = REASONS.get(number, f"{cause.strerror or cause}; name another folder")
        raise StorageError(f"{path} cannot be written: {reason}") from error


def _system_error(error: BaseException | None) -> OSError | None:
    """The system's error that another one comes from: torch wraps it in one of its own."""
    while isinstance(error, RuntimeError):
        error = error.__cause__ or error.__context__
    return error if isinstance(error, OSError) else None


def _begin(make: Callable[[], tuple[Any, str]]) -> tuple[Any, str]:
    """Make something unfinished and lock it, so that `_sweep` knows that its writer lives."""
    while True:
        handle, name = make()
        if handle is None:
            return handle, name
        with contextlib.suppress(OSError):  # a file system without locks
            lock_descriptor(handle)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(name)):
                return handle, name
        os.close(handle)  # swept away between the two calls


_swept: set[tuple[Path, str]] = set()
"""Where this process has cleaned up; what is left there later is of writers that live."""


def _sweep(folder: Path, prefix: str) -> None:
    """Remove what killed writers left: unfinished things that nobody has locked."""
    if (folder, prefix) in _swept:
        return
    _swept.add((folder, prefix))
    for left in [path for path in folder.iterdir() if path.name.startswith(prefix)]:
        try:
            handle = os.open(left, os.O_RDONLY)
        except OSError:
            continue
        try:
            if not lock_descriptor(handle, blocking=False):
                continue  # its writer lives
            _remove(left)
        except OSError:
            continue  # a file system without locks
        finally:
            os.close(handle)
        _remove(left)  # again: Windows removes nothing that is open


def _remove(path: Path) -> None:
    """Remove a file or folder, as far as that is allowed."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _open_folder(name: str) -> tuple[int | None, str]:
    return None if WINDOWS else os.open(name, os.O_RDONLY), name  # Windows opens no folders


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    if WINDOWS and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that know no such thing for folders
            raise
    finally:
        os.close(handle)


def _umask() -> int:
    """What the user takes from the permissions of new files; the system tells by setting it alone."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
