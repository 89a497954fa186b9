"""Numbers by size: how many lie in each of a few equally wide bins."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST_BINS = 15
TAIL = 0.995  # bins are laid over this share of the numbers; what lies far above is in the last, which is open
STEPS = (1, 2, 5)
ROUNDING = 1e-9  # what 0.3 / 0.1 lacks of 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The least, the middle and the largest of some numbers."""

    minimum: float
    median: float
    maximum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """`counts[i]` numbers lie in [start + i width, start + (i + 1) width); those of the last bin may be larger."""

    spread: Spread
    mean: float
    start: float
    width: float
    counts: tuple[int, ...]


def spread_of(values: Sequence[float]) -> Spread:
    """The spread of at least one number."""
    return Spread(minimum=min(values), median=float(np.median(values)), maximum=max(values))


def histogram_of(values: Sequence[float], *, finest: float) -> Histogram | None:
    """At most `MOST_BINS` bins of a round width, `finest` or more; None of no number."""
    if not values:
        return None
    numbers = np.asarray(values, dtype=np.float64)
    least, tail = float(numbers.min()), float(np.quantile(numbers, TAIL, method="higher"))
    widths = (finest * step * 10**power for power in itertools.count() for step in STEPS)
    width = next(each for each in widths if _bin(tail, each) - _bin(least, each) < MOST_BINS)
    first, last = _bin(least, width), _bin(tail, width)
    places = np.minimum(np.floor(numbers / width + ROUNDING).astype(np.int64), last) - first
    return Histogram(
        spread=spread_of(numbers.tolist()),
        mean=float(numbers.mean()),
        start=first * width,
        width=width,
        counts=tuple(np.bincount(places, minlength=last - first + 1).tolist()),
    )


def _bin(value: float, width: float) -> int:
    return math.floor(value / width + ROUNDING)
