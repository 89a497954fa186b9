"""The front of time, quality and state."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.record import MemoryUse, Seconds
from bench.reporting.pareto import candidates, pareto_front
from bench.study import Study
from bench.summary import rows

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


def test_a_few_bytes_of_state_do_not_put_a_worse_optimizer_on_the_front(write_study: Callable[..., Study]):
    seconds = {"good": 5.0, "worse": 6.0, "small": 6.0}
    state = {"good": 3_244_164, "worse": 3_243_776, "small": 1_621_888}
    for name, quality in (("good", 40.0), ("worse", 20.0), ("small", 10.0)):
        write_study({name: {0: quality, 1: quality}}, seconds=Seconds(training=seconds[name]),
                    memory=MemoryUse(peak_bytes=10**8, state_bytes=state[name]))  # fmt: skip
    write_study({"untimed": {0: 50.0}}, seconds=Seconds())
    found = candidates(rows(write_study({})), "avg_r1")
    assert {c.row.optimizer: c.front for c in found} == {"good": True, "worse": False, "small": True}
    assert [(c.seconds, c.quality) for c in found if c.front] == [(5.0, 40.0), (6.0, 10.0)]
