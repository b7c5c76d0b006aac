"""Paired timings: median ratio with its distribution-free confidence interval, beside the goal of a row."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import monai
import torch
from scipy.stats import binom

Pairs = list[tuple[float, float]]
"""(ours, reference) of neighbouring measurements, in seconds or bytes."""


@dataclass(frozen=True)
class Goal:
    """A row of the table before its measurement.

    Attributes:
        name: what is measured.
        goal: largest ratio that meets the goal; None where the ratio is only reported.
        reference: what ours is compared with.
        unit: "ms" or "MB".
    """

    name: str
    goal: float | None
    reference: str
    unit: str = "ms"

    def on(self, device: str, goal: float | None = None) -> Goal:
        """The same on a device: on a GPU the name says so, and the goal may be another."""
        return replace(self, name=f"{self.name}, GPU", goal=goal or self.goal) if device == "cuda" else self

    def row(self, pairs: Pairs, **more: Any) -> dict[str, Any]:
        """The row of `speed.json`: the goal is met if the median ratio does not exceed it.

        Args:
            pairs: (ours, reference) in seconds, or in MB.
            **more: further entries.
        """
        ratios = [ours / reference for ours, reference in pairs]
        ratio, (low, high) = statistics.median(ratios), median_interval(ratios)
        factor = 1000 if self.unit == "ms" else 1
        ours, reference = (round(factor * statistics.median(side), 3) for side in zip(*pairs, strict=True))
        met = None if self.goal is None else ratio <= self.goal
        return {
            "name": self.name, "ratio": round(ratio, 4), "low": round(low, 4), "high": round(high, 4),
            "goal": self.goal, "met": met, "reference": self.reference, "pairs": len(pairs),
            f"ours_{self.unit}": ours, f"reference_{self.unit}": reference, **more,
        }  # fmt: skip

    def not_measured(self, reason: str) -> dict[str, Any]:
        """The row on a machine that cannot measure it."""
        empty = {"ratio": None, "low": None, "high": None, "goal": self.goal, "met": None}
        return {"name": self.name, **empty, "reference": self.reference, "pairs": 0, "reason": reason}


def missing(device: str) -> str | None:
    """Why nothing can be measured on a device ("cpu" or "cuda"); None if it is there."""
    return "this machine has no CUDA device" if device == "cuda" and not torch.cuda.is_available() else None


def in_turns(
    ours: Callable[[], Any],
    reference: Callable[[], Any],
    pairs: int,
    warm_up: int = 2,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> Pairs:
    """Time two functions alternately, so that other load on the machine slows both alike.

    Args:
        ours: measured function.
        reference: measured function; first in every other pair, since the second finds a warmer cache.
        pairs: measurements of each.
        warm_up: calls of each before the first measurement.
        device: a GPU is synchronised before the clock is read.
        clock: in seconds; `time.process_time` leaves out other processes' time.

    Returns:
        Seconds, (ours, reference) for every pair.
    """
    for _ in range(warm_up):
        ours()
        reference()
    times = []
    for number in range(pairs):
        if number % 2:
            theirs = seconds(reference, device, clock)
            times.append((seconds(ours, device, clock), theirs))
        else:
            times.append((seconds(ours, device, clock), seconds(reference, device, clock)))
    return times


def seconds(action: Callable[[], Any], device: str = "cpu", clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call."""
    begin = now(device, clock)
    action()
    return now(device, clock) - begin


def now(device: str = "cpu", clock: Callable[[], float] = time.perf_counter) -> float:
    """Time in seconds, after a GPU's pending work."""
    if device != "cpu":
        torch.cuda.synchronize()
    return clock()


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Distribution-free confidence interval of the median by order statistics (the inverted sign test).

    The bounds are the k-th smallest and the k-th largest value, k from the binomial distribution of n and 1/2. Fewer
    than six values cannot reach 95 %: then the interval is their range.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("an interval needs values, got none")
    ordered, n = sorted(values), len(values)
    k = max(1, int(binom.ppf((1 - confidence) / 2, n, 0.5)))
    return ordered[k - 1], ordered[n - k]


def conditions_here(threads: int) -> dict[str, Any]:
    """Machine and versions that the numbers depend on, and the date."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "machine": {
            "processor": names[0] if names else platform.processor() or platform.machine(),
            "cores": os.cpu_count(), "gpu": gpu, "system": platform.system(),
        },
        "python": platform.python_version(), "torch": torch.__version__, "monai": monai.__version__,
        "threads": threads, "date": str(datetime.date.today()),
    }  # fmt: skip


def conditions_in_words(made: dict[str, Any]) -> str:
    """The value of :func:`conditions_here` in words."""
    machine = made["machine"]
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['gpu'] or 'no GPU'}; {made['threads']} thread(s); "
        f"Python {made['python']}, PyTorch {made['torch']}, MONAI {made['monai']}; {made['date']}"
    )
