"""Files and folders that appear whole or not at all, whatever kills the writer, and the lock of a run's folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

PART, LOCK, UNFINISHED = ".part-", ".lock", ".unfinished"
"""Beginning of the names of what is not written yet; the lock of a run's folder; the mark of models in the making."""
REASONS = {
    errno.ENOSPC: "the disk is full; free some space, or name a folder on another disk",
    errno.EDQUOT: "the quota of this user is used up; free some space, or name a folder on another disk",
    errno.EFBIG: "it would be larger than this process may write; raise the limit (`ulimit -f`)",
    errno.EROFS: "the file system is read-only; name another folder",
    errno.EACCES: "this user may not write there; name another folder, or change its permissions",
    errno.EPERM: "this user may not write there; name another folder, or change its permissions",
}


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
    with _as_storage_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent, f"{PART}{path.name}-")
        handle, name = _begin(lambda: tempfile.mkstemp(dir=path.parent, prefix=f"{PART}{path.name}-"))
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fchmod(handle, 0o666 & ~_umask())
                os.fsync(handle)
                os.replace(name, path)  # while the lock is held: nobody sweeps it away
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync(path.parent)


def write_whole(path: str | Path, text: str) -> None:
    """Write a text as UTF-8, see :func:`whole_file`."""
    with whole_file(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def whole_folder(target: str | Path) -> Iterator[Path]:
    """An empty folder to fill; it becomes `target` when the block ends, unless another process was faster.

    Raises:
        StorageError: as :func:`whole_file`; there is no `target` then.
    """
    target = Path(target)
    with _as_storage_error(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent, PART)
        handle, name = _begin(lambda: _open_folder(tempfile.mkdtemp(dir=target.parent, prefix=PART)))
        part = Path(name)
        try:
            yield part
            for file in part.iterdir():
                _sync(file)
            _sync(part)
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
            os.close(handle)
        _sync(target.parent)


_held: dict[Path, tuple[int, object]] = {}
"""Locks of this process: folder -> descriptor of the open file, and who asked last."""


def lock_folder(folder: str | Path, owner: object = None) -> None:
    """Keep other processes from writing into a folder until `owner` is gone, or this process is.

    The system drops the lock of a process that is killed, at once, also while its loader processes live on. Runs that
    follow each other in one process share it.

    Args:
        folder: made if it is missing.
        owner: whose end gives the lock back; None keeps it as long as the process lives.

    Raises:
        FolderInUseError: another process holds it.
        StorageError: the folder cannot be written.
    """
    folder = Path(folder).resolve()
    with _as_storage_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
    handle = _held[folder][0] if folder in _held else _claim(folder)
    token = object()
    _held[folder] = (handle, token)
    if owner is not None:
        weakref.finalize(owner, _release, folder, token)


def _claim(folder: Path) -> int:
    with _as_storage_error(folder):
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        # of the process, not of the open file: loader processes that outlive a killed run do not inherit it
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            return handle  # a file system without locks: nothing to be done about it
        holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
        os.close(handle)
        raise FolderInUseError(
            f"{folder} is in use: {holder} is writing into it; wait for its end, or give this run an --output_dir of "
            "its own"
        ) from None
    with _as_storage_error(folder):
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return handle


def _release(folder: Path, token: object) -> None:
    """Give a lock back, unless a later run of this process asked for it too."""
    if folder in _held and _held[folder][1] is token:
        os.close(_held.pop(folder)[0])


def mark_unfinished(folder: str | Path, unfinished: bool) -> None:
    """Mark a folder of models as in the making, or take the mark away."""
    if unfinished:
        write_whole(Path(folder) / UNFINISHED, "")
    else:
        (Path(folder) / UNFINISHED).unlink(missing_ok=True)


def is_unfinished(folder: str | Path) -> bool:
    """True if the training that writes its best model here has begun and not come to its end."""
    return (Path(folder) / UNFINISHED).is_file()


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
def _as_storage_error(path: Path) -> Iterator[None]:
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


def _begin(make: Any) -> tuple[int, str]:
    """Make something unfinished and lock it, so that `_sweep` knows that its writer lives."""
    while True:
        handle, name = make()
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
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
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        except OSError:
            pass  # its writer lives
        finally:
            os.close(handle)


def _open_folder(name: str) -> tuple[int, str]:
    return os.open(name, os.O_RDONLY), name


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
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
