"""Time to target, censoring and performance profiles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from statsmodels.duration.survfunc import SurvfuncRight

from bench.statistics.targets import (
    performance_profile,
    performance_ratios,
    profile_scores,
    target_times,
    time_to_target,
)

INF = np.inf


@pytest.mark.parametrize(
    ("scores", "target", "expected"),
    [
        ([0, 10, 20], 15, 150),  # half way between 100 and 200
        ([0, 10, 20], 10, 100),
        ([0, 10, 20], 0, 0),
        ([0, 10, 5], 8, 80),  # first crossing, though it falls again
        ([0, 10, 20], 21, INF),
        ([0, np.nan, 20], 15, 200),  # nothing to interpolate from
        ([np.nan, np.nan, np.nan], 1, INF),
    ],
)
def test_time_to_target(scores: list[float], target: float, expected: float):
    assert time_to_target([0, 100, 200], scores, target) == expected
    assert time_to_target([0, 100, 200], np.negative(scores), -target, lower_is_better=True) == expected


def test_time_to_target_needs_increasing_times():
    with pytest.raises(ValueError, match="increasing"):
        time_to_target([0, 2, 1], [0, 1, 2], 1)


def test_times_with_censored_runs():
    # 10, 20 reached, two at the budget 100: median (20 + ∞)/2, survival .75, .5 → 20, PAR2 (10 + 20 + 200 + 200)/4
    found = target_times([10, 20, INF, INF], 100)
    assert (found.n, found.reached, found.median, found.kaplan_meier_median, found.par2) == (4, 2, INF, 20, 107.5)


@pytest.mark.parametrize(("times", "median", "kaplan_meier", "par2"), [
    ([INF, INF, INF], INF, INF, 200),
    ([30], 30, 30, 30),
    ([INF], INF, INF, 200),
    ([10, INF, INF], INF, INF, 410 / 3),
])  # fmt: skip
def test_times_at_the_limits(times: list[float], median: float, kaplan_meier: float, par2: float):
    found = target_times(times, 100)
    assert (found.median, found.kaplan_meier_median, found.par2) == pytest.approx((median, kaplan_meier, par2))


def test_early_censoring_separates_kaplan_meier_from_the_plain_median():
    # Survival after 10: 3/4; the run stopped at 15 leaves the risk set; after 20: 3/4 · 1/2 = .375 ≤ ½.
    found = target_times([10, INF, 20, INF], [100, 15, 100, 100])
    assert found.kaplan_meier_median == 20
    assert found.median == INF


@pytest.mark.parametrize("seed", range(10))
def test_kaplan_meier_is_statsmodels(seed: int):
    rng = np.random.default_rng(seed)
    times, limits = rng.integers(1, 30, size=15).astype(float), rng.integers(1, 30, size=15).astype(float)
    reached = times <= limits
    curve = SurvfuncRight(np.minimum(times, limits), reached.astype(int))
    below = np.flatnonzero(curve.surv_prob <= 0.5 + 1e-12)
    expected = curve.surv_times[below[0]] if len(below) else INF
    assert target_times(np.where(reached, times, INF), limits).kaplan_meier_median == expected


@pytest.mark.parametrize(("times", "limit"), [([5.0], 4.0), ([np.nan], 4.0), ([], 4.0)])
def test_times_must_fit_the_budget(times: list[float], limit: float):
    with pytest.raises(ValueError, match="at most the limits"):
        target_times(times, limit)


def test_profile_by_hand():
    # Ratios: 1, 2, ∞ and 1.5, 1, 5. Area over [1, 4]: (3 + 2.5)/6, (2 + 3)/6, 0.
    times = np.array([[10, 20, INF], [30, 20, 100]])
    assert performance_ratios(times).tolist() == [[1, 2, INF], [1.5, 1, 5]]
    assert performance_profile(times, [1, 1.5, 4]).tolist() == [[0.5, 0.5, 0], [1, 0.5, 0], [1, 1, 0]]
    assert profile_scores(times).mean(axis=0) == pytest.approx([5.5 / 6, 5 / 6, 0])


def test_profile_of_a_workload_that_nobody_solved():
    assert profile_scores([[INF, INF]]).tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="positive"):
        performance_ratios([[0.0, 1.0]])


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(float, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.floats(1, 20) | st.just(INF)))
def test_profile_score_is_the_integral_of_the_profile(times: np.ndarray):
    at = np.linspace(1, 4, 3001)
    area = np.trapezoid(performance_profile(times, at), at, axis=0) / 3
    assert profile_scores(times).mean(axis=0) == pytest.approx(area, abs=1e-3)
