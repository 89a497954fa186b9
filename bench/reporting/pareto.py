"""Who is not outdone in time, quality and memory at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.statistics.intervals import BoolArray


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
