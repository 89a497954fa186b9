"""Simulated error rates of the whole procedure: k = 8 optimizers, 4000 seeded studies, Monte-Carlo error ±.004."""

from collections.abc import Callable

import numpy as np
import pytest

from bench.statistics.pairs import holm, paired_t

K, STUDIES = 8, 4000
FIRST, SECOND = np.triu_indices(K, 1)


def normal(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=size)


def unequal(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=size) * np.geomspace(0.2, 5, K)


def skewed(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    return rng.lognormal(0, 0.5, size=size)


def recall(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    return rng.binomial(50, 0.97, size=size) / 50


def rejections(x: np.ndarray, grain: float) -> tuple[np.ndarray, np.ndarray]:
    """Of scores [seeds, studies, K]: rejected pairs and differences, both [studies, pairs]."""
    test = paired_t(x[..., FIRST], x[..., SECOND], grain=grain)
    return holm(test.p) <= 0.05, test.difference


@pytest.mark.parametrize(
    ("draw", "n", "grain"),
    [(normal, 5, 0.0), (unequal, 5, 0.0), (skewed, 5, 0.0), (recall, 3, 1 / 50), (recall, 5, 1 / 50)],
)
def test_family_wise_error_of_equal_optimizers(draw: Callable, n: int, grain: float):
    rejected, _ = rejections(draw(np.random.default_rng(0), (n, STUDIES, K)), grain)
    assert rejected.any(axis=1).mean() <= 0.06


def test_without_the_floor_recalls_would_be_told_apart_too_often():
    rejected, _ = rejections(recall(np.random.default_rng(0), (3, STUDIES, K)), 0.0)
    assert rejected.any(axis=1).mean() > 0.06


@pytest.mark.parametrize("n", [3, 5, 10])
def test_rank_intervals_hold_all_true_ranks_at_once(n: int):
    x = np.random.default_rng(0).normal(size=(n, STUDIES, K)) - np.array([0, 0, 1, 1.5, 2, 3, 3.5, 5])
    rejected, difference = rejections(x, 0.0)
    better = np.zeros((STUDIES, K, K), bool)
    better[:, FIRST, SECOND] = rejected & (difference > 0)
    better[:, SECOND, FIRST] = rejected & (difference < 0)
    low, high = 1 + better.sum(axis=1), K - better.sum(axis=2)
    best, worst = np.array([1, 1, 3, 4, 5, 6, 7, 8]), np.array([2, 2, 3, 4, 5, 6, 7, 8])  # the first two are tied
    assert np.all((low <= worst) & (best <= high), axis=1).mean() >= 0.95
    assert (high - low).mean() < K - 1
