"""How much an optimizer's result depends on its learning rate: m(z), the mean score at z = log10 of the rate.

Between the G rates tried m, and max(m, chance), are linear; a diverged run scores chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bench.statistics.intervals import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What the curve over learning rates says; higher scores are better.

    best_rate, best: the arg-max m* and its score; peak_rate: vertex of the parabola through it and its neighbours, the
    arg-max where there is none. at_edge: the best rate is the least or the largest tried; extend the range, do not
    rank. plateau_decades: decades of the range with m ≥ m* − δ. sensitivity: mean over the range of m* − max(m, chance)
    (after Wortsman et al., arXiv 2309.14322). edge_rate: the largest rate without a diverged run, None if every one
    diverged; margin_decades: log10(edge_rate / best_rate). regret_at_default: m* − m(default), None if unknown.
    """

    best_rate: float
    best: float
    peak_rate: float
    at_edge: bool
    plateau_decades: float
    sensitivity: float
    edge_rate: float | None
    margin_decades: float | None
    regret_at_default: float | None


def sensitivity(
    rates: ArrayLike,
    scores: ArrayLike,
    *,
    diverged: ArrayLike | None = None,
    chance: float,
    delta: float,
    default: float | None = None,
    lower_is_better: bool = False,
) -> Sensitivity:
    """Of the mean scores [G] at distinct rates [G] > 0; `diverged` [G] counts each rate's diverged runs."""
    rates, m = np.asarray(rates, float), np.asarray(scores, float)
    failures = np.zeros(rates.shape) if diverged is None else np.asarray(diverged, float)
    if not rates.shape == m.shape == failures.shape or rates.ndim != 1 or not rates.size:
        raise ValueError(f"rates {rates.shape}, scores {m.shape} and diverged {failures.shape} must be one [G]")
    if not np.all(rates > 0) or len(np.unique(rates)) < len(rates) or not np.isfinite(m).all():
        raise ValueError("rates must be positive and distinct, scores finite (a diverged run scores chance)")
    order = np.argsort(rates)
    sign = -1.0 if lower_is_better else 1.0
    rates, m, failures, chance = rates[order], sign * m[order], failures[order], sign * chance
    z, i = np.log10(rates), int(np.argmax(m))
    stable = np.flatnonzero(failures == 0)
    edge = float(rates[stable[-1]]) if stable.size else None
    return Sensitivity(
        best_rate=float(rates[i]),
        best=float(sign * m[i]),
        peak_rate=10 ** _peak(z, m, i),
        at_edge=i in (0, len(m) - 1),
        plateau_decades=_length_above(z, m, m[i] - delta),
        sensitivity=_mean_over_range(z, m[i] - np.maximum(m, chance)),
        edge_rate=edge,
        margin_decades=None if edge is None else float(np.log10(edge / rates[i])),
        regret_at_default=_regret(z, m, default),
    )


def _peak(z: FloatArray, m: FloatArray, i: int) -> float:
    """Vertex of the parabola through (z, m) at i − 1, i, i + 1, in Newton's form; z_i at an edge or on a flat top."""
    if not 0 < i < len(z) - 1:
        return float(z[i])
    left, right = (m[i] - m[i - 1]) / (z[i] - z[i - 1]), (m[i + 1] - m[i]) / (z[i + 1] - z[i])
    curvature = (right - left) / (z[i + 1] - z[i - 1])
    return float((z[i - 1] + z[i]) / 2 - left / (2 * curvature)) if curvature < 0 else float(z[i])


def _regret(z: FloatArray, m: FloatArray, rate: float | None) -> float | None:
    if rate is None or not 10 ** z[0] * (1 - 1e-12) <= rate <= 10 ** z[-1] * (1 + 1e-12):
        return None
    return float(m.max() - np.interp(np.log10(rate), z, m))


def _length_above(z: FloatArray, m: FloatArray, level: float) -> float:
    """Length of {z: m(z) ≥ level} of the piecewise linear m."""
    high, low = np.maximum(m[:-1], m[1:]), np.minimum(m[:-1], m[1:])
    rise = high - low
    share = np.divide(high - level, rise, out=np.where(high >= level, 1.0, 0.0), where=rise > 0)
    return float(np.sum(np.diff(z) * np.clip(share, 0.0, 1.0)))


def _mean_over_range(z: FloatArray, values: FloatArray) -> float:
    return float(np.trapezoid(values, z) / (z[-1] - z[0])) if len(z) > 1 else float(values[0])
