"""Rank intervals, letters and Friedman's test: definitions by brute force, known answers, other libraries."""

import itertools
import string

import numpy as np
import pytest
import scikit_posthocs as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from bench.statistics.friedman import friedman
from bench.statistics.ranks import (
    best_set,
    block_ranks,
    compact_letters,
    in_steps,
    rank_agreement,
    rank_intervals,
)

RELATIONS = st.integers(1, 9).flatmap(lambda k: hnp.arrays(bool, (k, k)))


def test_rank_intervals_by_hand():
    # 0 beats 2 and 3, 1 beats 3: intervals 1-2, 1-3, 2-4, 3-4.
    better = np.zeros((4, 4), bool)
    better[0, [2, 3]] = better[1, 3] = True
    low, high = rank_intervals(better)
    assert low.tolist() == [1, 1, 2, 3]
    assert high.tolist() == [2, 3, 4, 4]
    assert best_set(better).tolist() == [True, True, False, False]


def test_ranks_of_blocks_tie_within_the_grain():
    assert block_ranks([[3, 1, 2], [1, 1, 5]]).tolist() == [[1, 3, 2], [2.5, 2.5, 1]]
    assert block_ranks(in_steps([[0.1 + 0.2, 0.3, 0.4]], 0.01)).tolist() == [[2.5, 2.5, 1]]
    assert block_ranks([[-np.inf, 1, -np.inf]]).tolist() == [[2.5, 1, 2.5]]


def shares(letters: tuple[str, ...], i: int, j: int) -> bool:
    return bool(set(letters[i]) & set(letters[j]))


@settings(max_examples=300, deadline=None)
@given(RELATIONS)
def test_letters_are_shared_if_and_only_if_not_different(relation: np.ndarray):
    different = relation | relation.T
    letters = compact_letters(different)
    for i, j in itertools.combinations(range(len(different)), 2):
        assert shares(letters, i, j) == (not different[i, j])
    assert all(letters)
    used = sorted(set("".join(letters)), key=string.ascii_letters.index)
    assert used == list(string.ascii_letters[: len(used)])  # without a gap, `a` first
    for letter in used:  # none is superfluous
        without = tuple(text.replace(letter, "") for text in letters)
        pairs = itertools.combinations(range(len(different)), 2)
        assert not all(without) or any(shares(without, i, j) != shares(letters, i, j) for i, j in pairs)


@pytest.mark.parametrize("seed", range(20))
def test_letters_are_those_of_scikit_posthocs(seed: int):
    # Means on a line, different beyond a distance: the case in which letters are unique.
    place = np.sort(np.random.default_rng(seed).uniform(0, 4, size=9))
    different = np.abs(place[:, None] - place) > 1
    expected = sp.compact_letter_display(np.where(different, 0.01, 0.9))
    assert compact_letters(different) == tuple(expected.str.replace(" ", ""))


def test_many_letters_stay_single_characters():
    letters = compact_letters(~np.eye(80, dtype=bool))
    assert len(set(letters)) == 80
    assert all(len(letter) == 1 and letter.isalpha() for letter in letters)
    assert compact_letters(np.ones((1, 1), bool)) == ("a",)


def test_friedman_known_answer():
    found = friedman([[0.5, 0.4, 0.3], [0.6, 0.5, 0.2], [0.55, 0.35, 0.45]])
    assert found.statistic == pytest.approx(4.666666666666664)
    assert found.p == pytest.approx(0.09697196786440515)
    assert found.p_exact == pytest.approx(42 / 216)
    assert found.resamples == 0
    assert found.kendall_w == pytest.approx(4.666666666666664 / 6)  # Q / (n (k − 1))


@pytest.mark.parametrize(("n", "k"), [(5, 3), (10, 4), (4, 8)])
def test_friedman_statistic_is_scipys(n: int, k: int):
    x = np.round(np.random.default_rng(n).normal(size=(n, k)), 1)  # with ties
    expected = stats.friedmanchisquare(*x.T)
    found = friedman(x)
    assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue))


@pytest.mark.parametrize("seed", range(4))
def test_friedman_exact_p_is_scipys(seed: int):
    x = np.round(np.random.default_rng(seed).normal(size=(4, 3)), seed % 2)  # with ties

    def statistic(*columns, axis):
        ranks = stats.rankdata(np.stack(columns), axis=0)
        return np.sum(ranks.sum(axis=axis) ** 2, axis=0)

    expected = stats.permutation_test(
        x.T, statistic, permutation_type="samples", n_resamples=np.inf, alternative="greater", vectorized=True
    )
    assert friedman(x).p_exact == pytest.approx(expected.pvalue)


def test_friedman_by_resampling_is_near_the_exact_value():
    x = np.random.default_rng(1).normal(size=(8, 4)) + np.arange(4) * 0.4
    exact = friedman(x)
    wide = np.hstack([x, np.random.default_rng(2).normal(size=(8, 5)) - 50])  # nine entries: too many orders
    found = friedman(wide)
    assert exact.resamples == 0 < found.resamples
    assert found == friedman(wide)  # a generator of its own, seeded
    assert found.p_exact == pytest.approx(1 / (1 + found.resamples))  # five entries lose every seed


def test_friedman_limits():
    equal = friedman(np.ones((3, 4)))
    assert (equal.statistic, equal.p, equal.p_exact, equal.kendall_w) == (0, 1, 1, 0)
    same_order = friedman(np.arange(3.0) + np.zeros((4, 1)))
    assert same_order.kendall_w == pytest.approx(1)
    assert same_order.p_exact == pytest.approx(6 / 6**4)
    assert friedman([[1.0, 2.0]]).p_exact == 1


def test_mean_ranks_give_nemenyis_p():
    x = np.random.default_rng(0).normal(size=(6, 4)) + np.arange(4)
    mean = block_ranks(x).mean(axis=0)
    q = np.abs(mean[0] - mean[3]) / np.sqrt(4 * 5 / (6 * 6)) * np.sqrt(2)
    expected = sp.posthoc_nemenyi_friedman(x).to_numpy()[0, 3]
    assert stats.studentized_range.sf(q, 4, np.inf) == pytest.approx(expected, rel=1e-6)


def test_rank_agreement_known_answers():
    assert rank_agreement([1, 2, 3, 4, 5], [1, 3, 2, 4, 5]).tau == pytest.approx(0.8)
    assert rank_agreement([1, 2, 2, 4, 5], [1, 3, 2, 4, 5]).tau == pytest.approx(0.9486832980505138)
    assert rank_agreement([5, 4, 3, 2, 1], [5, 3, 4, 2, 1]).weighted_tau == pytest.approx(0.8175182481751825)
    assert np.isnan(rank_agreement([1, 1], [1, 2]).tau)
    assert np.isnan(rank_agreement([1], [1]).tau)
