"""The paired bootstrap over queries: known answers, scipy as the outside check, items drawn whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.statistics.bootstrap import bootstrap_means


def test_differences_that_are_all_equal_leave_no_doubt():
    d = np.full(40, 2.5)
    assert bootstrap_means([d, d], [np.arange(40)] * 2) == pytest.approx((2.5, 2.5, 2.5))


def test_it_agrees_with_scipys_percentile_interval():
    """Within a tenth of its width: 4,000 resamples place a 2.5 % quantile that well."""
    d = np.random.default_rng(1).normal(1.0, 3.0, size=300)
    mean, low, high = bootstrap_means([d], [np.arange(300)])
    other = stats.bootstrap((d,), np.mean, method="percentile", rng=np.random.default_rng(2)).confidence_interval
    assert mean == pytest.approx(d.mean())
    assert (low, high) == pytest.approx((other.low, other.high), abs=0.1 * (other.high - other.low))


def test_directions_count_alike_however_many_queries_they_have():
    """A direction of 10 queries with 4 each, one of 50 with 1 each: (4 + 1) / 2."""
    mean, low, high = bootstrap_means([np.full(10, 4.0), np.full(50, 1.0)], [np.arange(10), np.arange(50) // 5])
    assert (mean, low, high) == pytest.approx((2.5, 2.5, 2.5))


def test_queries_of_one_item_are_drawn_together():
    """Ten items of 50 equal queries each are ten values, not 500: the interval is about √50 as wide."""
    per_item = np.random.default_rng(3).normal(size=10)
    d = np.repeat(per_item, 50)
    _, low, high = bootstrap_means([d], [np.repeat(np.arange(10), 50)])
    _, narrow_low, narrow_high = bootstrap_means([d], [np.arange(500)])
    assert (high - low) / (narrow_high - narrow_low) == pytest.approx(np.sqrt(50), rel=0.1)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([-100.0, 0.0, 50.0, 100.0]), min_size=1, max_size=30), st.floats(-5, 5))
def test_the_interval_holds_the_mean_and_moves_with_it(values: list[float], shift: float):
    d, items = np.array(values), np.arange(len(values))
    mean, low, high = bootstrap_means([d], [items])
    assert low - 1e-9 <= mean <= high + 1e-9 and d.min() - 1e-9 <= low and high <= d.max() + 1e-9
    assert bootstrap_means([d + shift], [items]) == pytest.approx((mean + shift, low + shift, high + shift), abs=1e-9)
