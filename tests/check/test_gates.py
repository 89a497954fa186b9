"""The gates' statistics: worked by hand, error rates and power by simulation, and a whole check on resampled nulls."""

import math

import numpy as np
import pytest
from scipy import stats

from bench.check.check import check
from bench.check.gates import Health, Sides, health, level, order, resolved_pairs
from bench.check.result import Status

# R@1 in percent of the built-in protocol `mini`, seeds 0 to 4: adam, adamw, gda2, universal_anderson_gda, muon, sgd.
REAL = np.array([
    [47.300, 46.433, 45.233, 46.433, 26.233, 16.567],
    [45.100, 45.400, 45.350, 44.967, 28.400, 19.500],
    [45.700, 46.100, 47.033, 46.267, 30.167, 17.867],
    [43.500, 43.300, 42.767, 43.600, 25.100, 15.767],
    [46.433, 44.600, 45.767, 45.767, 27.833, 18.267],
])  # fmt: skip
NAMES = ("adam", "adamw", "gda2", "universal_anderson_gda", "muon", "sgd")
GRAIN = 100 / 3000
NULLS = 200


def sides(b, c, grain=0.0, b_failed=None, c_failed=None):
    b, c = np.asarray(b, float), np.asarray(c, float)
    no = np.zeros(b.shape, bool)
    names = tuple(f"o{j}" for j in range(b.shape[1]))
    return Sides(
        names=names, seeds=tuple(range(len(b))), baseline=b, candidate=c, grain=grain,
        baseline_failed=no if b_failed is None else b_failed, candidate_failed=no if c_failed is None else c_failed,
    )  # fmt: skip


def test_level_is_a_one_sided_paired_t_with_holm():
    b, c = np.array([[10.0], [12.0], [11.0]]), np.array([[9.0], [10.0], [8.0]])
    (found,) = level(sides(b, c), margin=0.0, alpha=0.004)
    # Losses 1, 2, 3: mean 2, sd 1, t = 2 √3.
    assert found.p == pytest.approx(stats.t.sf(2 * math.sqrt(3), 2))
    assert (found.baseline, found.candidate, found.change) == (11.0, 9.0, -2.0)
    assert found.high == pytest.approx(-2 + stats.t.ppf(0.975, 2) / math.sqrt(3))
    both = level(sides(np.hstack([b, b]), np.hstack([c, b])), margin=0.0, alpha=0.004)
    assert [shift.p_holm for shift in both] == [pytest.approx(2 * found.p), 0.5]  # equal: t = 0


def test_a_margin_is_a_loss_that_is_allowed():
    b, c = REAL[:, :1], REAL[:, :1] - 1.0 + 0.01 * np.arange(5)[:, None]
    assert level(sides(b, c), margin=0.0, alpha=0.004)[0].p_holm < 1e-6
    assert level(sides(b, c), margin=2.0, alpha=0.004)[0].p_holm > 0.99


def test_one_hit_more_or_less_in_every_seed_is_no_certainty():
    """Equal losses of one grain have no variance; the floor g²/6 keeps t finite: √5 · √6 = 5.5."""
    (found,) = level(sides(REAL[:, :1], REAL[:, :1] - GRAIN, GRAIN), margin=0.0, alpha=0.004)
    assert found.p == pytest.approx(stats.t.sf(math.sqrt(30), 4), rel=1e-6)


def test_missing_scores_leave_their_seed_out_for_that_optimizer_alone():
    c = REAL.copy()
    c[0, 0], c[1:, 1] = np.nan, np.nan
    found = level(sides(REAL, c), margin=0.0, alpha=0.004)
    assert [shift.n for shift in found] == [4, 1, 5, 5, 5, 5]
    assert (found[1].p, found[1].detectable) == (1.0, None)


def test_the_detectable_loss_is_found_four_times_in_five():
    n, k, alpha = 5, 4, 0.004
    b = np.zeros((n, k))
    c = b + np.array([1, -1, 1, -1, 0])[:, None]  # differences of standard deviation 1
    loss = level(sides(b, c), margin=0.0, alpha=alpha)[0].detectable
    assert loss is not None
    d = np.random.default_rng(0).normal(size=(4000, n)) - loss
    t = d.mean(axis=1) / (d.std(axis=1, ddof=1) / math.sqrt(n))
    assert np.mean(stats.t.cdf(t, n - 1) <= alpha / k) == pytest.approx(0.8, abs=0.03)


def test_a_swap_inside_an_unresolved_group_is_no_pair_at_all():
    resolved = resolved_pairs(REAL, GRAIN)
    group = range(4)
    assert not [pair for pair in resolved if set(pair) <= set(group)]
    assert {(i, j) for i in group for j in (4, 5)} | {(4, 5)} == set(resolved)
    swapped = REAL[:, [3, 2, 1, 0, 4, 5]]
    for pair in order(sides(REAL, swapped, GRAIN), resolved, alpha=0.004):
        assert pair.shift.candidate > 0


