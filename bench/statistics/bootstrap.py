"""The paired bootstrap: an interval of a mean difference over queries of one test set.

Seeds are few and have t-intervals (`bench.statistics.pairs`): with n ≤ 10 values a percentile bootstrap covers too
little. Queries are hundreds and more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.statistics.intervals import CONFIDENCE, FloatArray, IntArray

RESAMPLES = 4000
SEED = 0  # of the resamples: the same differences have the same interval
MOST_ELEMENTS = 1 << 22  # of the weights held at once


def bootstrap_means(
    differences: Sequence[FloatArray], groups: Sequence[IntArray], confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """The mean over parts (directions of retrieval) of the mean difference over a part's queries, and its interval.

    `differences` [Q] are of the queries of each part, `groups` the item that each query is of: items are what is drawn,
    with all their queries in all parts, since those depend on one another. The interval is the percentile one.
    """
    known, places = np.unique(np.concatenate(groups), return_inverse=True)
    parts = np.split(places, np.cumsum([len(group) for group in groups])[:-1])
    sums_GP = np.stack([np.bincount(place, d, len(known)) for place, d in zip(parts, differences, strict=True)], axis=1)
    counts_GP = np.stack([np.bincount(place, minlength=len(known)) for place in parts], axis=1)
    rng, means = np.random.default_rng(SEED), []
    at_once = max(1, MOST_ELEMENTS // len(known))
    for start in range(0, RESAMPLES, at_once):
        size = min(at_once, RESAMPLES - start)
        drawn_RG = rng.multinomial(len(known), np.full(len(known), 1 / len(known)), size=size).astype(float)
        means.append(((drawn_RG @ sums_GP) / np.maximum(drawn_RG @ counts_GP, 1)).mean(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float((sums_GP.sum(axis=0) / counts_GP.sum(axis=0)).mean()), float(low), float(high)
