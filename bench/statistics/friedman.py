"""Friedman's omnibus test with its permutation p-value, and Kendall's W."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from bench.statistics.intervals import FloatArray, IntArray
from bench.statistics.ranks import block_ranks

EXACT_ENTRIES = 7  # 5040 orders of a block; with more the states are too many from the third seed on
EXACT_STATES = 200_000  # rank-sum states times orders of a block, up to which the p-value is exact
MOST_RESAMPLES = 9999
LEAST_RESAMPLES = 999
RESAMPLED_RANKS = 4_000_000  # ranks drawn between those limits: a fraction of a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Friedman:
    """`p` by χ² with k − 1 degrees of freedom, too small at few seeds; `p_exact` by permutation within seeds.

    `resamples` is 0 where p_exact counts every permutation.
    """

    statistic: float
    p: float
    p_exact: float
    resamples: int
    kendall_w: float


def friedman(scores: ArrayLike, rng: np.random.Generator | None = None) -> Friedman:
    """Friedman's test of x [n, k], n ≥ 1 and k ≥ 2, higher better.

    Q = (k − 1) Σ_j (R_j − n (k + 1)/2)² / (Σ r² − n k (k + 1)²/4) with rank sums R_j of ranks r: the χ² with the
    correction for ties. W = Q / (n (k − 1)). All tied: Q = W = 0 and p = 1. Friedman 1937; Conover 1999.
    """
    ranks = block_ranks(scores)
    n, k = ranks.shape
    spread = float(np.sum(ranks**2) - n * k * (k + 1) ** 2 / 4)
    if spread == 0:
        return Friedman(statistic=0.0, p=1.0, p_exact=1.0, resamples=0, kendall_w=0.0)
    statistic = float((k - 1) * np.sum((ranks.sum(axis=0) - n * (k + 1) / 2) ** 2) / spread)
    doubled = np.round(2 * ranks).astype(np.int64)  # integers, mid-ranks too: sums compare exactly
    observed = _squares(doubled.sum(axis=0))
    # Under the null only the ties of each block matter; in one order, so that neither seeds nor entries have one.
    patterns = np.sort(doubled, axis=1)
    patterns = patterns[np.lexsort(patterns.T)]
    p_exact, resamples = _exact_p(patterns, observed), 0
    if p_exact is None:
        resamples = min(MOST_RESAMPLES, max(LEAST_RESAMPLES, RESAMPLED_RANKS // ranks.size))
        p_exact = _resampled_p(patterns, observed, rng or np.random.default_rng(0), resamples)
    p = float(special.chdtrc(k - 1, statistic))
    w = statistic / (n * (k - 1))
    return Friedman(statistic=statistic, p=p, p_exact=p_exact, resamples=resamples, kendall_w=w)


def _exact_p(ranks: IntArray, observed: FloatArray) -> float | None:
    """P(Σ R_j² ≥ observed) over all orders of every block, block by block over sorted rank sums; None if too many."""
    n, k = ranks.shape
    base = n * int(ranks.max()) + 1
    if k > EXACT_ENTRIES or k * math.log2(base) > 62:  # a state is one int64 of k digits
        return None
    places = base ** np.arange(k, dtype=np.int64)
    sums, weights = ranks[:1], np.ones(1)
    for block in ranks[1:]:
        orders = np.unique(np.array(list(itertools.permutations(block))), axis=0)
        if len(sums) * len(orders) > EXACT_STATES:
            return None
        codes = np.sort((sums[:, None] + orders[None]).reshape(-1, k), axis=1) @ places
        states, inverse = np.unique(codes, return_inverse=True)
        weights = np.bincount(inverse, np.repeat(weights, len(orders)) / len(orders))
        sums = states[:, None] // places % base
    return min(float(weights[_squares(sums) >= observed].sum()), 1.0)


def _resampled_p(ranks: IntArray, observed: FloatArray, rng: np.random.Generator, resamples: int) -> float:
    (n, k), hits = ranks.shape, 0
    at_once = max(1, 500_000 // ranks.size)
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        drawn = rng.permuted(np.tile(ranks, (count, 1)), axis=1).reshape(count, n, k)
        hits += int(np.sum(_squares(drawn.sum(axis=1)) >= observed))
    return (1 + hits) / (1 + resamples)


def _squares(sums: IntArray) -> FloatArray:
    return np.sum(sums.astype(float) ** 2, axis=-1)
