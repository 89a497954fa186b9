"""One optimizer's search on objectives with a known optimum."""

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.search.search import Sampler, Score, Search
from bench.search.space import Space
from bench.spec import SearchRange

SAMPLERS: tuple[Sampler, ...] = ("sobol", "grid", "tpe", "gp", "cmaes")
CHANCE = 0.2
Objective = Callable[[float], float | None]


def peak(at: float, cliff: float = math.inf) -> Objective:
    """A parabola over log10 of the rate; None, diverged, beyond the cliff."""
    return lambda rate: None if math.log10(rate) > cliff else 50 - 10 * (math.log10(rate) - at) ** 2


def new(sampler: Sampler = "sobol", budget: int = 8, names: tuple[str, ...] = ("lr",)) -> Search:
    """Of four decades around 1e-3."""
    ranges = {"lr": SearchRange(low=1e-5, high=1e-1), "weight_decay": SearchRange(low=1e-4, high=1.0)}
    return Search(space=Space({name: ranges[name] for name in names}), budget=budget, sampler=sampler, seed=3)


def carry_out(search: Search, objective: Objective, order: random.Random | None = None) -> Search:
    """Until it has ended; results come in the order of the trials, or in a random one."""
    waiting = search.ask()
    while waiting:
        trial = waiting.pop(order.randrange(len(waiting)) if order else 0)
        score = objective(trial.values["lr"])
        search.tell(trial, Score(validation=CHANCE if score is None else score, test=0.0,
                                        diverged=int(score is None)))  # fmt: skip
        waiting += search.ask()
    return search


def best_log(search: Search) -> float:
    assert search.best is not None
    return math.log10(search.best.values["lr"])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_budget_is_exact_and_the_optimum_is_found(sampler: Sampler):
    search = carry_out(new(sampler), peak(-3.0))
    assert search.finished and len(search.trials) == len(search.scores) == 8 and search.widenings == 0
    assert not search.unresolved and abs(best_log(search) + 3) < 0.5  # a point in every half decade
    assert [trial.number for trial in search.trials] == list(range(8))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_optimum_outside_the_range_is_found_by_widening(sampler: Sampler):
    """1.5 decades above the first range's end."""
    search = carry_out(new(sampler), peak(0.5))
    assert search.finished and search.widenings == 2 and abs(best_log(search) - 0.5) < 0.35
    extra = [trial for trial in search.trials if trial.stage == "widened"]
    assert len(extra) == 4 and all(0.1 <= trial.values["lr"] <= 10 for trial in extra)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("objective", [lambda rate: math.log10(rate), lambda rate: -math.log10(rate), lambda rate: 1.0])
def test_no_setting_is_tried_twice(sampler: Sampler, objective: Objective):
    """Where a Gaussian process has nothing to learn it would ask for the end of the range over and over."""
    search = carry_out(new(sampler), objective)
    rates = [trial.values["lr"] for trial in search.trials]
    assert search.finished and len(set(rates)) == len(rates) == 8 + search.extra_trials


def test_a_trial_that_failed_says_nothing_of_the_edge():
    """Above the best rate there are only trials that failed by no fault of their own: it may rise further."""
    search = new()
    for trial in search.ask():
        failed = trial.values["lr"] > 1e-3
        score = None if failed else math.log10(trial.values["lr"])
        search.tell(trial, Score(validation=score, test=None, diverged=0))
    assert search.edge == "high" and {trial.stage for trial in search.ask()} == {"widened"} and not search.finished


@pytest.mark.parametrize("side", [-1, 1])
def test_two_widenings_are_the_end_and_say_so(side: int):
    search = carry_out(new(), peak(-3 + 9 * side))
    assert search.finished and search.unresolved and search.widenings == 2 and len(search.trials) == 12


def test_all_optimizers_try_the_same_points_of_their_ranges():
    search, other = new(), new()
    other.space = Space({"lr": SearchRange(low=1e-4, high=1.0)})
    for ours, theirs in zip(search.ask(), other.ask(), strict=True):
        assert theirs.values["lr"] == pytest.approx(10 * ours.values["lr"], rel=1e-12)


