"""Time to a target score, censored where it was not reached, and performance profiles over workloads or seeds.

A time is in any unit (steps, seconds) and infinite where the target was not reached: a diverged run never reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from bench.statistics.intervals import FloatArray

MOST_TIMES_THE_BEST = 4.0  # AlgoPerf's end of the profile


def time_to_target(times: ArrayLike, scores: ArrayLike, target: float, *, lower_is_better: bool = False) -> float:
    """When one run's curve (times increasing, scores, both [evaluations]) first reaches `target`; infinite if never.

    Linear between the evaluations around the first crossing; a score that is not finite has not reached the target.
    """
    times, scores = np.asarray(times, float), np.asarray(scores, float)
    if times.shape != scores.shape or times.ndim != 1 or np.any(np.diff(times) <= 0):
        raise ValueError(f"a curve needs increasing times [e] and scores [e]; found {times.shape} and {scores.shape}")
    sign = -1.0 if lower_is_better else 1.0
    scores, target = sign * scores, sign * target
    reached = np.isfinite(scores) & (scores >= target)
    if not reached.any():
        return np.inf
    i = int(np.argmax(reached))
    if i == 0 or not np.isfinite(scores[i - 1]):
        return float(times[i])
    share = (target - scores[i - 1]) / (scores[i] - scores[i - 1])
    return float(times[i - 1] + share * (times[i] - times[i - 1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTimes:
    """Times to a target over n seeds.

    `median`: runs without the target count as infinite (AlgoPerf). `kaplan_meier_median`: the least time by which the
    survival curve is at most ½. `par2`: mean with twice the limit where not reached; it breaks ties.
    """

    n: int
    reached: int
    median: float
    kaplan_meier_median: float
    par2: float


def target_times(times: ArrayLike, limits: ArrayLike) -> TargetTimes:
    """Summary of times [n], infinite where not reached, given the budget of each run (a number, or [n]).

    A run without the target is censored at its budget, also one that diverged earlier: its chance to reach the target
    ended there, and censoring it at its end would say that it might have.
    """
    times = np.asarray(times, float)
    limits = np.broadcast_to(np.asarray(limits, float), times.shape)
    if np.isnan(times).any() or not times.size or np.any(times[np.isfinite(times)] > limits[np.isfinite(times)]):
        raise ValueError(f"times must be at most the limits, or infinite; found {times.tolist()} of {limits.tolist()}")
    reached = np.isfinite(times)
    return TargetTimes(
        n=times.size,
        reached=int(reached.sum()),
        median=float(np.median(times)),
        kaplan_meier_median=_kaplan_meier_median(times[reached], limits[~reached]),
        par2=float(np.where(reached, times, 2 * limits).mean()),
    )


def _kaplan_meier_median(uncensored: FloatArray, right: FloatArray) -> float:
    if not uncensored.size:
        return np.inf
    curve = stats.ecdf(stats.CensoredData(uncensored=uncensored, right=right)).sf
    below = np.flatnonzero(curve.probabilities <= 0.5 + 1e-12)  # products of fractions round
    return float(curve.quantiles[below[0]]) if below.size else np.inf


def performance_ratios(times: ArrayLike) -> FloatArray:
    """r = time / best time of the workload, of times [workloads, k] > 0; infinite where the target was not reached."""
    times = np.asarray(times, float)
    if not np.all(times > 0):
        raise ValueError("times must be positive, and infinite where the target was not reached")
    best = times.min(axis=1, keepdims=True)
    return np.divide(times, best, out=np.full_like(times, np.inf), where=np.isfinite(times))


def performance_profile(times: ArrayLike, at: ArrayLike) -> FloatArray:
    """ρ(τ): share of workloads with r ≤ τ, [len(at), k], of times [workloads, k]. Dolan and Moré 2002."""
    return np.mean(performance_ratios(times)[None] <= np.atleast_1d(np.asarray(at, float))[:, None, None], axis=1)


def profile_scores(times: ArrayLike, most: float = MOST_TIMES_THE_BEST) -> FloatArray:
    """Each workload's share of the profile's area, [workloads, k]: max(0, most − r)/(most − 1).

    Their mean over workloads is the exact integral of ρ over [1, most], divided by its length: AlgoPerf's score
    without its grid of 100 points. A workload (or seed) each, so that intervals over them are those of a mean.
    """
    return np.maximum(0.0, most - np.minimum(performance_ratios(times), most)) / (most - 1)
