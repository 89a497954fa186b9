"""One change point: the known answer, the definition by brute force, exact orders, and the false-alarm rate."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.statistics.changes import change_point, segments, split_statistics

STEP = [1.0, 1.01, 0.99, 1.0, 1.02, 1.0, 1.2, 1.21, 1.19, 1.2, 1.22, 1.2]
LEVELS = st.lists(st.integers(0, 9), min_size=4, max_size=6).map(lambda x: [v / 4 for v in x])


def by_definition(x: np.ndarray) -> list[float]:
    """q̂ of the splits 2 … T − 2, pair by pair."""
    found = []
    for index in range(2, len(x) - 1):
        a, b = x[:index], x[index:]
        between = np.mean([abs(p - q) for p in a for q in b])
        within = [np.mean([abs(p - q) for p, q in itertools.combinations(side, 2)]) for side in (a, b)]
        found.append(len(a) * len(b) / len(x) * (2 * between - sum(within)))
    return found


def test_change_point_known_answer():
    # Otava 0.8.0: index 6, q̂ 1.128. Only orders that keep both halves together reach it: 2 of C(12, 6) = 924.
    found = change_point(STEP, resamples=20_000)
    assert found is not None
    assert (found.index, found.statistic) == (6, pytest.approx(1.128))
    assert found.p == pytest.approx(2 / 924, abs=0.001)


def test_segments_are_the_steps_of_asv():
    # asv 0.6.6 detect_steps: start, stop, median, minimum, mean |x − median|.
    found = [(s.start, s.stop, s.median, s.minimum, s.spread) for s in segments(STEP, 6)]
    assert found == [
        (0, 6, 1.0, 0.99, pytest.approx(0.006666666666666672)),
        (6, 12, 1.2, 1.19, pytest.approx(0.006666666666666672)),
    ]


@pytest.mark.parametrize("size", [4, 7, 30])
def test_statistics_of_all_splits_are_the_definitions(size: int):
    x = np.round(np.random.default_rng(size).normal(size=(size, 3)), 1)  # with ties
    found = split_statistics(x)
    for series in range(3):
        assert found[:, series] == pytest.approx(by_definition(x[:, series]))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(LEVELS)
def test_p_of_a_short_series_counts_all_orders(x: list[float]):
    found = change_point(x)
    assert found is not None
    largest = [max(by_definition(np.array(order))) for order in itertools.permutations(x)]
    assert found.p == pytest.approx(np.mean(np.array(largest) >= found.statistic - 1e-9))
    assert found.statistic == pytest.approx(max(by_definition(np.array(x))))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(-50, 50), min_size=4, max_size=20), st.integers(-1000, 1000), st.integers(1, 8))
def test_p_is_a_probability_and_level_and_unit_do_not_matter(x: list[int], level: int, unit: int):
    found, moved = (change_point(values, resamples=99) for values in (x, [level + unit * v for v in x]))
    assert found is not None and moved is not None
    assert 0 < found.p <= 1
    assert (moved.index, moved.p) == (found.index, found.p)
    assert moved.statistic == pytest.approx(unit * found.statistic, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_noise_alarms_at_most_at_the_nominal_rate(alpha: float):
    # 30 points, where Otava's own p alarms in .19 of the series at .01. 800 series: ± 3 standard errors.
    rng = np.random.default_rng(0)
    p = np.array([change_point(rng.normal(size=30), rng, resamples=199).p for _ in range(800)])
    assert np.mean(p <= alpha) <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / 800)


def test_a_step_of_two_standard_deviations_is_found():
    rng = np.random.default_rng(1)
    found = [change_point(np.append(rng.normal(size=20), rng.normal(2, 1, size=20)), resamples=199) for _ in range(50)]
    assert np.mean([f.p <= 0.01 for f in found]) > 0.9
    assert np.median([abs(f.index - 20) for f in found]) <= 1


def test_nothing_changes_in_a_constant_and_in_a_short_series():
    assert change_point([0.1] * 12).p == 1
    assert change_point([0.1, 0.2, 0.3]) is None


def test_the_same_series_has_the_same_p():
    x = np.random.default_rng(2).normal(size=40)
    assert change_point(x) == change_point(x)


@pytest.mark.parametrize("series", [[1.0, np.nan, 2.0, 3.0], [[1.0, 2.0], [3.0, 4.0]], [np.inf] * 5])
def test_what_is_no_series_is_refused(series):
    with pytest.raises(ValueError, match="no row of finite numbers"):
        change_point(series)


def test_a_thousand_points_are_quick():
    x = np.random.default_rng(3).normal(size=1000)
    start = time.perf_counter()
    change_point(x)
    assert time.perf_counter() - start < 5  # .7 s alone
