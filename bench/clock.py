"""The one clock: seconds by part, the device synchronised before each read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Adds up seconds by part ("training", "evaluation", …) on `device`."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._device = device
        self._seconds: dict[str, float] = {}

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block's seconds under `name`; the device is waited for at both ends."""
        start = self._now()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + self._now() - start

    def carry(self, name: str, seconds: float) -> None:
        """Add what an earlier process counted."""
        self._seconds[name] = self.seconds(name) + seconds

    def seconds(self, name: str) -> float:
        """Seconds counted under `name` so far."""
        return self._seconds.get(name, 0.0)


class StepTimer:
    """Seconds in a part of every step without stopping the device: CUDA events there, the CPU's clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds = 0.0
        self._pending: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Count the block."""
        if self._cuda:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            yield
            end.record()
            self._pending.append((start, end))
            return
        before = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - before

    def carry(self, seconds: float) -> None:
        """Add what an earlier process counted."""
        self._seconds += seconds

    def seconds(self) -> float:
        """Seconds counted so far; waits for the device."""
        if self._pending:
            torch.cuda.synchronize()
            self._seconds += sum(start.elapsed_time(end) for start, end in self._pending) / 1000
            self._pending.clear()
        return self._seconds
