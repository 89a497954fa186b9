"""Ranges, and settings with searched values."""

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
    ],
)
def test_what_cannot_be_searched_is_named(name: str, names: tuple[str, ...], message: str):
    with pytest.raises(UsageError, match=message):
        search_space(selected(name), names)


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
    assert grid_points(9, 2).shape == (9, 2)
