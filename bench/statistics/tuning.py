"""What tuning costs: expected results of the best of B settings, and tunability.

Shapes: axis 0 is the N settings tried; further axes (seeds) are kept. The settings must be independent draws, as in
random search; for a grid that is the whole population, `with_replacement` is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bench.statistics.intervals import FloatArray


def best_of_weights(n: int, budget: int, *, with_replacement: bool = False) -> FloatArray:
    """P(the best of `budget` drawn settings is the one of rank r = 1, …, n), 1 the best; [n].

    U, without replacement: C(n − r, B − 1) / C(n, B), unbiased, B ≤ n (Tang et al. 2020).
    V, with replacement: ((n − r + 1)/n)^B − ((n − r)/n)^B, biased low (Dodge et al. 2019, arXiv 1909.03004).
    """
    if budget < 1 or (budget > n and not with_replacement):
        raise ValueError(f"a budget of {budget} settings of {n}; without replacement 1 to {n} are possible")
    if with_replacement:
        shares = np.arange(n, -1, -1) / n
        return shares[:-1] ** budget - shares[1:] ** budget
    total = math.comb(n, budget)
    return np.array([math.comb(n - r, budget - 1) / total for r in range(1, n + 1)])


def best_validated(
    validation: ArrayLike,
    test: ArrayLike,
    budget: int,
    *,
    with_replacement: bool = False,
    lower_is_better: bool = False,
) -> FloatArray:
    """Expected test score of the best validated of B settings, both [N, ...] → [...]. Bajgar et al. 2018 (Boo_n).

    Settings of equal validation share their weight. With test = validation: the expected validation performance.
    """
    validation, test = np.asarray(validation, float), np.asarray(test, float)
    if validation.shape != test.shape or np.isnan(validation).any():
        raise ValueError(f"validation {validation.shape} and test {test.shape} scores must match, without NaN")
    n = len(validation)
    weights = best_of_weights(n, budget, with_replacement=with_replacement)
    worse_first = -validation if lower_is_better else validation
    better = np.sum(worse_first[None] > worse_first[:, None], axis=1)
    tied = np.sum(worse_first[None] == worse_first[:, None], axis=1)
    summed = np.concatenate(([0.0], np.cumsum(weights)))
    return np.sum((summed[better + tied] - summed[better]) / tied * test, axis=0)


def expected_best(
    scores: ArrayLike, budget: int, *, with_replacement: bool = False, lower_is_better: bool = False
) -> FloatArray:
    """Expected validation performance of the best of B of the N scores [N, ...] → [...]."""
    return best_validated(scores, scores, budget, with_replacement=with_replacement, lower_is_better=lower_is_better)


def sd_of_best(scores: ArrayLike, budget: int, *, with_replacement: bool = True) -> FloatArray:
    """Standard deviation of the best of B draws from the N scores [N, ...] (show_your_work calls it var)."""
    x = np.asarray(scores, float)
    mean = expected_best(x, budget, with_replacement=with_replacement)
    return np.sqrt(np.maximum(best_validated(x, (x - mean) ** 2, budget, with_replacement=with_replacement), 0.0))


def quantile_of_best(scores: ArrayLike, budget: int, quantile: float = 0.5) -> FloatArray:
    """Quantile of the best of B draws with replacement: the least x with F(x)^B ≥ quantile. Lourie et al. 2023."""
    ordered = np.sort(np.asarray(scores, float), axis=0)
    n = len(ordered)
    place = math.ceil(n * quantile ** (1 / budget) - 1e-9)
    return ordered[min(max(place, 1), n) - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunability:
    """Weighted means of a tuning curve: weight on small budgets (early), none (uniform), on large budgets (late)."""

    cpe: FloatArray
    cpu: FloatArray
    cpl: FloatArray


def tunability(curve: ArrayLike) -> Tunability:
    """Of the curve [K, ...] over budgets 1, …, K: weights K, …, 1 (CPE), equal (CPU), 1, …, K (CPL).

    Sivaprasad et al. 2020, arXiv 1910.11758.
    """
    curve = np.asarray(curve, float)
    up = np.arange(1.0, len(curve) + 1)
    cpe, cpu, cpl = (np.tensordot(w / w.sum(), curve, axes=1) for w in (up[::-1], np.ones_like(up), up))
    return Tunability(cpe=cpe, cpu=cpu, cpl=cpl)


def tunability_at_rate(curve: ArrayLike, kappa: float) -> FloatArray:
    """Σ_B exp(−κ B) curve(B) / Σ_B exp(−κ B): the larger κ, the more a small budget counts."""
    curve = np.asarray(curve, float)
    weights = np.exp(-kappa * np.arange(len(curve)))
    return np.tensordot(weights / weights.sum(), curve, axes=1)
