"""Intervals for a success rate, and the array types of this package."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

CONFIDENCE = 0.95

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]


def clopper_pearson(
    successes: ArrayLike, n: ArrayLike, confidence: float = CONFIDENCE
) -> tuple[FloatArray, FloatArray]:
    """Exact interval of a rate from s successes in n trials; [0, 1] without trials. Arrays broadcast.

    low: P(S ≥ s | low) = α/2, high: P(S ≤ s | high) = α/2, both as beta quantiles. Clopper and Pearson 1934.
    """
    s, n = np.broadcast_arrays(np.asarray(successes, float), np.asarray(n, float))
    tail = (1 - confidence) / 2
    low = special.betaincinv(np.maximum(s, 1), n - np.minimum(s, n) + 1, tail)
    high = special.betaincinv(s + 1, np.maximum(n - s, 1), 1 - tail)
    return np.where(s > 0, low, 0.0), np.where(s < n, high, 1.0)


def wilson(successes: ArrayLike, n: ArrayLike, confidence: float = CONFIDENCE) -> tuple[FloatArray, FloatArray]:
    """Interval of a rate by inverting its score test; n ≥ 1. Wilson 1927."""
    s, n = np.broadcast_arrays(np.asarray(successes, float), np.asarray(n, float))
    z2 = special.ndtri((1 + confidence) / 2) ** 2
    centre = (s + z2 / 2) / (n + z2)
    half = np.sqrt(z2 * (s * (n - s) / n + z2 / 4)) / (n + z2)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def rate_bound(n: int, confidence: float = CONFIDENCE) -> float:
    """One-sided upper limit of the rate of an event not seen in n trials: 1 − (1 − confidence)^(1/n)."""
    return 1 - (1 - confidence) ** (1 / n)


def t_quantile(n: int, probability: float) -> float:
    """Quantile of Student's t with n − 1 degrees of freedom; infinite for n = 1."""
    return float(special.stdtrit(n - 1, probability)) if n > 1 else np.inf
