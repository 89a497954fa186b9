"""Racing limits: the specification's numbers, the integral behind the closed form, and simulated error rates."""

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from bench.statistics.pairs import paired_t
from bench.statistics.racing import (
    LOOKS,
    dropped_at_look,
    dropped_by_e_value,
    racing_limit,
    sign_e_value,
    t_e_value,
)


def test_group_sequential_limits_of_eight():
    assert [round(racing_limit(n, 8), 1) for n in LOOKS] == [16.7, 6.1, 4.6, 3.9]


def test_a_look_must_be_planned():
    with pytest.raises(ValueError, match="not a look"):
        racing_limit(4, 8)


def test_e_value_limits_of_eight():
    found = [optimize.brentq(lambda t, n=n: float(t_e_value(t, n)) - 7 / 0.05, 1, 100) for n in (4, 5, 6, 7)]
    assert found == pytest.approx([20, 9.4, 7.5, 6.6], rel=0.01)


@pytest.mark.parametrize(("t", "n"), [(0.0, 3), (2.0, 5), (5.0, 8)])
def test_e_value_is_the_integrated_likelihood_ratio(t: float, n: int):
    def ratio(effect: float):
        return stats.nct.pdf(t, n - 1, effect * np.sqrt(n)) / stats.t.pdf(t, n - 1) * stats.norm.pdf(effect, 0, 3)

    expected, _ = integrate.quad(ratio, -12, 12, limit=200)
    assert t_e_value(t, n) == pytest.approx(expected, rel=1e-4)


def test_e_value_seldom_crosses_however_often_one_looks():
    # One-sided, n ≤ 30; the specification's simulation has .012.
    d = np.random.default_rng(0).normal(size=(30, 4000))
    crossed = np.zeros(4000, bool)
    for n in range(2, 31):
        t = paired_t(d[:n], np.zeros((n, 4000))).t
        crossed |= (t > 0) & (t_e_value(t, n) >= 20)
    assert crossed.mean() == pytest.approx(0.012, abs=0.006)


def test_e_value_limits():
    assert t_e_value(5.0, 1) == 1
    assert t_e_value(-3.0, 6) == t_e_value(3.0, 6)
    assert np.isfinite(t_e_value(1e30, 1000))


def test_sign_e_values_known_answers():
    assert sign_e_value([5, 6, 7], 0) == pytest.approx([10.5, 18.1, 31.9], abs=0.05)
    assert sign_e_value(0, 0) == pytest.approx(1)
    assert sign_e_value(0, 2000) >= 0


@pytest.mark.parametrize("n", [1, 2, 5])
def test_sign_e_value_has_mean_one_at_even_chances(n: int):
    w = np.arange(n + 1)
    assert np.sum(stats.binom.pmf(w, n, 0.5) * sign_e_value(w, n - w)) == pytest.approx(1)


def test_a_look_drops_the_clearly_worse_alone():
    x = 50 + 0.1 * np.random.default_rng(0).normal(size=(5, 4)) - np.array([0, 0.02, 9, 9])
    x[:, 3] = np.nan  # dropped before: not read
    alive = np.array([True, True, True, False])
    assert dropped_at_look(x, alive).tolist() == [False, False, True, False]
    assert dropped_by_e_value(x, alive).tolist() == [False, False, True, False]


def test_nothing_falls_without_rivals_or_with_one_seed():
    assert not dropped_at_look(np.ones((3, 1)), [True]).any()
    assert not dropped_at_look(np.arange(6.0).reshape(3, 2), [True, False]).any()
    assert not dropped_by_e_value(np.array([[1.0, 9.0]]), [True, True]).any()
    assert not dropped_at_look(np.ones((3, 2)), [True, True]).any()


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_the_best_is_dropped_in_at_most_alpha_of_races(spread: float):
    rng, best_dropped, runs, races = np.random.default_rng(0), 0, 0, 1000
    for _ in range(races):
        x, alive = rng.normal(size=(10, 8)) - spread * np.arange(8), np.ones(8, bool)
        for before, n in zip((0, *LOOKS), LOOKS, strict=False):
            runs += (n - before) * int(alive.sum())
            alive &= ~dropped_at_look(x[:n], alive)
        best_dropped += not alive[0]
    assert best_dropped / races <= 0.05
    if spread:
        assert runs / races < 70  # of 80
