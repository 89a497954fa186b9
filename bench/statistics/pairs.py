"""Two optimizers on the same seeds: paired t with a variance floor, Holm, equivalence, sign flips, win rates.

Shapes: axis 0 is the n seeds and further axes are kept, so that all pairs are one call; n = 1 tests nothing (p = 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from bench.statistics.intervals import CONFIDENCE, FloatArray, IntArray, clopper_pearson, t_quantile

# Differences of this share of the scores are rounding of float64 sums, never evidence.
ROUNDING = 2.0**-46
EXACT_SIGN_FLIPS = 20  # seeds up to which all 2^n sign flips are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedT:
    """Mean of a − b over n seeds, its standard deviation after the floor (ddof 1), test and interval; arrays [...]."""

    n: int
    difference: FloatArray
    sd: FloatArray
    t: FloatArray
    p: FloatArray
    low: FloatArray
    high: FloatArray

    @property
    def effect_size(self) -> FloatArray:
        """d_z = mean difference / its standard deviation."""
        return self.difference / self.sd


def paired_t(
    a: ArrayLike,
    b: ArrayLike,
    *,
    grain: float = 0.0,
    alternative: Literal["two-sided", "greater", "less"] = "two-sided",
    confidence: float = CONFIDENCE,
) -> PairedT:
    """t = mean(d) / (s / √n) of d = a − b, with s² = max(var(d), g²/6).

    `grain` g is the step of the scores, such as 1/N for a recall over N queries: g²/6 is the variance of the difference
    of two rounded numbers. Without it three equal differences would be certainty. The interval is two-sided always.
    """
    a, b = np.broadcast_arrays(np.asarray(a, float), np.asarray(b, float))
    d, n = a - b, len(a)
    mean = d.mean(axis=0)
    if n < 2:
        unknown, everywhere = np.full_like(mean, np.nan), np.full_like(mean, np.inf)
        p = np.ones_like(mean)
        return PairedT(n=n, difference=mean, sd=unknown, t=unknown, p=p, low=-everywhere, high=everywhere)
    rounding = ROUNDING * np.maximum(np.abs(a), np.abs(b)).max(axis=0)
    sd = np.maximum(d.std(axis=0, ddof=1), np.maximum(grain, rounding) / np.sqrt(6))
    error = sd / np.sqrt(n)
    t = np.divide(mean, error, out=np.zeros_like(mean), where=error > 0)
    half = t_quantile(n, (1 + confidence) / 2) * error
    p = t_test_p(t, n, alternative)
    return PairedT(n=n, difference=mean, sd=sd, t=t, p=p, low=mean - half, high=mean + half)


def t_test_p(t: ArrayLike, n: int, alternative: Literal["two-sided", "greater", "less"] = "two-sided") -> FloatArray:
    """P-value of t with n − 1 ≥ 1 degrees of freedom."""
    t = np.asarray(t, float)
    if alternative == "two-sided":
        return np.minimum(2 * special.stdtr(n - 1, -np.abs(t)), 1.0)
    return special.stdtr(n - 1, -t if alternative == "greater" else t)


def holm(p: ArrayLike) -> FloatArray:
    """Adjusted p-values over the last axis: the running maximum of (m − i + 1) p_(i), at most 1. Holm 1979."""
    p = np.asarray(p, float)
    order = np.argsort(p, axis=-1, kind="stable")
    steps = np.arange(p.shape[-1], 0, -1) * np.take_along_axis(p, order, axis=-1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(steps, axis=-1), 1.0), axis=-1)
    return adjusted


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivalence:
    """Two one-sided tests: `p` is the larger; p < α says the (1 − 2α) interval [low, high] lies inside ±margin."""

    margin: float
    p: FloatArray
    low: FloatArray
    high: FloatArray


def default_margin(half_a_point: float, grain: float = 0.0) -> float:
    """max(0.5 percentage points in the scores' unit, 2 g)."""
    return max(half_a_point, 2 * grain)


def tost(a: ArrayLike, b: ArrayLike, margin: float, *, grain: float = 0.0, alpha: float = 0.05) -> Equivalence:
    """Paired equivalence test of |mean(a − b)| < margin. Schuirmann 1987; the only ground for the word equivalent."""
    if not margin > 0:
        raise ValueError(f"margin is {margin}; the margin of an equivalence test must be positive")
    b = np.asarray(b, float)
    above = paired_t(a, b - margin, grain=grain, alternative="greater")
    below = paired_t(a, b + margin, grain=grain, alternative="less")
    interval = paired_t(a, b, grain=grain, confidence=1 - 2 * alpha)
    return Equivalence(margin=margin, p=np.maximum(above.p, below.p), low=interval.low, high=interval.high)


def sign_flip_p(differences: ArrayLike, rng: np.random.Generator | None = None, resamples: int = 9999) -> float:
    """Two-sided sign-flip test of d [n]: the share of the 2^n sign patterns with |Σ ±d| ≥ |Σ d|.

    Exact up to 20 seeds; beyond, (1 + hits) / (1 + resamples) by `rng`. Never below `smallest_sign_flip_p`.
    """
    d = np.asarray(differences, float)
    reached = abs(d.sum()) - 1e-12 * np.abs(d).sum()
    if len(d) <= EXACT_SIGN_FLIPS:
        sums = d[:1]  # the first sign stays: a pattern and its mirror have one |Σ|
        for value in d[1:]:
            sums = np.concatenate((sums + value, sums - value))
        return float(np.mean(np.abs(sums) >= reached))
    signs = (rng or np.random.default_rng(0)).choice((-1.0, 1.0), size=(resamples, len(d)))
    return float((1 + np.sum(np.abs(signs @ d) >= reached)) / (1 + resamples))


def smallest_sign_flip_p(n: int) -> float:
    """The least two-sided p that n seeds allow a sign-flip or a Wilcoxon test: 2^(1 − n)."""
    return 2.0 ** (1 - n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Improvement:
    """P(a beats b on a seed), ties counted half; [low, high] is the Clopper-Pearson interval of wins among non-ties."""

    probability: FloatArray
    low: FloatArray
    high: FloatArray
    wins: IntArray
    losses: IntArray


def probability_of_improvement(a: ArrayLike, b: ArrayLike, confidence: float = CONFIDENCE) -> Improvement:
    """mean(a > b) + mean(a = b) / 2 over the n seeds, higher better. Infinite scores are allowed, NaN is not."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    wins, losses = np.sum(a > b, axis=0), np.sum(a < b, axis=0)
    low, high = clopper_pearson(wins, wins + losses, confidence)
    probability = 0.5 + (wins - losses) / (2 * len(a))
    return Improvement(probability=probability, low=low, high=high, wins=wins, losses=losses)


def probability_of_improvement_unpaired(a: ArrayLike, b: ArrayLike) -> float:
    """U / (n m): P(a > b) + P(a = b) / 2 over all pairs of runs a [n], b [m]. Mann and Whitney 1947, as in rliable."""
    a, b = np.asarray(a, float), np.sort(np.asarray(b, float))
    below = np.searchsorted(b, a, side="left") + np.searchsorted(b, a, side="right")
    return float(below.mean() / (2 * len(b)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """ρ: the correlation of two optimizers over seeds; gain 1/(1 − ρ): how many times the seeds pairing is worth."""

    rho: float
    gain: float


def pairing(scores: ArrayLike) -> Pairing | None:
    """Pooled over all pairs of x [n, k]: ρ = mean covariance / mean variance, as var(a − b) = 2 σ² (1 − ρ).

    None where it is not defined: one seed, one optimizer, or no variance.
    """
    x = np.asarray(scores, float)
    n, k = x.shape
    if n < 2 or k < 2:
        return None
    variance = x.var(axis=0, ddof=1).sum()
    if variance <= k * (ROUNDING * np.abs(x).max()) ** 2:
        return None
    rho = float((x.sum(axis=1).var(ddof=1) - variance) / ((k - 1) * variance))
    return Pairing(rho=rho, gain=1 / (1 - rho) if rho < 1 else np.inf)
