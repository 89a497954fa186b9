"""Where the level of a series changed, if it did: one split by energy distance, with a false-alarm rate that holds."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bench.statistics.intervals import FloatArray

SHORTEST = 2  # points a segment: the spread within one point is not defined
EXACT_LENGTH = 8  # points up to which all orders are counted
RESAMPLES = 999


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePoint:
    """The likeliest split of a series: `index` is the first point after it.

    `statistic` is E-divisive's q̂ there; `p` the chance of so large a maximum over all splits in a random order.
    """

    index: int
    statistic: float
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Points [start, stop) of a series, as the steps of asv are described: `spread` is the mean |x − median|."""

    start: int
    stop: int
    median: float
    minimum: float
    spread: float


def change_point(
    series: ArrayLike, rng: np.random.Generator | None = None, resamples: int = RESAMPLES
) -> ChangePoint | None:
    """The split that separates x [T] most, and a permutation test of it; None with fewer than 4 points.

    p counts orders whose *maximum* over the splits reaches the observed one, so that P(p ≤ α) ≤ α for exchangeable
    points: all T! orders up to 8 points, else (1 + hits) / (1 + resamples) by `rng`, seeded if None. A drift or
    correlated noise is no exchangeable series and alarms more often. After Matteson and James, JASA 109, 2014.
    """
    x = np.asarray(series, float)
    if x.ndim != 1 or not np.isfinite(x).all():
        raise ValueError(f"a series of shape {x.shape} is no row of finite numbers")
    if len(x) < 2 * SHORTEST:
        return None
    x = x - np.median(x)  # differences keep their digits at any level
    statistics = split_statistics(x[:, None])[:, 0]
    best = int(np.argmax(statistics))
    reached = statistics[best] - 1e-9 * np.abs(x).sum()
    p = _permutation_p(x, float(reached), rng or np.random.default_rng(0), resamples)
    return ChangePoint(index=best + SHORTEST, statistic=float(statistics[best]), p=p)


def split_statistics(x: FloatArray) -> FloatArray:
    """q̂ of every split of the series x [T, series], rows for the first point after it from 2 to T − 2.

    q̂ = m n / (m + n) · (2 mean|a − b| − mean|a − a′| − mean|b − b′|), a the m points before, b the n points after, and
    the last two means over pairs of different points.
    """
    size = len(x)
    earlier = np.zeros_like(x)  # Σ |x_j − x_i| over i < j; the sums within both sides follow from it
    for j in range(1, size):
        np.abs(x[:j] - x[j]).sum(axis=0, out=earlier[j])
    later = _distances(x) - earlier
    m = np.arange(SHORTEST, size - SHORTEST + 1)[:, None]
    n = size - m
    before, after = np.cumsum(earlier, axis=0), np.cumsum(later[::-1], axis=0)[::-1]
    within_a, within_b = before[m[:, 0] - 1], after[m[:, 0]]
    between = before[-1] - within_a - within_b
    distance = 2 * between / (m * n) - 2 * within_a / (m * (m - 1)) - 2 * within_b / (n * (n - 1))
    return m * n / size * distance


def _distances(x: FloatArray) -> FloatArray:
    """Σ_i |x_j − x_i| of every point, from the sorted values: (2 r − T) x_j + Σ x − 2 Σ of the r smaller ones."""
    order = np.argsort(x, axis=0)
    ordered = np.take_along_axis(x, order, axis=0)
    below = np.cumsum(ordered, axis=0) - ordered
    rank = np.arange(len(x))[:, None]
    total = (2 * rank - len(x)) * ordered + ordered.sum(axis=0) - 2 * below
    found = np.empty_like(x)
    np.put_along_axis(found, order, total, axis=0)
    return found


def _permutation_p(x: FloatArray, reached: float, rng: np.random.Generator, resamples: int) -> float:
    if len(x) <= EXACT_LENGTH:
        orders = np.array(list(itertools.permutations(range(len(x))))).T
        return float(np.mean(split_statistics(x[orders]).max(axis=0) >= reached))
    shuffled = rng.permuted(np.repeat(x[:, None], resamples, axis=1), axis=0)
    return float((1 + np.sum(split_statistics(shuffled).max(axis=0) >= reached)) / (1 + resamples))


def segments(series: ArrayLike, index: int) -> tuple[Segment, Segment]:
    """The parts of the series before and from `index`, with the numbers that asv gives of its steps."""
    x = np.asarray(series, float)
    before, after = (_segment(x, start, stop) for start, stop in ((0, index), (index, len(x))))
    return before, after


def _segment(x: FloatArray, start: int, stop: int) -> Segment:
    part = x[start:stop]
    median = float(np.median(part))
    return Segment(
        start=start, stop=stop, median=median, minimum=float(part.min()), spread=float(np.abs(part - median).mean())
    )
