"""The candidate's means for other tools, and the line that a check adds to a history file.

github-action-benchmark: https://github.com/benchmark-action/github-action-benchmark, tool customBiggerIsBetter (or
customSmallerIsBetter for a rank). Bencher: https://bencher.dev/docs/reference/bencher-metric-format.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.check.result import CheckResult
from bench.check.sides import score_sides
from bench.check.snapshot import Snapshot
from bench.statistics.pairs import paired_t
from bench.store import write_atomic


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """An optimizer's mean over its n seeds, failed runs at chance, with its 95 % interval; one seed has none."""

    n: int
    value: float
    low: float | None
    high: float | None


def means(snap: Snapshot) -> dict[str, Mean]:
    """Every optimizer that has a score, in the metric's own direction."""
    sides = score_sides(snap, snap)
    sign = -1.0 if snap.metric.lower_is_better else 1.0
    found = {}
    for j, name in enumerate(sides.names):
        scores = sign * sides.baseline[:, j][np.isfinite(sides.baseline[:, j])]
        if not len(scores):
            continue
        # A rounded number has half the variance of the difference of two.
        test = paired_t(scores, np.zeros_like(scores), grain=sides.grain / np.sqrt(2))
        several = test.n > 1
        found[name] = Mean(n=test.n, value=float(test.difference), low=float(test.low) if several else None,
                           high=float(test.high) if several else None)  # fmt: skip
    return found


def github_action_benchmark(snap: Snapshot, result: CheckResult) -> list[dict[str, Any]]:
    """A series an optimizer."""
    level = result.gate("level")
    said = {case.name: case.text for case in level.cases} if level else {}
    return [
        {
            "name": f"{name} {snap.metric.name}",
            "unit": result.unit or "rank",
            "value": mean.value,
            **({} if mean.high is None else {"range": f"± {mean.high - mean.value:.3g}"}),
            "extra": f"{mean.n} seeds, protocol {snap.protocol_hash}; {said.get(name, 'new')}",
        }
        for name, mean in means(snap).items()
    ]


def bencher(snap: Snapshot, result: CheckResult) -> dict[str, Any]:
    """Bencher Metric Format: a benchmark an optimizer, a measure for the metric."""
    return {
        name: {snap.metric.name: {"value": mean.value}
               | ({} if mean.low is None else {"lower_value": mean.low, "upper_value": mean.high})}
        for name, mean in means(snap).items()
    }  # fmt: skip


EXPORTS: Mapping[str, Callable[[Snapshot, CheckResult], Any]] = {
    "github-action-benchmark": github_action_benchmark,
    "bencher": bencher,
}


def write_export(kind: str, path: Path, snap: Snapshot, result: CheckResult) -> None:
    """Write one of `EXPORTS`."""
    write_atomic(path, json.dumps(EXPORTS[kind](snap, result), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def history_line(snap: Snapshot, result: CheckResult, finished: str) -> dict[str, Any]:
    """A check as one row of a series: when, what code, verdict, means."""
    return {
        "finished": finished,
        "commit": result.candidate.commit,
        "protocol": result.protocol,
        "protocol_hash": result.protocol_hash,
        "metric": result.metric,
        "verdict": str(result.verdict),
        "gates": {gate.name: str(gate.status) for gate in result.gates},
        "optimizers": {name: {"n": mean.n, "mean": mean.value, "low": mean.low, "high": mean.high}
                       for name, mean in means(snap).items()},
    }  # fmt: skip


def append_history(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line in one write; where a crash has left half a line at the end, the new one does not join it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            file.write(b"\n")
        file.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
