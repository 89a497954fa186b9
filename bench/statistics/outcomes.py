"""Diverged runs in two parts: how often an optimizer succeeds, and what a failure scores. Never dropped, never NaN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bench.statistics.intervals import CONFIDENCE, BoolArray, FloatArray, clopper_pearson, rate_bound
from bench.statistics.ranks import in_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Complete blocks, one seed a row: arrays [n, k], turned so that higher is better.

    `scores` holds chance where a run failed; `standing` orders a block: scores in steps of the grain, −∞ where failed,
    so that failed runs share the last mid-rank. `kept` [rows given] marks the blocks that are complete.
    """

    scores: FloatArray
    standing: FloatArray
    failed: BoolArray
    kept: BoolArray


def blocks(
    scores: ArrayLike,
    diverged: ArrayLike | None = None,
    *,
    chance: float | None = None,
    lower_is_better: bool = False,
    grain: float = 0.0,
) -> Blocks:
    """Scores of x [seeds, k] with the diverged runs at chance.

    Without the mask `diverged`, every score that is not finite has diverged. With it, one that is not finite and not
    marked is missing (an infrastructure failure): its whole block is left out for all.
    """
    x = np.asarray(scores, float)
    if x.ndim != 2 or not x.size:
        raise ValueError(f"scores have shape {x.shape}; they must be [seeds, optimizers], one of each at least")
    failed = ~np.isfinite(x) if diverged is None else np.asarray(diverged, bool)
    if failed.shape != x.shape:
        raise ValueError(f"the mask of diverged runs has shape {failed.shape}, the scores {x.shape}")
    kept = np.asarray((np.isfinite(x) | failed).all(axis=1))
    if not kept.any():
        raise ValueError("every block misses a run; a comparison needs one seed that all optimizers have")
    x, failed = x[kept], failed[kept]
    if failed.any() and (chance is None or not np.isfinite(chance)):
        raise ValueError(f"{int(failed.sum())} runs diverged and chance is {chance}; they score chance, give it")
    sign = -1.0 if lower_is_better else 1.0
    complete = sign * np.where(failed, 0.0 if chance is None else chance, x)
    standing = np.where(failed, -np.inf, in_steps(complete, grain))
    return Blocks(scores=complete, standing=standing, failed=failed, kept=kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Success:
    """s of n runs; `ci95` is Clopper-Pearson's, `mean` over the successful runs, None without any.

    `failure_rate_below`, only where none failed, is the one-sided 95 % limit of the failure rate: 1 − .05^(1/n).
    """

    successes: int
    n: int
    rate: float
    ci95: tuple[float, float]
    mean: float | None
    failure_rate_below: float | None


def success(scores: ArrayLike, failed: ArrayLike) -> Success:
    """The two-part summary of one optimizer's n runs."""
    ok = np.asarray(scores, float)[~np.asarray(failed, bool)]
    n = np.size(failed)
    low, high = clopper_pearson(ok.size, n, CONFIDENCE)
    return Success(
        successes=ok.size,
        n=n,
        rate=ok.size / n,
        ci95=(float(low), float(high)),
        mean=float(ok.mean()) if ok.size else None,
        failure_rate_below=rate_bound(n) if ok.size == n else None,
    )


def display_order(mean: ArrayLike, success_rate: ArrayLike, names: Sequence[str]) -> list[int]:
    """By success rate, then by mean (higher better), then by name.

    A median or a majority of wins would hide divergence: 15 % of it passes unseen in most experiments of five seeds.
    """
    mean, rate = np.asarray(mean, float), np.asarray(success_rate, float)
    return sorted(range(len(names)), key=lambda i: (-rate[i], -mean[i], names[i]))
