"""Stopping optimizers early: which may be dropped after n seeds without losing the best one.

Three limits, the strongest first: group-sequential t (looks fixed in advance), t e-values (any time; normal
differences) and sign e-values (any time; even chances alone).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from bench.statistics.intervals import BoolArray, FloatArray, t_quantile
from bench.statistics.pairs import paired_t

LOOKS = (3, 5, 7, 10)
TAU2 = 9.0  # prior variance of the standardized difference
_LARGEST_LOG = 700.0  # exp of it is still a float64


def racing_limit(n: int, optimizers: int, looks: Sequence[int] = LOOKS, alpha: float = 0.05) -> float:
    """Critical one-sided t of the look after n seeds: the 1 − α / (|looks| (k − 1)) quantile of t_{n−1}.

    By the union bound over looks and rivals, P(the true best is ever dropped) ≤ α for normal differences, any k, ties
    included.
    """
    if n not in looks:
        raise ValueError(f"{n} seeds is not a look; the looks fixed in advance are {list(looks)}")
    return t_quantile(n, 1 - alpha / (len(looks) * max(optimizers - 1, 1)))


def dropped_at_look(
    scores: ArrayLike, alive: ArrayLike, *, looks: Sequence[int] = LOOKS, alpha: float = 0.05, grain: float = 0.0
) -> BoolArray:
    """Which living entries fall at the look after the n seeds of x [n, k], higher better; k counts the dropped too.

    j falls if some living i has t_ij ≥ `racing_limit`. Columns of dropped entries are not read.
    """
    x = np.asarray(scores, float)
    n, k = x.shape
    limit = racing_limit(n, k, looks, alpha)
    return _dropped(x, np.asarray(alive, bool), grain, lambda t: t >= limit)


def dropped_by_e_value(
    scores: ArrayLike, alive: ArrayLike, *, alpha: float = 0.05, tau2: float = TAU2, grain: float = 0.0
) -> BoolArray:
    """The same after any number of seeds, however often one looks: j falls if t_ij > 0 and e_ij ≥ (k − 1)/α."""
    x = np.asarray(scores, float)
    n, k = x.shape
    needed = max(k - 1, 1) / alpha
    return _dropped(x, np.asarray(alive, bool), grain, lambda t: (t > 0) & (t_e_value(t, n, tau2) >= needed))


def _dropped(x: FloatArray, alive: BoolArray, grain: float, beats: Callable[[FloatArray], BoolArray]) -> BoolArray:
    """j is dropped where beats(t_ij) for some living i."""
    living = np.flatnonzero(alive)
    dropped = np.zeros(len(alive), bool)
    if len(x) < 2 or len(living) < 2:
        return dropped
    part = x[:, living]
    t = paired_t(part[:, :, None], part[:, None, :], grain=grain).t
    dropped[living] = beats(t).any(axis=0)
    return dropped


def t_e_value(t: ArrayLike, n: int, tau2: float = TAU2) -> FloatArray:
    """Bayes factor of a standardized difference ~ N(0, τ²) against 0 from the t of n pairs; capped at 1e304.

    e = a^(−1/2) [(1 + t²/(n−1)) / (1 + t²/((n−1) a))]^(n/2), a = 1 + n τ². Over n a test martingale, so that crossing
    1/α ever has probability ≤ α; not robust to strong skew. Gönen et al. 2005; Wang and Ramdas, arXiv 2310.03722.
    """
    t2 = np.asarray(t, float) ** 2
    if n < 2:
        return np.ones_like(t2)
    a = 1 + n * tau2
    log = n / 2 * (np.log1p(t2 / (n - 1)) - np.log1p(t2 / ((n - 1) * a))) - np.log(a) / 2
    return np.exp(np.minimum(log, _LARGEST_LOG))


def sign_e_value(wins: ArrayLike, losses: ArrayLike) -> FloatArray:
    """Evidence that wins are likelier than losses, w and l among non-tied seeds; valid at any time.

    2 · 2^n B(w+1, l+1) (1 − I_½(w+1, l+1)), n = w + l: the likelihood ratio to p = ½ averaged over p uniform in (½, 1).
    """
    w, losses = np.asarray(wins, float), np.asarray(losses, float)
    log = (w + losses + 1) * np.log(2) + special.betaln(w + 1, losses + 1)
    log += np.log(np.maximum(special.betaincc(w + 1, losses + 1, 0.5), np.finfo(float).tiny))
    return np.exp(np.minimum(log, _LARGEST_LOG))
