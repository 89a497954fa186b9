"""Paired t with its floor, Holm, equivalence, sign flips and win rates: known answers, other libraries, properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from bench.statistics.intervals import clopper_pearson, rate_bound, wilson
from bench.statistics.pairs import (
    default_margin,
    holm,
    paired_t,
    pairing,
    probability_of_improvement,
    probability_of_improvement_unpaired,
    sign_flip_p,
    smallest_sign_flip_p,
    tost,
)

A = [0.71, 0.74, 0.69, 0.73, 0.72]
B = [0.68, 0.70, 0.71, 0.67, 0.69]
SCORES = st.floats(0, 100).map(lambda x: round(x, 2))


def samples(n: int, k: int, seed: int = 0) -> np.ndarray:
    return 50 + np.random.default_rng(seed).normal(size=(n, k))


def test_paired_t_known_answer():
    found = paired_t(A, B)
    assert found.difference == pytest.approx(0.028)
    assert found.sd == pytest.approx(0.029495762407505212, rel=1e-9)
    assert found.effect_size == pytest.approx(0.9492889050691341, rel=1e-9)
    assert found.t == pytest.approx(2.122674522020928, rel=1e-9)
    assert found.p == pytest.approx(0.10103734677448319, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((-0.008623826280971272, 0.06462382628097123), rel=1e-9)


def test_floor_known_answer():
    # s = 0, g = 1/100: s = .01/√6 = .00408, t = .02 √3 / .00408
    found = paired_t([0.52, 0.62, 0.72], [0.50, 0.60, 0.70], grain=0.01)
    assert found.sd == pytest.approx(0.004082482904638631)
    assert found.t == pytest.approx(8.48528137423857)
    assert found.p == pytest.approx(0.013606076167856269)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_all_pairs_at_once_are_scipys(alternative: str):
    x = samples(5, 4)
    found = paired_t(x[:, :, None], x[:, None, :], alternative=alternative)
    for i, j in ((0, 1), (2, 0), (3, 2)):
        expected = stats.ttest_rel(x[:, i], x[:, j], alternative=alternative)
        assert found.t[i, j] == pytest.approx(expected.statistic)
        assert found.p[i, j] == pytest.approx(expected.pvalue)
        interval = stats.ttest_rel(x[:, i], x[:, j]).confidence_interval(0.95)
        assert (found.low[i, j], found.high[i, j]) == pytest.approx(tuple(interval))


def test_one_seed_tests_nothing():
    found = paired_t([3.0], [1.0])
    assert (found.difference, found.p, found.low, found.high) == (2.0, 1.0, -np.inf, np.inf)
    assert np.isnan(found.t)


def test_equal_scores_have_p_one():
    for value in (0.0, 0.1, 1e9):
        found = paired_t([value] * 3, [value] * 3)
        assert (found.p, found.t) == (1.0, 0.0)


def test_rounding_is_no_evidence_and_a_constant_difference_is():
    a = np.array([0.1 + 0.2] * 5)
    assert paired_t(a, [0.3] * 5).p > 0.9
    assert paired_t(np.arange(5) + 1.0, np.arange(5)).p < 1e-40
    assert np.isfinite(paired_t(np.arange(5) + 1.0, np.arange(5)).t)


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(float, st.tuples(st.integers(2, 7), st.just(2)), elements=SCORES), st.floats(0, 5), st.floats(0, 5))
def test_floor_never_lowers_p(x: np.ndarray, grain: float, more: float):
    p = [paired_t(x[:, 0], x[:, 1], grain=g).p for g in (0.0, grain, grain + more)]
    assert 0 <= p[0] <= p[1] <= p[2] <= 1


def test_holm_known_answer():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_never_lowers(p: list[float]):
    adjusted = holm(p)
    assert np.all(adjusted >= np.array(p)) and np.all(adjusted <= 1)
    assert np.all(np.diff(adjusted[np.argsort(p)]) >= 0)


@pytest.mark.parametrize("m", [1, 2, 7, 28])
def test_holm_is_statsmodels(m: int):
    p = np.round(np.random.default_rng(m).beta(0.3, 3, size=m), 2)  # rounded: some tie
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_works_on_the_last_axis():
    p = np.random.default_rng(0).uniform(0, 0.1, size=(3, 4))
    assert holm(p) == pytest.approx(np.array([holm(row) for row in p]))


def test_equivalence_known_answer():
    d = [0.002, -0.001, 0.003, 0, 0.001]
    found = tost(d, np.zeros(5), 0.005)
    assert found.p == pytest.approx(0.00240633916502211)
    assert (found.low, found.high) == pytest.approx((-0.0005074433190623224, 0.0025074433190623224))


@pytest.mark.parametrize("margin", [0.3, 0.8, 2.0])
def test_equivalence_is_statsmodels_and_the_interval(margin: float):
    x = samples(6, 2)
    found = tost(x[:, 0], x[:, 1], margin)
    assert found.p == pytest.approx(DescrStatsW(x[:, 0] - x[:, 1]).ttost_mean(-margin, margin)[0])
    assert (found.p < 0.05) == (-margin < found.low and found.high < margin)


def test_equivalence_needs_a_margin():
    with pytest.raises(ValueError, match="must be positive"):
        tost(A, B, 0.0)
    assert default_margin(0.5, 0.1) == 0.5
    assert default_margin(0.005, 0.01) == 0.02


def test_sign_flip_known_answer():
    assert sign_flip_p(np.subtract(A, B)) == 0.125


@pytest.mark.parametrize("n", range(1, 9))
def test_sign_flip_is_scipys(n: int):
    d = np.round(samples(n, 2, n) @ [1, -1], 1)  # rounded: some sums tie

    def statistic(first, second, axis):
        return np.mean(first - second, axis=axis)

    if n > 1:
        expected = stats.permutation_test(
            (d, np.zeros(n)), statistic, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
        )
        assert sign_flip_p(d) == pytest.approx(expected.pvalue)
    assert sign_flip_p(np.ones(n)) == smallest_sign_flip_p(n) == 2.0 ** (1 - n)


def test_sign_flip_of_many_seeds_is_resampled():
    d = np.random.default_rng(3).normal(0.4, 1, size=25)
    p = sign_flip_p(d, np.random.default_rng(0))
    assert p == sign_flip_p(d, np.random.default_rng(0))
    assert p == pytest.approx(paired_t(d, np.zeros(25)).p, abs=0.02)
    assert sign_flip_p(np.zeros(30)) == 1.0


def test_win_rates_known_answers():
    paired = probability_of_improvement(A, B)
    assert (paired.wins, paired.losses, paired.probability) == (4, 1, 0.8)
    assert (paired.low, paired.high) == pytest.approx((0.28358206388191054, 0.9949492366205319), rel=1e-9)
    assert probability_of_improvement_unpaired(A, B) == pytest.approx(0.88)


def test_win_rate_counts_ties_half_and_leaves_them_out_of_the_interval():
    found = probability_of_improvement([1, 2, 3, 4], [1, 2, 0, 9])
    assert (found.probability, found.wins, found.losses) == (0.5, 1, 1)
    assert (found.low, found.high) == pytest.approx(stats.binomtest(1, 2).proportion_ci(method="exact"))
    tied = probability_of_improvement([1, -np.inf], [1, -np.inf])
    assert (tied.probability, tied.low, tied.high) == (0.5, 0.0, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_unpaired_win_rate_is_mann_whitneys(a: list[int], b: list[int]):
    u = stats.mannwhitneyu(a, b, method="asymptotic").statistic if len(set(a + b)) > 1 else len(a) * len(b) / 2
    assert probability_of_improvement_unpaired(a, b) == pytest.approx(u / (len(a) * len(b)))


@pytest.mark.parametrize("n", [1, 3, 5, 10, 100])
def test_rate_intervals_are_scipys(n: int):
    s = np.arange(n + 1)
    for ours, method in ((clopper_pearson, "exact"), (wilson, "wilson")):
        low, high = ours(s, n)
        for i in s.tolist():
            expected = stats.binomtest(i, n).proportion_ci(method=method)
            assert (low[i], high[i]) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_rate_intervals_known_answers():
    def rounded(interval):
        return tuple(round(float(x), 4) for x in interval)

    assert rounded(clopper_pearson(5, 5)) == (0.4782, 1.0)
    assert rounded(clopper_pearson(9, 10)) == (0.555, 0.9975)
    assert rounded(clopper_pearson(3, 3)) == (0.2924, 1.0)
    assert rounded(wilson(5, 5)) == (0.5655, 1.0)
    assert rounded(wilson(9, 10)) == (0.5958, 0.9821)
    assert wilson(4, 5) == pytest.approx((0.3755346297625253, 0.9637758913675698))
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert rate_bound(5) == pytest.approx(0.4507, abs=1e-4)  # 1 − .05^(1/5)


def test_pairing_gain():
    # Common seed effect of variance 3, own noise of variance 1: ρ = 3/4, four times the seeds.
    rng = np.random.default_rng(0)
    x = rng.normal(0, np.sqrt(3), size=(20000, 1)) + rng.normal(size=(20000, 3))
    found = pairing(x)
    assert found.rho == pytest.approx(0.75, abs=0.01)
    assert found.gain == pytest.approx(4, rel=0.04)
    two = pairing(x[:9, :2])
    covariance = np.cov(x[:9, :2].T)
    assert two.rho == pytest.approx(covariance[0, 1] / covariance.diagonal().mean())


@pytest.mark.parametrize("x", [[[1.0, 2.0]], [[1.0], [2.0]], [[1.0, 2.0], [1.0, 2.0]]])
def test_pairing_gain_may_not_be_defined(x: list[list[float]]):
    assert pairing(x) is None
