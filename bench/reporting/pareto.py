"""Time, quality and memory of each optimizer, and who is not outdone in all of them at once."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.statistics.intervals import BoolArray
from bench.summary import Row, lower_is_better


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An optimizer's ok runs: mean seconds of training, the metric's values and mean; `front`: no other outdoes it.

    States are compared by their first two digits: a few bytes more are no reason to take another optimizer.
    """

    row: Row
    seconds: float
    values: tuple[float, ...]
    quality: float
    front: bool


def candidates(rows: Sequence[Row], metric: str) -> list[Candidate]:
    """The optimizers with an ok run that was timed, in the order of `rows`."""
    runs = {
        row.optimizer: [r for r in row.ok if math.isfinite(r.metrics.get(metric, math.nan)) and r.seconds.training > 0]
        for row in rows
    }
    shown = [row for row in rows if runs[row.optimizer]]
    seconds = [statistics.fmean(r.seconds.training for r in runs[row.optimizer]) for row in shown]
    values = [tuple(r.metrics[metric] for r in runs[row.optimizer]) for row in shown]
    quality = [statistics.fmean(of) for of in values]
    sign = -1.0 if lower_is_better(metric) else 1.0
    points = [(s, sign * q, float(f"{row.state_bytes:.1e}")) for s, q, row in zip(seconds, quality, shown, strict=True)]
    return [
        Candidate(row=row, seconds=s, values=of, quality=q, front=front)
        for row, s, of, q, front in zip(shown, seconds, values, quality, pareto_front(points), strict=True)
    ]


def pareto_front(points: Sequence[tuple[float, float, float]]) -> tuple[bool, ...]:
    """For each (time, quality, state), whether no other is at least as good in all three and better in one.

    Less time, higher quality and less state are better; equal points are on the front together. Raises ValueError for
    a coordinate that is not a number.
    """
    costs = np.array(points, float).reshape(-1, 3) * (1, -1, 1)
    if np.isnan(costs).any():
        raise ValueError(f"pareto_front: every coordinate must be a number; found {list(points)}")
    no_worse: BoolArray = np.all(costs[:, None] <= costs[None], axis=2)  # [i, j]: i is no worse than j
    dominated: BoolArray = np.any(no_worse & ~no_worse.T, axis=0)
    return tuple((~dominated).tolist())
