"""How many seeds: the power of a paired t-test, the least effect it finds, the seeds an effect needs."""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, special

from bench.statistics.intervals import t_quantile

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 100_000
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
_PANELS = 150
_REACH = 10.0  # standard normal deviates beyond it weigh 1e-23


def t_power(effect: float, n: int, alpha: float = ALPHA) -> float:
    """Power of the two-sided paired t-test at level `alpha` for a true d_z = `effect`, n ≥ 2 seeds.

    P(|Z + δ| > c S), δ = effect √n, S² = χ²_{n−1}/(n − 1): the integral over Z of the distribution function of S at
    (δ − Z)/c, which stays exact where the non-central t of scipy returns NaN.
    """
    if n < 2:
        raise ValueError(f"{n} seeds have no t-test; 2 is the least")
    shift, critical = effect * math.sqrt(n), t_quantile(n, 1 - alpha / 2)
    return _upper_tail(shift, critical, n - 1) + _upper_tail(-shift, critical, n - 1)


def _upper_tail(shift: float, critical: float, df: int) -> float:
    """P(Z + shift > critical · S), by Gauss-Legendre panels."""
    end = min(shift, _REACH)
    if end <= -_REACH:
        return 0.0
    half = (end + _REACH) / (2 * _PANELS)
    centres = -_REACH + half * (2 * np.arange(_PANELS) + 1)
    z = centres[:, None] + half * _NODES
    inside = special.gammainc(df / 2, df / 2 * ((shift - z) / critical) ** 2)
    return float(half * np.sum(_WEIGHTS * inside * np.exp(-(z**2) / 2)) / math.sqrt(2 * math.pi))


def minimal_effect(n: int, comparisons: int = 1, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """The least d_z, a difference in units of s_d, that n ≥ 2 seeds find with `power` at level alpha / comparisons.

    Holm's first step, hence the pessimistic figure for all but the largest difference.
    """
    level = alpha / comparisons
    if not level < power < 1:
        raise ValueError(f"power is {power}; it must lie between the level {level} and 1")
    high = 1.0
    while t_power(high, n, level) < power:
        high *= 2
    root = optimize.brentq(lambda effect: t_power(effect, n, level) - power, 0.0, high, xtol=1e-10)
    assert isinstance(root, float)  # a pair only with full_output
    return root


def seeds_needed(effect: float, comparisons: int = 1, *, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """The fewest seeds that find d_z = `effect` with `power`; None where 100,000 do not."""
    level, effect = alpha / comparisons, abs(effect)
    high = 2
    while t_power(effect, high, level) < power:
        if high >= MOST_SEEDS:
            return None
        high = min(2 * high, MOST_SEEDS)
    low = max(2, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if t_power(effect, middle, level) >= power else (middle + 1, high)
    return high


def noether_seeds(probability: float, alpha: float = ALPHA, power: float = 0.95) -> float:
    """Runs an optimizer for a one-sided Mann-Whitney test to find P(a > b) = `probability`, not paired.

    ((z_{1−α} + z_power) / (√6 (p − ½)))². Noether, JASA 82, 1987; Bouthillier et al. 2021 use p = .75.
    """
    z = special.ndtri(1 - alpha) + special.ndtri(power)
    return float(z**2 / (6 * (probability - 0.5) ** 2))
