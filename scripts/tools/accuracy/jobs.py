"""A queue of jobs with dependencies: several at a time, locked against other processes, with the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout
from tqdm import tqdm

POLL_S = 2.0
BAR = "{desc} {n_fmt}/{total_fmt} |{bar}| {elapsed}{postfix}"


@dataclass(frozen=True)
class Job:
    """One run of a benchmark, with a folder of its own. Killed and done again, it resumes.

    Attributes:
        name: of its folder and its lock.
        kind: jobs of one kind take about the same time for a step.
        steps: its number of optimiser steps.
        state: returns "done" if nothing is left to do.
        do: runs it.
        needs: jobs that have to be done before.
    """

    name: str
    kind: str
    steps: int
    state: Callable[[], str] = field(compare=False)
    do: Callable[[], None] = field(compare=False)
    needs: tuple[Job, ...] = ()


def with_needs(jobs: Sequence[Job]) -> list[Job]:
    """The jobs that are not done, each once and behind those that it needs."""
    ordered: dict[str, Job] = {}
    for job in jobs:
        if job.state() != "done":
            ordered.update({need.name: need for need in with_needs(job.needs) if need.name not in ordered})
            ordered.setdefault(job.name, job)
    return list(ordered.values())


def run_jobs(
    jobs: Sequence[Job], at_once: int, locks: Locks, after: Callable[[], object] = lambda: None
) -> dict[str, BaseException]:
    """Run all jobs in threads; one that fails stops only those that need it.

    A job that another process has locked is skipped and tried again, until it is done there or free.

    Args:
        jobs: each behind those that it needs.
        at_once: number of jobs that run at the same time.
        locks: of the folder of the jobs.
        after: called after each job.

    Returns:
        Name -> error of those that failed.
    """
    pending, failed = list(jobs), dict[str, BaseException]()
    running: dict[Future[None], tuple[Job, float]] = {}
    timed: list[tuple[Job, float]] = []

    def start(pool: ThreadPoolExecutor, job: Job) -> bool:
        """Start a job, or drop one that is done or cannot be done; False if it has to wait."""
        if broken := [need.name for need in job.needs if need.name in failed]:
            failed[job.name] = RuntimeError(f"it needs {broken[0]}, which failed")
        elif job.state() != "done":
            ready = len(running) < at_once and all(need.state() == "done" for need in job.needs)
            if not (ready and locks.claim(job.name)):
                return False
            running[pool.submit(job.do)] = (job, time.monotonic())
        return True

    try:
        with ThreadPoolExecutor(at_once) as pool, tqdm(total=len(pending), desc="runs", bar_format=BAR) as bar:
            while pending or running:
                pending = [job for job in pending if not start(pool, job)]
                if not running:
                    time.sleep(POLL_S if pending else 0)
                for future in wait(running, POLL_S, FIRST_COMPLETED).done:
                    job, begin = running.pop(future)
                    locks.release(job.name)
                    if error := future.exception():
                        failed[job.name] = error
                    else:
                        timed.append((job, time.monotonic() - begin))
                        after()
                left = [*pending, *(job for job, _ in running.values())]
                if more := len(jobs) - len(left) - bar.n:
                    words = f"about {clock(remaining_s(timed, left) / at_once)} left" if timed else ""
                    bar.set_postfix_str(words, refresh=False)
                    bar.update(more)
    finally:
        locks.release_all()
    return failed


def remaining_s(timed: Sequence[tuple[Job, float]], left: Sequence[Job]) -> float:
    """Seconds that jobs will take one after the other, from the mean time of a step of their kind so far.

    A kind that has not run yet is given the mean of all kinds.
    """

    def pace(some: Sequence[tuple[Job, float]]) -> float:
        return sum(seconds for _, seconds in some) / max(1, sum(job.steps for job, _ in some))

    known: Mapping[str, float] = {
        kind: pace([pair for pair in timed if pair[0].kind == kind]) for kind in {job.kind for job, _ in timed}
    }
    return sum(job.steps * known.get(job.kind, pace(timed)) for job in left)


def clock(seconds: float) -> str:
    """`1:05 h`, or minutes below an hour."""
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes >= 60 else f"{minutes} min"


def share(jobs: Sequence[Job], number: int, of: int) -> list[Job]:
    """Every `of`-th job, beginning with the `number`-th (counted from 1); the shares partition the jobs.

    Raises:
        ValueError: the number is not among 1 to `of`.
    """
    if not 1 <= number <= of:
        raise ValueError(f"a share is 1/{of} to {of}/{of}, got {number}/{of}")
    return list(jobs[number - 1 :: of])


class Locks:
    """Locks of jobs, by name, among the processes that share a folder, on one machine or on several.

    The system drops those of a process at its end, however it ends. Machines see each other's locks on file systems
    that pass them on, as NFS does; on others, give each machine a share of its own (:func:`share`).

    Args:
        folder: gets a file for each lock that is held.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: dict[str, BaseFileLock] = {}

    def claim(self, name: str) -> bool:
        """Take a lock; False if somebody else holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / f"{name}.lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        self.held[name] = lock
        return True

    def release(self, name: str) -> None:
        """Give a lock back."""
        lock = self.held.pop(name)
        with suppress(PermissionError):  # Windows removes no open file, but filelock does so there
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()

    def release_all(self) -> None:
        """Give back what is still held."""
        for name in list(self.held):
            self.release(name)
