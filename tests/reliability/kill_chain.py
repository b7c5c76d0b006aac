"""Trainings that are killed in every phase and resumed, and the comparison of what they leave behind."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from scripts.bundle.launch import BUNDLE_ROOT
from tests.reliability.kill_server import PHASES

STAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "stage 1": ("pretraining", ("pretrain.yaml", "offline_encoders.yaml", "smoke.yaml")),
    "stage 2": ("training", ("train.yaml", "smoke.yaml")),
}
"""Stage -> run id, config files."""
PHASES_OF = {"stage 1": tuple(p for p in PHASES if p not in ("maps", "pseudo-labels")), "stage 2": tuple(PHASES)}
SMALL: dict[str, dict[str, Any]] = {
    "stage 1": {
        "vision#channels": [4, 8, 8],
        "vision#width": 16,
        "vision#layers": 1,
        "vision#heads": 2,
        "text#config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    },
    "stage 2": {"ramp#start": 0.0},
}
"""Stage -> overrides for networks that are quick to train."""
EPOCHS = 4
LATEST = {"slices": 1, "maps": 0, "pseudo-labels": 0, "training": 2, "validation": 0, "checkpoint": 1}
"""Phase -> the last occurrence, from 0, at which a run is killed."""
FIRST = ("slices", "maps")
"""Phases before training, which run once."""


class Chain:
    """A training and its resumptions, in a folder of its own with its own cache."""

    def __init__(self, serve: Any, stage: str, folder: Path, datalist: Path, work: Path, epochs: int = EPOCHS) -> None:
        self.serve, self.folder, self.epochs = serve, folder, epochs
        self.run_id, configs = STAGES[stage]
        self.phases = PHASES_OF[stage]
        self.job: dict[str, Any] = {
            "run_id": self.run_id,
            "configs": [str(BUNDLE_ROOT / "configs" / config) for config in configs],
            "log": str(folder / "log.txt"),
            "marks": str(folder / "marks.txt"),
        }
        prompts = folder / "models" / "prompt" if stage == "stage 1" else work / "stage 1/whole/models/prompt"
        later = {"ckpt_dir": folder / "models", "rounds": epochs} if stage == "stage 2" else {}
        overrides = {
            "bundle_root": BUNDLE_ROOT,
            "device": "$torch.device('cpu')",
            "datalist": datalist,
            "output_dir": folder / "run",
            "cache_dir": folder / "cache",
            "prompt_model_dir": prompts,
            "max_epochs": epochs,
            "resume": True,
            **later,
            **SMALL[stage],
        }
        self.job["overrides"] = {k: str(v) if isinstance(v, Path) else v for k, v in overrides.items()}

    def go_on(self, kill: dict[str, Any] | None = None, may_fail: bool = False, **more: Any) -> int:
        """Start or resume the training; return its exit code, -9 if it was killed.

        Args:
            kill: the moment, see :class:`tests.reliability.kill_server.Moments`.
            may_fail: whether other exit codes are allowed.
            more: further keys of the job.

        Raises:
            RuntimeError: the run failed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        code = self.serve({**self.job, "kill": kill, **more})
        if code not in (0, -9) and not may_fail:
            tail = "\n".join(Path(self.job["log"]).read_text(encoding="utf-8").splitlines()[-5:])
            raise RuntimeError(f"{self.run_id} failed, see {self.job['log']}\n{tail}")
        return code

    def marks(self) -> list[dict[str, Any]]:
        """Phases of the last process, as it wrote them."""
        return [json.loads(line) for line in Path(self.job["marks"]).read_text(encoding="utf-8").splitlines()]

    def killed_in_every_phase(self, counted: Sequence[Mapping[str, Any]], rng: random.Random) -> list[dict[str, Any]]:
        """Kill the run in every phase, at a random function call, and once by the clock; then let it finish."""
        later = [phase for phase in self.phases if phase not in FIRST]
        rows = []
        for phase in [p for p in FIRST if p in self.phases] + rng.sample(later, len(later)):
            ends = [mark for mark in counted if mark["what"] == "end" and mark["phase"] == phase]
            calls = min(mark["calls"] for mark in ends)  # those of the shortest occurrence
            kill = {"phase": phase, "occurrence": rng.randint(0, LATEST[phase]), "call": int(calls * rng.random())}
            if self.go_on(kill) != -9:
                raise RuntimeError(f"{self.run_id} ended before it was killed in {phase}, see {self.job['log']}")
            number = sum(mark["what"] == "begin" and mark["phase"] == phase for mark in self.marks())
            place = f"call {kill['call']} of about {calls}, in {self.marks()[-1]['function']}"
            rows.append({"phase": phase, "moment": f"{phase} {number} of the process, {place}"})
        rows += self._killed_by_the_clock(counted, rng)
        if self.go_on() != 0:
            raise RuntimeError(f"{self.run_id} did not finish, see {self.job['log']}")
        return rows

    def _killed_by_the_clock(self, counted: Sequence[Mapping[str, Any]], rng: random.Random) -> list[dict[str, Any]]:
        """Kill from another process after a random time, maybe inside a call."""
        seconds = 2 * rng.random() * sum(mark["seconds"] for mark in counted if mark["what"] == "end") / self.epochs
        if self.go_on({"phase": "training", "occurrence": 0, "seconds": seconds}) != -9:
            return []
        last = self.marks()[-1]
        phase = last["phase"] if last["what"] == "begin" else "between phases"
        return [{"phase": phase, "moment": f"{seconds:.3f} s after the first step of the process began"}]

    def differences(self, other: Chain) -> list[str]:
        """Entries of checkpoint, log and best network in which two finished runs differ, bit for bit."""
        both = (self.folder, other.folder)
        weights = ["run/checkpoint.pt", f"models/{'prompt/' if self.run_id == 'pretraining' else ''}model.pt"]
        mine, whole = ([torch.load(f / w, map_location="cpu", weights_only=True) for w in weights] for f in both)
        found = differences(mine, whole)
        logs = [(f / "run/metrics.csv").read_text(encoding="utf-8") for f in both]
        return found if logs[0] == logs[1] else [*found, "/metrics.csv"]


@contextmanager
def server(work: Path) -> Iterator[Any]:
    """`serve(job) -> exit code`, see :mod:`tests.reliability.kill_server`."""
    work.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(BUNDLE_ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    with (work / "server.txt").open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.reliability.kill_server"],
            cwd=BUNDLE_ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None

        def serve(job: dict[str, Any]) -> int:
            process.stdin.write(json.dumps(job) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            answer = process.stdout.readline()  # type: ignore[union-attr]
            if not answer:
                raise RuntimeError(f"the process that runs the jobs is gone, see {work / 'server.txt'}")
            return int(json.loads(answer)["code"])

        try:
            yield serve
        finally:
            process.stdin.close()
            process.wait()
            process.stdout.close()


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Keys at which two nested states are not equal bit for bit."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [d for key in one for d in differences(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [d for n, pair in enumerate(zip(one, other, strict=True)) for d in differences(*pair, f"{where}/{n}")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [where]
    return [] if one == other else [where]