def test_a_turned_pair_is_found():
    fallen = REAL.copy()
    fallen[:, 0] -= 30
    shifts = {(p.better, p.worse): p.shift for p in order(sides(REAL, fallen, GRAIN), resolved_pairs(REAL, GRAIN),
                                                          alpha=0.004)}  # fmt: skip
    assert shifts[0, 4].candidate < 0 and shifts[0, 4].p_holm < 0.004
    assert shifts[0, 5].candidate < 0
    assert shifts[1, 4].p_holm == 1.0


def test_health_is_an_exact_sign_test():
    no = np.zeros(REAL.shape, bool)
    failed = no.copy()
    failed[:, 0] = True
    found = health(sides(REAL, REAL, c_failed=failed))
    assert (found.new, found.cured, found.p) == (5, 0, pytest.approx(1 / 32))
    both = failed.copy()
    both[0, 1] = True
    assert health(sides(REAL, REAL, b_failed=both & ~failed, c_failed=failed)).p == pytest.approx(7 / 64)
    assert health(sides(REAL, REAL)).p == 1.0
    assert [Health.least_alarm(alpha) for alpha in (0.5, 0.002, 0.001)] == [1, 9, 10]


def rates(draw, studies, alpha=0.01):
    """Share of `studies` with a level alarm, an order alarm, any alarm."""
    alarms = np.zeros(3)
    for _ in range(studies):
        b, c = draw()
        both = sides(b, c, GRAIN)
        fell = any(shift.p_holm <= 0.4 * alpha for shift in level(both, margin=0.0, alpha=0.4 * alpha))
        turned = any(p.shift.candidate <= 0 and p.shift.p_holm <= 0.4 * alpha
                     for p in order(both, resolved_pairs(b, GRAIN), alpha=0.4 * alpha))  # fmt: skip
        alarms += fell, turned, fell or turned
    return alarms / studies


def studies(rng, *, loss=0.0, noise=None):
    """Eight optimizers a point apart, sd 1 point, the first losing `loss`; the same seeds where `noise` is given."""
    means = 40.0 - np.arange(8)

    def draw():
        b = means + rng.normal(size=(5, 1)) + rng.normal(size=(5, 8))
        fresh = means + rng.normal(size=(5, 1)) + rng.normal(size=(5, 8))
        c = fresh if noise is None else b + rng.normal(0, noise, b.shape)
        c[:, 0] -= loss
        return np.round(b / GRAIN) * GRAIN, np.round(c / GRAIN) * GRAIN

    return draw


def bound(probability, n):
    """A count that chance exceeds once in a thousand tests."""
    return stats.binom.ppf(0.999, n, probability)


@pytest.mark.parametrize("noise", [None, 0.2])
def test_unchanged_code_alarms_within_its_budget(noise):
    level_rate, order_rate, any_rate = rates(studies(np.random.default_rng(1), noise=noise), 1000)
    assert 1000 * level_rate <= bound(0.004, 1000)
    assert 1000 * order_rate <= bound(0.004, 1000)
    assert 1000 * any_rate <= bound(0.008, 1000)


def test_a_loss_of_two_standard_deviations_is_always_seen_on_the_same_seeds():
    level_rate, _, _ = rates(studies(np.random.default_rng(2), loss=2.0, noise=0.2), 200)
    assert level_rate >= 0.98


def test_the_same_seeds_are_worth_more_than_fresh_ones():
    fresh, _, _ = rates(studies(np.random.default_rng(3), loss=5.0), 200)
    same, turned, _ = rates(studies(np.random.default_rng(3), loss=5.0, noise=0.2), 200)
    assert fresh < 0.9 < same
    assert turned > 0.5


def same_seeds(rng):
    return REAL, REAL + rng.normal(0, 0.2, REAL.shape)


def fresh_seeds(rng):
    """Two draws of five blocks from the real ones, smoothed: optimizers keep their means and correlations."""
    means, spread = REAL.mean(axis=0), REAL - REAL.mean(axis=0)

    def draw():
        weights = rng.normal(size=(5, 5)) / 2  # covariance of the blocks, ddof 1
        return means + weights @ spread + rng.normal(0, 0.5, REAL.shape)

    return draw(), draw()


@pytest.mark.parametrize("null", [same_seeds, fresh_seeds])
def test_whole_checks_of_unchanged_optimizers_alarm_once_in_a_hundred(hand, null):
    rng = np.random.default_rng(4)

    def snap(scores):
        rounded = np.round(scores / GRAIN) * GRAIN
        return hand.snapshot({name: dict(enumerate(rounded[:, j])) for j, name in enumerate(NAMES)}, place=hand.gpu)

    verdicts = [check(*map(snap, null(rng))).verdict for _ in range(NULLS)]
    assert verdicts.count(Status.FAIL) <= bound(0.01, NULLS)
