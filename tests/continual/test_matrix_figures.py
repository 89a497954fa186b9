"""Average accuracy, forgetting and backward transfer: worked by hand, and what must hold of any matrix."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.continual.figures import all_figures, average_accuracy, backward_transfer, entries, forgetting

KNOWN = [[0.9, 0, 0], [0.7, 0.8, 0], [0.6, 0.75, 0.85]]


def test_known_answer():
    assert average_accuracy(KNOWN) == pytest.approx(2.2 / 3)  # (.6 + .75 + .85) / 3 = .7333
    assert forgetting(KNOWN) == pytest.approx(0.175)  # (.9 − .6 + .8 − .75) / 2
    assert backward_transfer(KNOWN) == pytest.approx(-0.175)


def test_a_task_that_improved_later_counts_from_its_best():
    rose = [[0.5, 0, 0], [0.8, 0.6, 0], [0.7, 0.9, 0.4]]
    assert forgetting(rose) == pytest.approx((0.1 + 0.0) / 2)
    assert backward_transfer(rose) == pytest.approx((0.2 + 0.3) / 2)


def test_rows_so_far_are_those_of_the_tasks_learned():
    assert (forgetting(KNOWN[:1]), backward_transfer(KNOWN[:1])) == (0.0, 0.0)
    assert forgetting(KNOWN[:2]) == pytest.approx(0.2)
    assert all_figures(KNOWN[:2]) == {
        "average_accuracy": pytest.approx(0.5), "forgetting": pytest.approx(0.2),
        "backward_transfer": pytest.approx(-0.2), "accuracy_1": 0.7, "accuracy_2": 0.8, "accuracy_3": 0,
    }  # fmt: skip
    assert entries(KNOWN)["accuracy_3_2"] == 0.75 and len(entries(KNOWN)) == 9


@pytest.mark.parametrize("matrix", [[], [[]], [[0.5], [0.5]], [[0.5, 0.5], [0.5]]])
def test_what_is_no_matrix_is_refused(matrix: list[list[float]]):
    with pytest.raises(ValueError, match="allowed are 1 to T rows of T tasks each"):
        forgetting(matrix)


share = st.floats(0, 1)
matrices = st.integers(1, 6).flatmap(
    lambda tasks: st.lists(st.lists(share, min_size=tasks, max_size=tasks), min_size=tasks, max_size=tasks)
)


@given(matrices)
def test_bounds_and_relations(square: list[list[float]]):
    lower = [[value if i <= t else 0.0 for i, value in enumerate(row)] for t, row in enumerate(square)]
    forgot, transfer = forgetting(lower), backward_transfer(lower)
    assert 0 <= average_accuracy(lower) <= 1 + 1e-12
    assert 0 <= forgot <= 1 and -1 <= transfer <= 1
    assert forgot >= -transfer - 1e-12  # the best of a task is no worse than that right after it
    falling = [[min(value, row_before[i]) if i < t else value for i, value in enumerate(row)]
               for t, (row, row_before) in enumerate(zip(lower, lower[:1] + lower, strict=False))]  # fmt: skip
    for t in range(1, len(falling)):  # no task ever gains: what was lost is then what was forgotten
        falling[t] = [min(falling[t][i], falling[t - 1][i]) if i < t else falling[t][i] for i in range(len(falling))]
    assert forgetting(falling) == pytest.approx(-backward_transfer(falling), abs=1e-12)
    percent = [[100 * value for value in row] for row in lower]
    assert forgetting(percent) == pytest.approx(100 * forgot)
