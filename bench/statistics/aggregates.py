"""Summaries over runs and tasks as in rliable (Agarwal et al. 2021, arXiv 2108.13264). Shapes: x [runs, tasks]."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from bench.statistics.intervals import FloatArray
from bench.statistics.pairs import probability_of_improvement_unpaired

SEEDS_FOR_IQM = 8  # with three runs the interquartile mean is the mean


def interquartile_mean(scores: ArrayLike) -> float:
    """Mean of the middle half of all values; a quarter, rounded down, is cut at each end."""
    return float(stats.trim_mean(np.ravel(np.asarray(scores, float)), 0.25))


def optimality_gap(scores: ArrayLike, gamma: float) -> float:
    """mean(max(0, γ − x)): how far the scores stay below γ."""
    return float(np.maximum(0.0, gamma - np.asarray(scores, float)).mean())


def score_distribution(scores: ArrayLike, at: ArrayLike) -> FloatArray:
    """Share of values above each threshold τ, [len(at)]."""
    return np.mean(np.ravel(np.asarray(scores, float))[None] > np.atleast_1d(np.asarray(at, float))[:, None], axis=1)


def median_of_tasks(scores: ArrayLike) -> float:
    """Median over tasks of the mean over runs."""
    return float(np.median(np.asarray(scores, float).mean(axis=0)))


def mean_probability_of_improvement(a: ArrayLike, b: ArrayLike) -> float:
    """Mean over tasks of U / (n m), of a [n, tasks] and b [m, tasks]."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    tasks = range(a.shape[1])
    return float(np.mean([probability_of_improvement_unpaired(a[:, task], b[:, task]) for task in tasks]))
