"""What the machine can do at most, and under what conditions something was measured on it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bench.environment import environment
from bench.timing import Rounds, interleaved, memory_bandwidth

GEMM_SIZE = 2048  # rows and columns: large enough for the best rate, 10 to 200 ms on two cores
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Where, on how many threads, beside what; `gemm` is in operations a second by dtype, `bandwidth` in bytes."""

    device: str
    processor: str
    threads: int
    bandwidth: float
    gemm: dict[str, float]
    rounds: int
    dropped: int
    foreign: float | None

    def __str__(self) -> str:
        load = "unknown" if self.foreign is None else f"{self.foreign:.2f} cores"
        rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in self.gemm.items())
        return (
            f"Medians of {self.rounds} interleaved rounds ({self.dropped} dropped; foreign load {load}) on "
            f"{self.processor}, {self.device}, {self.threads} thread{'s' * (self.threads > 1)}; matrix products: "
            f"{rates}; memory {self.bandwidth / 1e9:.0f} GB/s."
        )


def gemm_rates(device: torch.device, rounds: int = 3) -> dict[str, float]:
    """Operations a second of a product of two large square matrices, by dtype."""
    calls = {}
    for dtype, name in NAMES.items():
        a, b = (torch.randn(GEMM_SIZE, GEMM_SIZE, device=device).to(dtype) for _ in range(2))
        calls[name] = lambda a=a, b=b: a @ b
    found = interleaved(calls, rounds=rounds, device=device)
    return {name: 2 * GEMM_SIZE**3 / timing.low for name, timing in found.timings.items()}


def conditions(device: torch.device, found: Rounds) -> Conditions:
    """The conditions of some rounds, the machine's limits measured anew beside them."""
    return Conditions(
        device=str(device),
        processor=environment(device).processor,
        threads=torch.get_num_threads(),
        bandwidth=memory_bandwidth(device),
        gemm=gemm_rates(device),
        rounds=found.kept or found.dropped,
        dropped=found.dropped if found.kept else 0,
        foreign=found.foreign,
    )
