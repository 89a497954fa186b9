"""Power and seeds: the table of the specification, statsmodels, and simulation."""

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from bench.statistics.pairs import paired_t
from bench.statistics.power import minimal_effect, noether_seeds, seeds_needed, t_power

SEEDS = (3, 4, 5, 6, 7, 8, 10, 15, 20)


@pytest.mark.parametrize(
    ("comparisons", "expected"),
    [
        (1, (3.264, 2.128, 1.682, 1.435, 1.273, 1.156, 0.996, 0.778, 0.660)),
        (7, (8.663, 4.170, 2.874, 2.274, 1.926, 1.696, 1.405, 1.050, 0.874)),
        (28, (17.331, 6.652, 4.117, 3.066, 2.501, 2.146, 1.723, 1.242, 1.019)),
    ],
)
def test_minimal_effects_table(comparisons: int, expected: tuple[float, ...]):
    assert [round(minimal_effect(n, comparisons), 3) for n in SEEDS] == list(expected)


@pytest.mark.parametrize(
    ("n", "effect", "alpha"), [(2, 5.0, 0.05), (5, 1.7, 0.05), (50, 0.4, 0.002), (10000, 0.03, 0.05)]
)
def test_power_is_statsmodels(n: int, effect: float, alpha: float):
    expected = TTestPower().power(effect, n, alpha)
    assert t_power(effect, n, alpha) == pytest.approx(expected, abs=1e-9)
    assert t_power(-effect, n, alpha) == pytest.approx(expected, abs=1e-9)


def test_power_of_no_effect_is_alpha_and_of_a_large_one_is_one():
    for n in (2, 3, 100):
        assert t_power(0, n, 0.01) == pytest.approx(0.01, abs=1e-12)
        assert t_power(1e6, n, 0.01) == pytest.approx(1, abs=1e-9)
    with pytest.raises(ValueError, match="no t-test"):
        t_power(1, 1)


def test_power_where_the_noncentral_t_of_scipy_fails():
    # n = 3, 28 pairs: simulated power at the table's effect is .8.
    effect = minimal_effect(3, 28)
    x = np.random.default_rng(0).normal(effect, 1, size=(3, 40000))
    assert np.mean(paired_t(x, np.zeros_like(x)).p <= 0.05 / 28) == pytest.approx(0.8, abs=0.006)


@pytest.mark.parametrize("effect", [0.1, 0.5, 1.0, 1.7, 30.0])
@pytest.mark.parametrize("comparisons", [1, 28])
def test_seeds_needed_is_the_fewest(effect: float, comparisons: int):
    n = seeds_needed(effect, comparisons)
    assert n is not None and t_power(effect, n, 0.05 / comparisons) >= 0.8
    assert n == 2 or t_power(effect, n - 1, 0.05 / comparisons) < 0.8
    assert seeds_needed(-effect, comparisons) == n


def test_seeds_needed_gives_up():
    assert seeds_needed(1e-4) is None
    assert seeds_needed(0.0) is None


def test_power_must_be_possible():
    with pytest.raises(ValueError, match="must lie between"):
        minimal_effect(5, power=0.01)


def test_noether_known_answer():
    assert noether_seeds(0.75) == pytest.approx(28.9, abs=0.05)
