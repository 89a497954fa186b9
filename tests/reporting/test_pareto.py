"""The front of time, quality and state."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.reporting.pareto import pareto_front

# Few values, so that ties and equal points occur.
POINTS = st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, 2.0, 3.0, math.inf])] * 3), max_size=12)


def dominates(a: tuple[float, float, float], b: tuple[float, float, float]) -> bool:
    return a[0] <= b[0] and a[1] >= b[1] and a[2] <= b[2] and a != b


@given(points=POINTS)
def test_no_member_is_dominated_and_every_other_is_by_a_member(points: list):
    front = pareto_front(points)
    members = [point for point, on_front in zip(points, front, strict=True) if on_front]
    for point, on_front in zip(points, front, strict=True):
        assert any(dominates(member, point) for member in members) != on_front


def test_front_of_three_optimizers():
    # The second is slower and no better; the third is worse, but has no state.
    assert pareto_front([(1.0, 50.0, 8.0), (2.0, 50.0, 8.0), (1.0, 40.0, 0.0)]) == (True, False, True)
    assert pareto_front([(1.0, 50.0, 8.0)] * 2) == (True, True)
    assert pareto_front([]) == ()


def test_a_coordinate_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="must be a number"):
        pareto_front([(1.0, math.nan, 0.0)])
