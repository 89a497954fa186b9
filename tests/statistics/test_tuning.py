"""Tuning curves, tunability and learning-rate sensitivity: known answers, opda, enumeration."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opda.nonparametric import EmpiricalDistribution

from bench.statistics.sensitivity import sensitivity
from bench.statistics.tuning import (
    best_of_weights,
    best_validated,
    expected_best,
    quantile_of_best,
    sd_of_best,
    tunability,
    tunability_at_rate,
)

VALIDATION = [0.1, 0.5, 0.4, 0.45, 0.3, 0.0]
TEST = [0.12, 0.46, 0.44, 0.47, 0.28, 0.02]
BUDGETS = range(1, 7)
U = [0.29166666666666663, 0.41333333333333333, 0.46, 0.48, 0.4916666666666667, 0.5]
V = [0.29166666666666663, 0.39305555555555555, 0.4358796296296297, 0.4572145061728395, 0.469360853909465,
     0.47702653463648836]  # fmt: skip


def test_expected_validation_performance_known_answers():
    assert [expected_best(VALIDATION, b) for b in BUDGETS] == pytest.approx(U)
    assert [expected_best(VALIDATION, b, with_replacement=True) for b in BUDGETS] == pytest.approx(V)
    assert [quantile_of_best(VALIDATION, b) for b in BUDGETS] == [0.3, 0.45, 0.45, 0.5, 0.5, 0.5]
    deviations = [0.18352262954621032, 0.1302523073893392, 0.09038069869258104]
    assert [sd_of_best(VALIDATION, b) for b in (1, 2, 3)] == pytest.approx(deviations)


def test_test_score_of_best_validated_known_answers():
    unbiased = [best_validated(VALIDATION, TEST, b) for b in (1, 2, 3, 6)]
    assert unbiased == pytest.approx([0.29833333333333334, 0.412, 0.451, 0.46])
    replaced = [best_validated(VALIDATION, TEST, b, with_replacement=True) for b in (1, 2, 3, 6)]
    assert replaced == pytest.approx(
        [0.29833333333333334, 0.39305555555555555, 0.4305092592592593, 0.45799361282578877]
    )


def test_tunability_known_answers():
    found = tunability(U)
    assert (found.cpe, found.cpu, found.cpl) == pytest.approx(
        (0.4085714285714286, 0.43944444444444447, 0.4703174603174603)
    )
    assert tunability_at_rate(U, 0.0) == pytest.approx(found.cpu)
    assert tunability_at_rate(U, 50.0) == pytest.approx(U[0])


@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_curves_are_those_of_opda(n: int):
    x = np.random.default_rng(n).normal(size=n)
    budgets = np.unique([1, 2, n // 2, n])
    budgets = budgets[(budgets > 0) & (budgets <= n)]
    ys = EmpiricalDistribution(x)
    for lower in (False, True):
        ours = [expected_best(x, int(b), lower_is_better=lower) for b in budgets]
        assert ours == pytest.approx(ys.u_tuning_curve(budgets, minimize=lower))
        ours = [expected_best(x, int(b), with_replacement=True, lower_is_better=lower) for b in budgets]
        assert ours == pytest.approx(ys.v_tuning_curve(budgets, minimize=lower))
    assert [quantile_of_best(x, int(b)) for b in budgets] == pytest.approx(ys.quantile_tuning_curve(budgets))


def mean_over_draws(validation: list[int], test: list[float], draws) -> float:
    """Mean test score of the best validated of each draw; settings of equal validation are averaged."""

    def chosen(draw: tuple[int, ...]) -> float:
        best = max(validation[i] for i in draw)
        return float(np.mean([test[i] for i in draw if validation[i] == best]))

    return float(np.mean([chosen(draw) for draw in draws]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=5), st.data())
def test_best_validated_is_the_mean_over_all_draws(validation: list[int], data: st.DataObject):
    n = len(validation)
    test = data.draw(st.lists(st.floats(0, 1), min_size=n, max_size=n))
    budget = data.draw(st.integers(1, n))
    expected = mean_over_draws(validation, test, list(itertools.combinations(range(n), budget)))
    assert best_validated(validation, test, budget) == pytest.approx(expected)
    if budget <= 3 and len(set(validation)) == n:
        expected = mean_over_draws(validation, test, list(itertools.product(range(n), repeat=budget)))
        assert best_validated(validation, test, budget, with_replacement=True) == pytest.approx(expected)


@pytest.mark.parametrize("with_replacement", [False, True])
def test_weights_are_a_distribution(with_replacement: bool):
    for n, budget in itertools.product((1, 5, 40), (1, 3, 40)):
        if budget <= n or with_replacement:
            weights = best_of_weights(n, budget, with_replacement=with_replacement)
            assert weights.sum() == pytest.approx(1)
            assert np.all(np.diff(weights) <= 1e-15)


def test_seeds_are_kept_as_an_axis():
    rng = np.random.default_rng(0)
    validation, test = rng.normal(size=(2, 9, 5))
    columns = [best_validated(validation[:, s], test[:, s], 4) for s in range(5)]
    assert best_validated(validation, test, 4) == pytest.approx(columns)


def test_a_failed_setting_never_wins():
    assert best_validated([-np.inf, 0.2, 0.1], [0.0, 0.5, 0.3], 3) == 0.5


@pytest.mark.parametrize("budget", [0, 7])
def test_budget_must_be_possible(budget: int):
    with pytest.raises(ValueError, match="a budget of"):
        expected_best(VALIDATION, budget)


def test_tuning_refuses_gaps():
    with pytest.raises(ValueError, match="without NaN"):
        expected_best([0.1, np.nan], 1)


RATES = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
CURVE = [20.0, 40.0, 50.0, 40.0, 1.0]


def test_sensitivity_by_hand():
    found = sensitivity(RATES, CURVE, diverged=[0, 0, 0, 0, 2], chance=5, delta=5, default=10**-2.5)
    assert (found.best_rate, found.best, found.at_edge) == (0.01, 50, False)
    assert found.peak_rate == pytest.approx(0.01)  # symmetric neighbours
    assert found.plateau_decades == pytest.approx(1.0)  # half a decade on either side
    # m* − max(m, chance): 30, 10, 0, 10, 45; trapezoids 20 + 5 + 5 + 27.5 over 4 decades
    assert found.sensitivity == pytest.approx(57.5 / 4)
    assert (found.edge_rate, found.margin_decades) == (0.1, pytest.approx(1.0))
    assert found.regret_at_default == pytest.approx(5)


def test_sensitivity_does_not_depend_on_the_order_or_the_direction():
    order = [3, 0, 4, 2, 1]
    shuffled = sensitivity(np.array(RATES)[order], np.array(CURVE)[order], chance=1, delta=5, default=1.0)
    assert shuffled == sensitivity(RATES, CURVE, chance=1, delta=5, default=1.0)
    turned = sensitivity(RATES, np.negative(CURVE), chance=-1, delta=5, default=1.0, lower_is_better=True)
    assert turned.best == -50
    assert turned.sensitivity == shuffled.sensitivity
    assert turned.regret_at_default == shuffled.regret_at_default == 49


@pytest.mark.parametrize("scores", [[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
def test_best_rate_at_the_edge_is_flagged(scores: list[float]):
    found = sensitivity([0.1, 1, 10], scores, chance=0, delta=0.5)
    assert found.at_edge
    assert found.peak_rate == pytest.approx(found.best_rate)


def test_parabola_between_rates():
    # −(z + 1.8)², peak between the rates 10^-2 and 10^-1
    z = np.array([-4, -3, -2, -1, 0.0])
    assert sensitivity(10**z, -((z + 1.8) ** 2), chance=-9, delta=1).peak_rate == pytest.approx(10**-1.8)


def test_sensitivity_of_one_rate_and_of_a_flat_curve():
    one = sensitivity([0.1], [5.0], diverged=[1], chance=1, delta=1, default=3.0)
    assert (one.sensitivity, one.plateau_decades, one.at_edge) == (0, 0, True)
    assert (one.edge_rate, one.margin_decades, one.regret_at_default) == (None, None, None)
    flat = sensitivity(RATES, [5.0] * 5, chance=1, delta=0)
    assert (flat.sensitivity, flat.plateau_decades) == (0, pytest.approx(4))


@pytest.mark.parametrize(
    ("rates", "scores"), [([1, 1], [1, 2]), ([0, 1], [1, 2]), ([1], [1, 2]), ([1, 2], [1, np.nan])]
)
def test_sensitivity_refuses_what_is_no_curve(rates: list[float], scores: list[float]):
    with pytest.raises(ValueError, match="must be"):
        sensitivity(rates, scores, chance=0, delta=1)
