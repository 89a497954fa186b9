"""Summaries over runs and tasks: the numbers of rliable."""

import numpy as np
import pytest

from bench.statistics.aggregates import (
    interquartile_mean,
    mean_probability_of_improvement,
    median_of_tasks,
    optimality_gap,
    score_distribution,
)

A = np.array([[0.6, 0.2], [0.7, 0.3], [0.5, 0.3]])
B = np.array([[0.5, 0.3], [0.6, 0.3], [0.55, 0.1]])


def test_known_answers_of_rliable():
    assert mean_probability_of_improvement(A, B) == pytest.approx(0.6111111111111112)
    assert interquartile_mean(A) == pytest.approx(0.425)
    assert interquartile_mean(B) == pytest.approx(0.4125)
    assert median_of_tasks(A) == pytest.approx(0.43333333333333335)
    assert optimality_gap(A, 0.6) == pytest.approx(0.1833333333333333)
    assert score_distribution(A, [0.2, 0.3, 0.5]) == pytest.approx([5 / 6, 0.5, 2 / 6])


def test_interquartile_mean_of_three_is_the_mean():
    assert interquartile_mean([1.0, 2.0, 6.0]) == 3.0
