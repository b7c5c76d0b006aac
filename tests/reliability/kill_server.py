"""Server that runs trainings in forks of one process, and kills them by SIGKILL at a chosen moment of a phase.

`python -m tests.reliability.kill_server` reads a job per line of JSON and answers each with a line, its exit code.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

PHASES = {
    "slices": "scripts.data.cache.SliceCache.build",
    "maps": "scripts.data.attention_map_cache.PromptMaps.build",
    "pseudo-labels": "scripts.training.pseudo_labels.PseudoLabelRounds.start",
    "training": "scripts.training.step.OptimizationStep.__call__",
    "validation": "monai.handlers.ValidationHandler.__call__",
    "checkpoint": "scripts.training.handlers.TrainingCheckpoint.save",
}
"""Phase -> the method that runs it."""
IMPORTED_ONCE = ("monai.bundle", "torch.utils.tensorboard", "transformers", "matplotlib.pyplot")


class Moments:
    """Records the phases of this process, and kills it in one of them.

    Args:
        kill: `phase`, `occurrence` (from 0, in this process), and either `call`, the number of function calls (of
            Python or of C) in the phase before the kill, or `seconds`, after which another process kills this one.
            None only records.
        marks: file of phases, calls and the kill, one JSON object a line.
    """

    def __init__(self, kill: dict[str, Any] | None, marks: str) -> None:
        self.kill = kill
        self.marks = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self.occurrences = dict.fromkeys(PHASES, 0)
        self.phase = ""
        self.calls = self.let_through = 0

    def install(self) -> None:
        """Wrap the methods of all phases."""
        for phase, place in PHASES.items():
            module, owner, method = place.rsplit(".", 2)
            cls = getattr(importlib.import_module(module), owner)
            setattr(cls, method, self._watched(phase, getattr(cls, method)))

    def _watched(self, phase: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def within(*args: Any, **kwargs: Any) -> Any:
            outer, began = (self.phase, self.calls), time.perf_counter()  # slices are cached inside other phases
            self._begin(phase)
            try:
                return method(*args, **kwargs)
            finally:
                sys.setprofile(None)
                self._mark("end", calls=self.calls, seconds=time.perf_counter() - began)
                self.phase, self.calls = outer
                self._watch()

        return within

    def _begin(self, phase: str) -> None:
        sys.setprofile(None)
        self.phase, self.calls = phase, 0
        self.occurrences[phase] += 1
        self._mark("begin")
        if self.kill is not None and "seconds" in self.kill and self._is_aimed_at():
            self._kill_after(self.kill.pop("seconds"))
        self._watch()

    def _is_aimed_at(self) -> bool:
        assert self.kill is not None
        return self.phase == self.kill["phase"] and self.occurrences[self.phase] > self.kill["occurrence"]

    def _watch(self) -> None:
        """Count the calls of the phase, where they are needed."""
        if self.phase and (self.kill is None or ("call" in self.kill and self._is_aimed_at())):
            sys.setprofile(self._count)

    def _count(self, frame: FrameType, event: str, called: Any) -> None:
        if event not in ("call", "c_call"):
            return
        self.calls += 1
        if self.kill is None:
            return
        self.let_through += 1  # goes on in the next occurrence if this one is too short
        if self.let_through > self.kill["call"]:
            sys.setprofile(None)
            name = frame.f_code.co_qualname if event == "call" else getattr(called, "__qualname__", str(called))
            self._mark("kill", function=name)
            os.kill(os.getpid(), signal.SIGKILL)

    def _kill_after(self, seconds: float) -> None:
        victim = os.getpid()
        if os.fork() == 0:
            time.sleep(seconds)
            if os.getppid() == victim:
                os.kill(victim, signal.SIGKILL)
            os._exit(0)

    def _mark(self, what: str, **more: Any) -> None:
        os.write(self.marks, (json.dumps({"what": what, "phase": self.phase, **more}) + "\n").encode())


def main() -> None:
    """Run jobs: `run_id`, `configs`, `overrides`, `log`, `marks`, optional `kill` and `file_size` (limit in bytes)."""
    for name in (*IMPORTED_ONCE, *(place.rsplit(".", 2)[0] for place in PHASES.values())):
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _run(json.loads(line))
        status = os.waitpid(child, 0)[1]
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), flush=True)


def _run(job: dict[str, Any]) -> NoReturn:
    from monai.bundle import run

    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    Moments(job.get("kill"), job["marks"]).install()
    code = 0
    try:
        if "file_size" in job:
            resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"], resource.RLIM_INFINITY))
        run(job["run_id"], config_file=job["configs"], logging_file=False, **job["overrides"])
    except Exception:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