def test_a_larger_budget_tries_the_smaller_one_first():
    small, large = new(budget=8).ask(), new(budget=16).ask()
    assert [trial.values for trial in large[:8]] == [trial.values for trial in small]


def test_diverged_trials_are_never_the_best_and_break_nothing():
    search = carry_out(new(), peak(-1.0, cliff=-2.5))
    assert search.best is not None and best_log(search) < -2.5
    nothing = carry_out(new(), peak(-1.0, cliff=-9.0))
    assert nothing.finished and nothing.best is None and not nothing.unresolved and len(nothing.trials) == 8


def test_a_diverged_trial_is_not_the_best_even_where_it_scores_most():
    search = new(budget=2)
    for trial, (score, diverged) in zip(search.ask(), ((99.0, 1), (5.0, 0)), strict=True):
        search.tell(trial, Score(validation=score, test=0.0, diverged=diverged))
    assert search.best is not None and search.best.number == 1


def test_a_trial_that_failed_counts_to_the_budget_and_has_no_score():
    search = new(budget=4)
    for trial in search.ask():
        failed = trial.number < 2
        search.tell(trial, Score(validation=None if failed else 10.0, test=None, diverged=0))
    assert search.best is not None and search.best.number == 2


def test_lower_is_better():
    search = new()
    search = Search(space=search.space, budget=8, sampler="tpe", seed=3, lower_is_better=True)
    carry_out(search, lambda rate: (math.log10(rate) + 3) ** 2)
    assert abs(best_log(search) + 3) < 0.35


@pytest.mark.parametrize("sampler", ["sobol", "tpe", "cmaes"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), optimum=st.floats(-6, 0))
def test_the_order_of_results_changes_nothing(sampler: Sampler, seed: int, optimum: float):
    first = carry_out(new(sampler), peak(optimum))
    second = carry_out(new(sampler), peak(optimum), random.Random(seed))
    assert first.trials == second.trials and first.best == second.best and first.scores == second.scores


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_several_settings_are_searched_together(sampler: Sampler):
    search = carry_out(new(sampler, 9, ("lr", "weight_decay")), peak(-3.0))
    assert search.finished and all(trial.values.keys() == {"lr", "weight_decay"} for trial in search.trials)
    assert len({tuple(trial.values.values()) for trial in search.trials}) >= 9


def test_a_first_rung_promotes_the_better_half_to_the_full_schedule():
    """The rung's scores are those of other rates; the full schedule decides."""
    search = new(budget=8)
    search.rung = True
    short = search.ask()
    assert [trial.stage for trial in short] == ["rung"] * 8 and search.ask() == []
    for trial in reversed(short):
        z = math.log10(trial.values["lr"])
        search.tell(trial, Score(validation=30 - (z + 3.4) ** 2, test=0.0, diverged=int(z > -1.5)))
    full = search.ask()
    nearest = sorted(short, key=lambda trial: abs(math.log10(trial.values["lr"]) + 3.4))[:4]
    assert {trial.values["lr"] for trial in full} == {trial.values["lr"] for trial in nearest}
    assert [trial.stage for trial in full] == ["shared"] * 4 and not search.finished
    for trial in full:
        search.tell(trial, Score(validation=-abs(math.log10(trial.values["lr"]) + 3.0), test=0.0, diverged=0))
    assert search.ask() == [] and search.finished
    assert search.best == min(full, key=lambda trial: abs(math.log10(trial.values["lr"]) + 3.0))


def test_trials_that_failed_on_the_rung_are_promoted_last():
    search = new(budget=4)
    search.rung = True
    for trial, (score, diverged) in zip(search.ask(), ((50.0, 1), (None, 0), (1.0, 0), (2.0, 0)), strict=True):
        search.tell(trial, Score(validation=score, test=None, diverged=diverged))
    assert len(search.ask()) == 2 and [t.values for t in search.trials] == [t.values for t in search.rung_trials[2:]]
