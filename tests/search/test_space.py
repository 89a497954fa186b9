"""Ranges, and settings with searched values."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.registry import select
from bench.search.space import Space, grid_points, search_space, sobol_points, with_values
from bench.spec import SearchRange


def selected(name: str):
    (found,) = select([name], {}, "default")
    return found


def test_the_rate_has_four_decades_around_the_default():
    for name, rate in (("sgd", 1e-2), ("adamw", 1e-3)):
        found = search_space(selected(name), ("lr",)).ranges["lr"]
        assert (found.low, found.high, found.log) == (pytest.approx(rate / 100), pytest.approx(rate * 100), True)


def test_settings_that_many_optimizers_have():
    space = search_space(selected("adamw"), ("lr", "weight_decay", "beta1"))
    values = space.at([0.5, 0.0, 1.0])
    assert values == {"lr": pytest.approx(1e-3), "weight_decay": 1e-4, "beta1": 0.99}
    changed = with_values(selected("adamw").hyperparameters, values)
    assert changed["betas"] == [0.99, 0.999] and changed["weight_decay"] == 1e-4 and changed["eps"] == 1e-8


@pytest.mark.parametrize(
    ("name", "names", "message"),
    [
        ("sgd", ("lr", "beta1"), "optimizer sgd has no such setting"),
        ("adamw", ("lr", "beta"), "unknown hyper-parameter 'beta': did you mean"),
        ("adamw", ("weight_decay",), "lr is always searched"),
        ("adafactor", ("lr", "eps"), r"adafactor has eps = \[None, 0.001\]; allowed are numbers"),
    ],
)
def test_what_cannot_be_searched_is_named(name: str, names: tuple[str, ...], message: str):
    with pytest.raises(UsageError, match=message):
        search_space(selected(name), names)


@pytest.mark.parametrize("rate", [0, 1e-320, 1e305])
def test_a_rate_needs_room_on_both_sides(rate: float):
    found = selected("adamw")
    with pytest.raises(UsageError, match=re.escape(f"optimizer adamw: its default lr is {rate}; a search needs")):
        search_space(replace(found, hyperparameters={**found.hyperparameters, "lr": rate}), ("lr",))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1.0, 0.1), (0.5, 0.5), (1.0, np.inf)])
def test_an_entrys_own_range_must_be_one(low: float, high: float):
    found = selected("adamw")
    spec = replace(found.spec, search={"weight_decay": SearchRange(low=low, high=high)})
    with pytest.raises(UsageError, match=f"--search weight_decay: optimizer adamw has the range {low} to {high}; "):
        search_space(replace(found, spec=spec), ("lr", "weight_decay"))


@given(st.floats(1e-5, 1e-1))
def test_the_outermost_tenth_is_the_edge(rate: float):
    space = Space({"lr": SearchRange(low=1e-5, high=1e-1)})
    # A tenth of four decades.
    expected = "low" if np.log10(rate) < -4.6 else "high" if np.log10(rate) > -1.4 else None
    if abs(np.log10(rate) + 4.6) > 1e-9 and abs(np.log10(rate) + 1.4) > 1e-9:
        assert space.edge({"lr": rate}) == expected


def test_widening_adds_a_decade_and_names_the_new_part():
    space = Space({"lr": SearchRange(low=1e-5, high=1e-1)})
    wide, part = space.widened("high")
    assert (wide.ranges["lr"].low, wide.ranges["lr"].high) == (1e-5, pytest.approx(1.0))
    assert (part.ranges["lr"].low, part.ranges["lr"].high) == (1e-1, pytest.approx(1.0))


def test_points_cover_the_range():
    assert np.sort(np.floor(8 * sobol_points(8, 1, 0).ravel())).tolist() == list(range(8))
    assert grid_points(4, 1).ravel().tolist() == [0.125, 0.375, 0.625, 0.875]
    assert grid_points(9, 2).shape == (9, 2) and grid_points(1, 3).shape == (1, 3)


@pytest.mark.parametrize(("count", "dimensions"), [(8, 2), (10, 2), (2, 2), (9, 3)])
def test_a_grid_has_all_of_its_points_or_is_refused(count: int, dimensions: int):
    with pytest.raises(ValueError, match=f"a grid over {dimensions} hyper-parameters never has {count} points"):
        grid_points(count, dimensions)
