"""Timings side by side in one process: interleaved rounds, medians, and an eye on what else the machine is doing."""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

FOREIGN_LIMIT = 0.1  # cores; a round beside more than this is dropped
ROUND_SECONDS = 0.2  # at least: the system counts busy time in ticks of 0.01
BANDWIDTH_ELEMENTS = 2**25  # float32, 128 MiB a vector: no cache holds two


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds a call, over the rounds that count."""

    median: float
    low: float  # quartiles
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """The timings of every candidate and how quiet the machine was; `foreign` is None where that is not known."""

    timings: dict[str, Timing]
    kept: int
    dropped: int
    foreign: float | None  # cores used by other processes, median over all rounds

    @property
    def quiet(self) -> bool:
        """Whether the rounds that count ran beside no foreign load."""
        return self.foreign is not None and self.kept > 0


def _busy_seconds() -> float | None:
    """Seconds that all cores have been busy since the machine started; None where the system does not tell."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq = (int(x) for x in fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class ForeignLoad:
    """Cores that other processes used since the last question."""

    def __init__(self) -> None:
        self._last = self._now()

    def _now(self) -> tuple[float | None, float, float]:
        return _busy_seconds(), time.process_time(), time.perf_counter()

    def cores(self) -> float | None:
        """Since the last call or the start; None where the system does not tell."""
        (busy, own, wall), self._last = self._last, self._now()
        if busy is None or self._last[0] is None:
            return None
        return max(0.0, (self._last[0] - busy - (self._last[1] - own)) / (self._last[2] - wall))


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 2,
    device: torch.device,
    on_round: Callable[[int], None] = lambda done: None,
) -> Rounds:
    """Time every candidate in turn, round by round; `rounds` count, those beside foreign load are repeated.

    A round has as many passes over the candidates as fill `ROUND_SECONDS`, and counts by their mean. Ends after twice
    the rounds; where less than half of what was asked for was quiet, all of them count, and `kept` is 0.
    """
    seconds: list[tuple[float | None, dict[str, float]]] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        passes = 1
        for _ in range(warmup):
            passes = math.ceil(ROUND_SECONDS / max(sum(_round(candidates, device, 1).values()), ROUND_SECONDS / 100))
        load = ForeignLoad()
        while len(seconds) < 2 * rounds and sum(_is_quiet(cores) for cores, _ in seconds) < rounds:
            taken = _round(candidates, device, passes)
            seconds.append((load.cores(), taken))
            on_round(len(seconds))
            gc.collect()
    finally:
        if collecting:
            gc.enable()
    kept = [taken for cores, taken in seconds if _is_quiet(cores)]
    kept = kept if len(kept) >= rounds / 2 else []
    counted = kept or [taken for _, taken in seconds]
    known = [cores for cores, _ in seconds if cores is not None]
    return Rounds(
        timings={name: timing([taken[name] for taken in counted]) for name in candidates},
        kept=len(kept),
        dropped=len(seconds) - len(kept),
        foreign=statistics.median(known) if known else None,
    )


def _is_quiet(cores: float | None) -> bool:
    return cores is None or cores <= FOREIGN_LIMIT


def _round(candidates: Mapping[str, Callable[[], object]], device: torch.device, passes: int) -> dict[str, float]:
    """Mean seconds of each candidate over some passes."""
    taken = dict.fromkeys(candidates, 0.0)
    for _ in range(passes):
        for name, call in candidates.items():
            wait_for(device)
            start = time.perf_counter()
            call()
            wait_for(device)
            taken[name] += (time.perf_counter() - start) / passes
    return taken


def wait_for(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timing(seconds: list[float]) -> Timing:
    """Median and quartiles."""
    if len(seconds) == 1:
        return Timing(median=seconds[0], low=seconds[0], high=seconds[0])
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(median=median, low=low, high=high)


def memory_bandwidth(device: torch.device, repeats: int = 7) -> float:
    """Bytes a second of y <- y + x on vectors that no cache holds, two reads and a write each: the best of some."""
    x, y = (torch.ones(BANDWIDTH_ELEMENTS, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        best = min(best, _round({"add": lambda: y.add_(x)}, device, 1)["add"])
    return 3 * x.numel() * x.element_size() / best
