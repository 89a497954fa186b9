"""The statistics of the gates, on scores of the same seeds from two versions of the code.

Scores are turned so that higher is better, and a run that failed by its optimizer scores chance. Shapes: n seeds, k
optimizers. `grain` is the step of the scores: it bounds every variance from below (see `pairs.paired_t`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

from bench.statistics.intervals import BoolArray, FloatArray
from bench.statistics.pairs import PairedT, holm, paired_t
from bench.statistics.power import minimal_effect

ALPHA = 0.01  # false alarms a check, over all gates
LEVEL_SHARE, ORDER_SHARE, REST_SHARE = 0.4, 0.4, 0.2  # of alpha; health and time have the rest
SUSPICION = 0.05  # a p-value below it, above its gate's threshold, is inconclusive
RESOLVED = 0.05  # family-wise error of the baseline's order
LEAST_SEEDS = 2  # a paired test needs a variance


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Both sides [n, k]; NaN where a side has no result of its optimizer's doing. `*_failed` marks runs at chance."""

    names: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: FloatArray
    candidate: FloatArray
    baseline_failed: BoolArray
    candidate_failed: BoolArray
    grain: float

    @property
    def shared(self) -> BoolArray:
        """[n, k]: where both sides have a result."""
        return np.isfinite(self.baseline) & np.isfinite(self.candidate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """One paired test that something became worse: mean change (candidate − baseline) with its 95 % interval.

    `p` is one-sided, `p_holm` over the gate's family; `detectable` is the loss that these seeds find with power .8.
    """

    n: int
    baseline: float
    candidate: float
    change: float
    low: float
    high: float
    p: float
    p_holm: float
    detectable: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairShift:
    """The lead of `better` over `worse`, columns that the baseline tells apart."""

    better: int
    worse: int
    shift: Shift


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Runs that failed on one side alone; `p`: as many new failures or more among them, were each side as likely."""

    new: int
    cured: int
    p: float

    @staticmethod
    def least_alarm(alpha: float) -> int:
        """The fewest changed runs, all for the worse, with which the test reaches `alpha`."""
        return math.ceil(-math.log2(alpha) - 1e-9)


def level(sides: Sides, *, margin: float, alpha: float) -> list[Shift]:
    """Per optimizer: has the mean fallen by more than `margin`? One-sided paired t, Holm over the k optimizers."""
    shared = sides.shared
    columns = [(sides.baseline[shared[:, j], j], sides.candidate[shared[:, j], j]) for j in range(len(sides.names))]
    return shifts(columns, margin=margin, grain=sides.grain, alpha=alpha)


def shifts(
    columns: Sequence[tuple[FloatArray, FloatArray]], *, margin: float, grain: float, alpha: float
) -> list[Shift]:
    """One-sided paired t of baseline − candidate > margin for every (baseline [n], candidate [n]), Holm over all."""
    tests = [_worse(before, after, margin, grain) for before, after in columns]
    p_holm = holm([p for _, p in tests]) if tests else []
    return [
        Shift(
            n=len(before),
            baseline=_mean(before),
            candidate=_mean(after),
            change=_mean(after - before),
            low=-math.inf if found is None else float(found.low),
            high=math.inf if found is None else float(found.high),
            p=p,
            p_holm=float(adjusted),
            detectable=None if found is None else margin + _detectable(len(before), alpha / len(columns), found),
        )
        for (before, after), (found, p), adjusted in zip(columns, tests, p_holm, strict=True)
    ]


def _worse(before: FloatArray, after: FloatArray, margin: float, grain: float) -> tuple[PairedT | None, float]:
    """The interval of after − before, and the p-value of before − after > margin; none and 1 with too few seeds."""
    if len(before) < LEAST_SEEDS:
        return None, 1.0
    one_sided = paired_t(before - margin, after, grain=grain, alternative="greater")
    return paired_t(after, before, grain=grain), float(one_sided.p)


def _mean(values: FloatArray) -> float:
    return math.fsum(values) / len(values) if len(values) else math.nan


def _detectable(n: int, level: float, found: PairedT) -> float:
    return _effect(n, level) * float(found.sd)


@lru_cache(maxsize=256)
def _effect(n: int, level: float) -> float:
    """The least d_z that a one-sided test at `level` finds with power .8: the two-sided one at twice the level."""
    return minimal_effect(n, 1, alpha=min(2 * level, 0.5))


def resolved_pairs(scores: FloatArray, grain: float) -> list[tuple[int, int]]:
    """Pairs (better, worse) of columns of x [n, k] that paired t with Holm tells apart at FWER .05.

    Each pair on the rows that both have: one column without scores hides no order of the others.
    """
    tests = []
    for i, j in itertools.combinations(range(scores.shape[1]), 2):
        both = scores[np.isfinite(scores[:, [i, j]]).all(axis=1)]
        if len(both) >= LEAST_SEEDS:
            tests.append((i, j, paired_t(both[:, i], both[:, j], grain=grain)))
    adjusted = holm([float(test.p) for _, _, test in tests])
    return [
        (i, j) if test.difference > 0 else (j, i)
        for (i, j, test), p in zip(tests, adjusted, strict=True) if p <= RESOLVED
    ]  # fmt: skip


def order(sides: Sides, pairs: Sequence[tuple[int, int]], *, alpha: float) -> list[PairShift]:
    """Per resolved pair: has the lead B_i − B_j shrunk? Holm over the pairs.

    An alarm needs a lead that is gone, mean(C_i − C_j) ≤ 0, as well. A pair that the baseline does not resolve is not
    looked at: its order changes by chance.
    """
    shared = sides.shared
    leads = []
    for i, j in pairs:
        both = shared[:, i] & shared[:, j]
        b, c = sides.baseline[both], sides.candidate[both]
        leads.append((b[:, i] - b[:, j], c[:, i] - c[:, j]))
    # Four rounded numbers instead of two: twice the variance.
    found = shifts(leads, margin=0.0, grain=math.sqrt(2) * sides.grain, alpha=alpha)
    return [PairShift(better=i, worse=j, shift=shift) for (i, j), shift in zip(pairs, found, strict=True)]


def health(sides: Sides) -> Health:
    """New failures against cured ones over all shared runs: the exact one-sided sign test of McNemar.

    Over all optimizers at once: one optimizer's five seeds could not reach any threshold of a check.
    """
    shared = sides.shared
    new = int((shared & sides.candidate_failed & ~sides.baseline_failed).sum())
    cured = int((shared & sides.baseline_failed & ~sides.candidate_failed).sum())
    return Health(new=new, cured=cured, p=float(special.bdtrc(new - 1, new + cured, 0.5)) if new else 1.0)
