"""Two things timed in turns: the median of their ratios, with an interval that presumes nothing about the noise."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

Pairs = list[tuple[float, float]]
"""(ours, reference) of neighbouring measurements, in seconds or bytes."""


@dataclass(frozen=True)
class Goal:
    """What a ratio is held against.

    Attributes:
        name: what is measured.
        goal: largest ratio that meets the goal; None for what is only reported.
        reference: what ours is compared with.
        unit: of the pairs, "ms" or "MB".
    """

    name: str
    goal: float | None
    reference: str
    unit: str = "ms"

    def on(self, device: str, goal: float | None = None) -> Goal:
        """The same on another device: a GPU is named, and may have a goal of its own."""
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
        """The row where this machine cannot tell."""
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
    """Time two things in turns, so that whatever else the machine does slows both alike.

    Args:
        ours: called without arguments.
        reference: alike; odd pairs begin with it, since the second of a pair finds a warmer cache.
        pairs: measurements of each.
        warm_up: calls of each before the first measurement.
        device: a GPU is waited for before the clock is read.
        clock: in seconds; `time.process_time` leaves out the time in which the machine did other work.

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
    """Seconds of one call, of the wall clock unless another is given."""
    begin = now(device, clock)
    action()
    return now(device, clock) - begin


def now(device: str = "cpu", clock: Callable[[], float] = time.perf_counter) -> float:
    """The clock, in seconds, once a GPU has done what it was told."""
    if device != "cpu":
        torch.cuda.synchronize()
    return clock()


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the median: two values of the sorted sample, the k-th from either end.

    The true median lies below the k-th of n with the probability that fewer than k of n fair coins show heads; k is
    the largest with which both sides together stay within 1 - confidence. Fewer than six values cannot reach 95 %:
    then it is their whole range.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("an interval needs values, got none")
    ordered, n = sorted(values), len(values)
    k, outside = 0, 2 * 0.5**n
    while outside <= 1 - confidence:
        k += 1
        outside += 2 * math.comb(n, k) * 0.5**n
    return ordered[max(k - 1, 0)], ordered[n - max(k, 1)]
