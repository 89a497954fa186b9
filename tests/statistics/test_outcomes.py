"""Diverged runs: chance as score, last in the block, success rates; missing runs drop the block."""

import numpy as np
import pytest

from bench.statistics.outcomes import blocks, display_order, success
from bench.statistics.ranks import block_ranks

NAN = np.nan


def test_diverged_runs_score_chance_and_share_the_last_rank():
    data = blocks([[60.0, NAN, 0.5, NAN], [50.0, 40.0, 30.0, 20.0]], chance=1.0)
    assert data.scores.tolist() == [[60, 1, 0.5, 1], [50, 40, 30, 20]]
    assert block_ranks(data.standing).tolist() == [[1, 3.5, 2, 3.5], [1, 2, 3, 4]]  # last, though chance is above .5
    assert data.failed.sum() == 2


def test_lower_is_better_turns_the_scores():
    data = blocks([[3.0, np.inf, 5.0]], chance=50.0, lower_is_better=True)
    assert data.scores.tolist() == [[-3, -50, -5]]
    assert block_ranks(data.standing).tolist() == [[1, 3, 2]]


def test_with_a_mask_an_unmarked_gap_is_missing_and_drops_its_block():
    mask = [[False, True], [False, False], [False, False]]
    data = blocks([[1.0, NAN], [NAN, 2.0], [3.0, 4.0]], mask, chance=0.0)
    assert data.kept.tolist() == [True, False, True]
    assert data.scores.tolist() == [[1, 0], [3, 4]]


def test_a_marked_run_scores_chance_whatever_it_reached():
    assert blocks([[40.0, 50.0]], [[True, False]], chance=1.0).scores.tolist() == [[1, 50]]


@pytest.mark.parametrize(
    ("scores", "mask", "chance", "match"),
    [
        ([[1.0, NAN]], None, None, "chance is None"),
        ([[1.0, NAN]], None, NAN, "chance is nan"),
        ([[NAN, 1.0]], [[False, False]], 0.0, "every block misses"),
        ([[1.0, 2.0]], [[False]], 0.0, "shape"),
        ([1.0, 2.0], None, 0.0, "must be"),
        (np.empty((0, 2)), None, 0.0, "must be"),
    ],
)
def test_what_cannot_be_compared_is_refused(scores, mask, chance, match: str):
    with pytest.raises(ValueError, match=match):
        blocks(scores, mask, chance=chance)


def test_success_of_all_some_none():
    # 0 of 5 diverged: the rate is at most 1 − .05^(1/5) = 45 %.
    every = success([1.0, 2, 3, 4, 5], np.zeros(5))
    assert (every.successes, every.rate, every.mean) == (5, 1.0, 3.0)
    assert every.ci95 == pytest.approx((0.4782, 1), abs=1e-4)
    assert every.failure_rate_below == pytest.approx(0.4507, abs=1e-4)
    some = success([1.0, 9, 3], [False, True, False])
    assert (some.successes, some.n, some.mean, some.failure_rate_below) == (2, 3, 2.0, None)
    none = success([1.0, 1], [True, True])
    assert (none.successes, none.mean, none.ci95[0]) == (0, None, 0.0)


def test_order_is_by_success_then_mean_then_name():
    assert display_order([9, 5, 7, 7], [0.8, 1, 1, 1], ["a", "b", "d", "c"]) == [3, 2, 1, 0]
