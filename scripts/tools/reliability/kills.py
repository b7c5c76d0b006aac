"""Kill both stages at random moments of every phase, go on with the same command, and compare the ends bit for bit."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ...bundle.launch import BUNDLE_ROOT
from ...phantom.write import write_phantoms
from ..figures_file import RELIABILITY, add_figures, read_figures
from .killed_runs import PHASES

FIVE = ("training", "validation", "checkpoint", "slices", "maps")
STAGES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "stage 1": ("pretraining", ("pretrain.yaml", "offline_encoders.yaml", "smoke.yaml"), tuple(
        phase for phase in PHASES if phase not in ("maps", "pseudo-labels"))),
    "stage 2": ("training", ("train.yaml", "smoke.yaml"), tuple(PHASES)),
}  # fmt: skip
"""Stage -> run id, config files, phases."""
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
"""Stage -> overrides: what matters is what is written when, and not what is learnt."""
EPOCHS = 4
LATEST = {"slices": 1, "maps": 0, "pseudo-labels": 0, "training": 2, "validation": 0, "checkpoint": 1}
"""Phase -> the last occurrence, from 0, at which a run is killed; each later one would cost the chain epochs."""
FIRST = ("slices", "maps")
"""Phases that come before training; once done they do not come again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m scripts benchmark kills`."""
    parser.add_argument("--out", type=Path, default=RELIABILITY, help="file to add to")
    parser.add_argument("--chains", type=int, default=4, help="runs of each stage; each is killed once in every phase")
    parser.add_argument("--seed", type=int, default=0, help="of the moments; rows of other seeds stay in the file")
    parser.add_argument("--work", type=Path, help="folder for runs; a temporary one without")


def run(args: argparse.Namespace) -> int:
    """Kill, compare, and write `kills_survived` and `kills` into the file; 1 if an end was another."""
    with tempfile.TemporaryDirectory() as scratch:
        made = kill_chains(args.work or Path(scratch), list(STAGES), args.chains, args.seed)
    others = [row for row in read_figures(args.out).get("kills", ()) if row["seed"] != args.seed]
    rows = sorted([*others, *made], key=lambda row: (row["stage"], row["seed"], row["chain"]))
    add_figures(args.out, summary(rows))
    print(f"{sum(row['survived'] for row in made)} of {len(made)} kills survived, see {args.out}")
    return int(not all(row["survived"] for row in made))


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows, and how many were survived, in all and in each phase."""
    survived = Counter(f"{row['stage']}, {row['phase']}" for row in rows if row["survived"])
    by_phase = dict(sorted(survived.items()))
    return {"kills_survived": survived.total(), "kills_survived_by_phase": by_phase, "kills": list(rows)}


def kill_chains(
    work: Path, stages: Sequence[str], chains: int, seed: int = 0, epochs: int = EPOCHS
) -> list[dict[str, Any]]:
    """Kill `chains` runs of each stage once in every phase, and compare each with one that was never killed.

    Returns:
        One row a kill: `stage`, `seed`, `chain`, `phase`, `moment`, and `survived`: the chain's end was the same.

    Raises:
        RuntimeError: a run failed otherwise.
    """
    rng, rows = random.Random(seed), []
    datalist = write_phantoms(
        work / "phantoms", labelled=2, unlabelled=2, validation=1, test=1, shape_hw=(40, 32), pixel_mm=7.0
    )
    with server(work) as serve:
        whole = {name: Chain(serve, name, work / name / "whole", datalist, work, epochs) for name in STAGES}
        for name in STAGES:  # stage 2 reads what stage 1 left
            if name in stages or name == "stage 1":
                whole[name].go_on()
        for name in stages:
            counted = whole[name].marks()
            for number in tqdm(range(chains), desc=f"killing {name}", disable=None):
                chain = Chain(serve, name, work / name / str(number), datalist, work, epochs)
                found = [
                    {"stage": name, "seed": seed, "chain": number, **row}
                    for row in chain.killed_in_every_phase(counted, rng)
                ]
                same = not chain.differences(whole[name])
                rows += [{**row, "survived": same} for row in found]
                shutil.rmtree(chain.folder)
    return rows


class Chain:
    """One run of a stage and all its goings-on, in a folder of its own with a cache of its own."""

    def __init__(self, serve: Any, stage: str, folder: Path, datalist: Path, work: Path, epochs: int = EPOCHS) -> None:
        self.serve, self.folder, self.epochs = serve, folder, epochs
        self.run_id, configs, self.phases = STAGES[stage]
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
        """Give the command, `more` of the job beside it; return its exit code, -9 if it was killed.

        Raises:
            RuntimeError: it failed, and may not.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        code = self.serve({**self.job, "kill": kill, **more})
        if code not in (0, -9) and not may_fail:
            tail = "\n".join(Path(self.job["log"]).read_text(encoding="utf-8").splitlines()[-5:])
            raise RuntimeError(f"{self.run_id} failed, see {self.job['log']}\n{tail}")
        return code

    def marks(self) -> list[dict[str, Any]]:
        """What the last run wrote about its phases."""
        return [json.loads(line) for line in Path(self.job["marks"]).read_text(encoding="utf-8").splitlines()]

    def killed_in_every_phase(self, counted: Sequence[Mapping[str, Any]], rng: random.Random) -> list[dict[str, Any]]:
        """Kill once in every phase, at a random call, and once at any time; then let the run come to its end."""
        later = [phase for phase in self.phases if phase not in FIRST]
        rows = []
        for phase in [p for p in FIRST if p in self.phases] + rng.sample(later, len(later)):
            ends = [mark for mark in counted if mark["what"] == "end" and mark["phase"] == phase]
            calls = min(mark["calls"] for mark in ends)  # of the shortest, so that the kill falls into it
            kill = {"phase": phase, "occurrence": rng.randint(0, LATEST[phase]), "call": int(calls * rng.random())}
            if self.go_on(kill) != -9:
                raise RuntimeError(f"{self.run_id} ended before it could be killed in {phase}, see {self.job['log']}")
            number = sum(mark["what"] == "begin" and mark["phase"] == phase for mark in self.marks())
            place = f"call {kill['call']} of about {calls}, in {self.marks()[-1]['function']}"
            rows.append({"phase": phase, "moment": f"{phase} {number} of the process, {place}"})
        rows += self._killed_by_the_clock(counted, rng)
        if self.go_on() != 0:
            raise RuntimeError(f"{self.run_id} did not come to its end, see {self.job['log']}")
        return rows

    def _killed_by_the_clock(self, counted: Sequence[Mapping[str, Any]], rng: random.Random) -> list[dict[str, Any]]:
        """Kill from outside, also in the middle of a call; in which phase that is shows afterwards."""
        seconds = 2 * rng.random() * sum(mark["seconds"] for mark in counted if mark["what"] == "end") / self.epochs
        if self.go_on({"phase": "training", "occurrence": 0, "seconds": seconds}) != -9:
            return []
        last = self.marks()[-1]
        phase = last["phase"] if last["what"] == "begin" else "between phases"
        return [{"phase": phase, "moment": f"{seconds:.3f} s after the first step of the process began"}]

    def differences(self, other: Chain) -> list[str]:
        """Where two finished runs are not equal to the last bit: checkpoint, log, kept network."""
        both = (self.folder, other.folder)
        weights = ["run/checkpoint.pt", f"models/{'prompt/' if self.run_id == 'pretraining' else ''}model.pt"]
        mine, whole = ([torch.load(f / w, map_location="cpu", weights_only=True) for w in weights] for f in both)
        found = differences(mine, whole)
        logs = [(f / "run/metrics.csv").read_text(encoding="utf-8") for f in both]
        return found if logs[0] == logs[1] else [*found, "/metrics.csv"]


@contextmanager
def server(work: Path) -> Iterator[Any]:
    """`serve(job) -> exit code`, see `killed_runs`."""
    work.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(BUNDLE_ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    with (work / "server.txt").open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "scripts.tools.reliability.killed_runs"],
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
    """Ids at which two nested states are not equal to the last bit."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [d for key in one for d in differences(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [d for n, pair in enumerate(zip(one, other, strict=True)) for d in differences(*pair, f"{where}/{n}")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [where]
    return [] if one == other else [where]
