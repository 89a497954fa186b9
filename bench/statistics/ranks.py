"""From significant pairs to ranks: simultaneous rank intervals, the best set, tiers, compact letters, agreement.

`better` is [k, k] and true where entry i is significantly better than entry j.
"""

from __future__ import annotations

import itertools
import string
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from bench.statistics.intervals import BoolArray, FloatArray, IntArray


def block_ranks(scores: ArrayLike) -> FloatArray:
    """Rank of each entry in each block of x [n, k], 1 the highest score, ties at their mid-rank."""
    return stats.rankdata(-np.asarray(scores, float), axis=1)


def in_steps(scores: ArrayLike, grain: float) -> FloatArray:
    """Scores to the nearest multiple of the grain, so that equal recalls tie whatever their sums' rounding."""
    x = np.asarray(scores, float)
    return np.round(x / grain) * grain if grain > 0 else x


def rank_intervals(better: BoolArray) -> tuple[IntArray, IntArray]:
    """lo_i = 1 + #{j better than i}, hi_i = k − #{j worse than i}; lo is also the tier, and lo = 1 the best set.

    Where `better` holds with family-wise error α, all k intervals hold the true ranks jointly with 1 − α.
    Mogstad, Romano, Shaikh, Wilhelm, REStud 2024 (rdad006); csranks has it as L = N⁻ + 1, U = p − N⁺.
    """
    better = np.asarray(better, bool)
    return 1 + better.sum(axis=0), len(better) - better.sum(axis=1)


def best_set(better: BoolArray) -> BoolArray:
    """The entries that no other is significantly better than."""
    return rank_intervals(better)[0] == 1


def compact_letters(different: BoolArray) -> tuple[str, ...]:
    """Letters of the entries in the given order: two share one if and only if they are not significantly different.

    Every letter is a maximal group of mutually indistinct entries, and none could be left out; `a` is the first
    entry's. After Piepho, JCGS 13(2) 2004. `different` is symmetric, its diagonal is ignored.
    """
    k = len(different)
    alike = [sum(1 << j for j in range(k) if j == i or not different[i][j]) for i in range(k)]
    groups = _groups(alike)
    letters = itertools.chain(string.ascii_letters, filter(str.isalpha, map(chr, itertools.count(0x100))))
    named = list(zip(sorted(groups), letters, strict=False))
    return tuple("".join(letter for group, letter in named if i in group) for i in range(k))


def _groups(alike: list[int]) -> list[list[int]]:
    """Maximal cliques that cover every pair (i, i) and (i, j) of alike entries; `alike` holds a bit mask an entry."""
    k = len(alike)
    covered = [0] * k
    groups: list[list[int]] = []
    for i, j in itertools.combinations_with_replacement(range(k), 2):
        if not alike[i] >> j & 1 or covered[i] >> j & 1:
            continue
        group, candidates = {i, j}, alike[i] & alike[j]
        for m in range(k):
            if candidates >> m & 1:
                group.add(m)
                candidates &= alike[m]
        mask = sum(1 << m for m in group)
        for m in group:
            covered[m] |= mask
        groups.append(sorted(group))
    return _without_redundant(groups, k)


def _without_redundant(groups: list[list[int]], k: int) -> list[list[int]]:
    times = np.zeros((k, k), int)
    for group in groups:
        times[np.ix_(group, group)] += 1
    kept = []
    for group in reversed(groups):
        block = np.ix_(group, group)
        if times[block].min() > 1:
            times[block] -= 1
        else:
            kept.append(group)
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class RankAgreement:
    """Two scorings of the same entries: Kendall's τ_b, and τ weighted to the top ranks; NaN where all are tied."""

    tau: float
    weighted_tau: float


def rank_agreement(first: ArrayLike, second: ArrayLike) -> RankAgreement:
    """Agreement of two score vectors [k], higher better. Weighted τ: Vigna, WWW 2015, hyperbolic weights."""
    first, second = np.asarray(first, float), np.asarray(second, float)
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return RankAgreement(tau=np.nan, weighted_tau=np.nan)
    tau, weighted = (float(np.asarray(of(first, second))[0]) for of in (stats.kendalltau, stats.weightedtau))
    return RankAgreement(tau=tau, weighted_tau=weighted)
