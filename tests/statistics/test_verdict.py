"""The bundle: agreement with its parts, invariances, divergence, and the edges of its input."""

import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from bench.statistics.pairs import holm
from bench.statistics.power import minimal_effect, seeds_needed
from bench.statistics.verdict import EntryVerdict, Options, PairVerdict, Verdict, verdict

NAMES = tuple("abcdefgh")
NAN = np.nan
# Recalls in steps of .5 %, with seeds that tie and entries that are equal; some runs diverged.
SCORES = hnp.arrays(
    float,
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    elements=st.integers(2, 40).map(lambda i: i / 2) | st.just(NAN),
)
OPTIONS = st.builds(
    Options,
    lower_is_better=st.booleans(),
    alpha=st.sampled_from([0.05, 0.37]),
    reference=st.sampled_from([None, "a"]),
    grain=st.sampled_from([0.0, 0.5]),
    chance=st.just(1.0),
    margin=st.sampled_from([None, 2.0]),
)


def example(n: int = 5, k: int = 8, step: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return 50 + rng.normal(size=(n, 1)) + rng.normal(size=(n, k)) - step * np.arange(k)


def entry(found: Verdict, name: str) -> EntryVerdict:
    return next(e for e in found.entries if e.name == name)


def pair(found: Verdict, a: str, b: str) -> PairVerdict:
    return next(p for p in found.pairs if (p.a, p.b) == (a, b))


def assert_alike(found: Any, other: Any, place: str = "verdict") -> None:
    """Nested values are equal, floats to what the order of a sum cannot change."""
    if isinstance(found, dict):
        assert found.keys() == other.keys(), place
        for key, value in found.items():
            assert_alike(value, other[key], f"{place}.{key}")
    elif isinstance(found, list):
        assert len(found) == len(other), place
        for i, (value, same) in enumerate(zip(found, other, strict=True)):
            assert_alike(value, same, f"{place}[{i}]")
    elif isinstance(found, float) and isinstance(other, float):
        assert other == pytest.approx(found, rel=1e-6, abs=1e-9), place
    else:
        assert found == other, place


def test_keys_of_the_json():
    found = verdict(example(), NAMES).to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found.keys() >= {"n_seeds", "entries", "pairs", "friedman", "mde", "seeds_needed"}
    assert found["friedman"].keys() >= {"statistic", "p", "p_exact", "kendall_w"}
    assert found["pairs"][0].keys() >= {"a", "b", "difference", "ci95", "t", "p", "p_holm", "poi"}
    assert found["entries"][0].keys() >= {
        "name", "mean", "sd", "ci95", "mean_rank", "rank_interval", "tier", "letters", "in_best_set", "success"
    }  # fmt: skip


def test_pairs_are_scipys():
    x = example()
    found = verdict(x, NAMES, Options(margin=3.0))
    assert len(found.pairs) == 28
    for p in found.pairs:
        a, b = x[:, NAMES.index(p.a)], x[:, NAMES.index(p.b)]
        expected = stats.ttest_rel(a, b)
        assert (p.difference, p.t, p.p) == pytest.approx((np.mean(a - b), expected.statistic, expected.pvalue))
        assert p.ci95 == pytest.approx(tuple(expected.confidence_interval()))
        assert p.poi == np.mean(a > b)
        assert p.p_equivalent is not None and p.equivalent == (p.p_equivalent < 0.05)
    assert [p.p_holm for p in found.pairs] == pytest.approx(holm([p.p for p in found.pairs]))


def test_entries_are_numpys_in_the_order_of_the_mean():
    x = example()
    found = verdict(x, NAMES)
    assert [e.mean for e in found.entries] == pytest.approx(sorted(x.mean(axis=0), reverse=True))
    for e in found.entries:
        column = x[:, NAMES.index(e.name)]
        assert e.sd == pytest.approx(column.std(ddof=1))
        assert e.ci95 == pytest.approx(stats.t.interval(0.95, 4, column.mean(), stats.sem(column)))
        assert e.mean_rank == pytest.approx(stats.rankdata(-x, axis=1)[:, NAMES.index(e.name)].mean())
    assert found.best_set == tuple(e.name for e in found.entries if e.tier == 1)


def test_power_of_the_verdict():
    found = verdict(example(), NAMES)
    assert found.mde == pytest.approx(minimal_effect(5, 28) * np.median([p.sd or 0 for p in found.pairs]))
    first = found.pairs[0]
    assert first.effect_size is not None
    assert found.sought == abs(first.difference)
    assert found.seeds_needed == seeds_needed(first.effect_size, 28)
    sought = verdict(example(), NAMES, Options(sought=1.5, reference="a"))
    assert sought.pairs[0].sd is not None
    assert sought.seeds_needed == seeds_needed(1.5 / sought.pairs[0].sd, 7)


def test_two_known_optimizers():
    x = np.transpose([[0.71, 0.74, 0.69, 0.73, 0.72], [0.68, 0.70, 0.71, 0.67, 0.69]])
    only = verdict(x, ("a", "b")).pairs[0]
    assert (only.t, only.p, only.poi, only.poi_unpaired) == pytest.approx((2.122674522, 0.1010373468, 0.8, 0.88))
    assert only.poi_ci95 == pytest.approx((0.2835820639, 0.9949492366))
    assert only.effect_size == pytest.approx(0.949288905)


def test_lower_is_better_is_the_mirror():
    x = example()
    up, down = verdict(x, NAMES), verdict(-x, NAMES, Options(lower_is_better=True))
    assert [e.name for e in up.entries] == [e.name for e in down.entries]
    assert [e.rank_interval for e in up.entries] == [e.rank_interval for e in down.entries]
    assert [e.mean for e in up.entries] == pytest.approx([-e.mean for e in down.entries])
    for p, q in zip(up.pairs, down.pairs, strict=True):
        assert q.t is not None and q.ci95 is not None
        assert (p.p, p.poi, p.difference, p.t) == pytest.approx((q.p, q.poi, -q.difference, -q.t))
        assert p.ci95 == pytest.approx((-q.ci95[1], -q.ci95[0]))


def test_reference_alone_is_compared():
    x = example(5, 8, 2.0)
    found = verdict(x, NAMES, Options(reference="d"))
    assert {p.b for p in found.pairs} == {"d"}
    assert len(found.pairs) == 7
    assert [p.p_holm for p in found.pairs] == pytest.approx(holm([p.p for p in found.pairs]))
    # a is better than d and d better than h, hence a better than h.
    assert pair(found, "a", "d").significant and pair(found, "h", "d").significant
    assert not set(entry(found, "a").letters) & set(entry(found, "h").letters)
    assert entry(found, "h").tier > entry(found, "d").tier > 1


@settings(max_examples=60, deadline=None)
@given(SCORES, OPTIONS, st.randoms(use_true_random=False))
def test_order_of_optimizers_and_of_seeds_changes_nothing(x: np.ndarray, options: Options, random):
    n, k = x.shape
    names = NAMES[:k]
    columns, rows = random.sample(range(k), k), random.sample(range(n), n)
    shuffled = verdict(x[np.ix_(rows, columns)], [names[i] for i in columns], options)
    assert_alike(verdict(x, names, options).to_json(), shuffled.to_json())


@settings(max_examples=60, deadline=None)
@given(SCORES.filter(lambda x: x.shape[1] > 1), OPTIONS)
def test_another_entry_leaves_each_score_against_the_reference(x: np.ndarray, options: Options):
    names, options = NAMES[: x.shape[1]], replace(options, reference="a")
    everyone, without = verdict(x, names, options), verdict(x[:, :-1], names[:-1], options)
    for before in without.pairs:
        after = pair(everyone, before.a, before.b)
        assert replace(after, p_holm=0, significant=False) == replace(before, p_holm=0, significant=False)
        assert after.p_holm >= before.p_holm or after.p_holm == pytest.approx(before.p_holm)


@settings(max_examples=150, deadline=None)
@given(SCORES, OPTIONS)
def test_what_holds_for_every_verdict(x: np.ndarray, options: Options):
    names = NAMES[: x.shape[1]]
    found = verdict(x, names, options)
    sign = 1 if options.lower_is_better else -1
    place = stats.rankdata([sign * e.mean for e in found.entries], method="min")
    last = stats.rankdata([sign * e.mean for e in found.entries], method="max")
    for i, e in enumerate(found.entries):
        assert e.rank_interval[0] <= last[i] and place[i] <= e.rank_interval[1]
        assert e.rank_interval[0] == e.tier
        assert e.in_best_set == (e.tier == 1)
    assert found.best_set
    for p in found.pairs:
        assert 0 <= p.p <= p.p_holm <= 1
        assert 0 <= p.poi_ci95[0] <= p.poi_ci95[1] <= 1
        shared = set(entry(found, p.a).letters) & set(entry(found, p.b).letters)
        assert bool(shared) != p.significant
    if found.friedman:
        assert 0 <= found.friedman.p <= 1 and 0 < found.friedman.p_exact <= 1
        assert -1e-12 <= found.friedman.kendall_w <= 1 + 1e-12
    json.dumps(found.to_json(), allow_nan=False)


def test_letters_of_a_reference_are_shared_only_without_a_decision():
    found = verdict(example(6, 6, 1.5), NAMES[:6], Options(reference="c"))
    for p in found.pairs:
        shared = set(entry(found, p.a).letters) & set(entry(found, p.b).letters)
        assert bool(shared) != p.significant


def test_a_diverging_optimizer_stands_below_and_is_flagged():
    x = np.array([[60.0, 55], [61, 56], [60, 55], [62, 57], [NAN, 56]])
    found = verdict(x, ("fast", "sure"), Options(chance=1.0))
    assert [e.name for e in found.entries] == ["sure", "fast"]
    fast = entry(found, "fast")
    assert (fast.reliable, fast.success.successes, fast.success.rate) == (False, 4, 0.8)
    assert fast.success.mean == pytest.approx(60.75)
    assert fast.mean == pytest.approx((243 + 1) / 5)  # chance where it diverged
    assert fast.mean_rank == pytest.approx((4 * 1 + 2) / 5)
    assert entry(found, "sure").success.failure_rate_below == pytest.approx(0.4507, abs=1e-4)


def test_a_missing_run_drops_its_seed_for_all():
    x = example()
    x[1, 3] = NAN
    found = verdict(x, NAMES, diverged=np.zeros(x.shape, bool))
    assert (found.n_seeds, found.dropped_seeds) == (4, 1)
    assert replace(found, dropped_seeds=0) == verdict(np.delete(x, 1, axis=0), NAMES)


def test_one_seed_claims_nothing():
    found = verdict([[3.0, 1.0, 2.0]], ("a", "b", "c"))
    assert [e.name for e in found.entries] == ["a", "c", "b"]
    assert all(e.rank_interval == (1, 3) and e.sd is None and e.ci95 is None for e in found.entries)
    assert all(p.p == 1 and p.t is None and p.ci95 is None and not p.significant for p in found.pairs)
    assert (found.mde, found.seeds_needed, found.pairing) == (None, None, None)
    assert found.friedman.p_exact == 1


def test_one_optimizer():
    found = verdict([[3.0], [4.0]], ("a",), Options(reference="a"))
    assert (found.pairs, found.friedman, found.mde) == ((), None, None)
    only = found.entries[0]
    assert (only.rank_interval, only.tier, only.letters, only.in_best_set, only.mean_rank) == ((1, 1), 1, "a", True, 1)


@pytest.mark.parametrize("x", [np.full((5, 3), NAN), np.full((5, 3), 7.0), np.full((5, 3), np.inf)])
@pytest.mark.parametrize("grain", [0.0, 0.5])
def test_all_diverged_or_all_equal_is_no_difference(x: np.ndarray, grain: float):
    found = verdict(x, ("a", "b", "c"), Options(chance=1.0, grain=grain))
    assert all((p.p, p.t, p.difference, p.poi) == (1, 0, 0, 0.5) for p in found.pairs)
    assert all(e.rank_interval == (1, 3) and e.mean_rank == 2 and e.letters == "a" for e in found.entries)
    assert (found.friedman.p_exact, found.friedman.kendall_w, found.seeds_needed) == (1, 0, None)


def test_constant_differences_are_certain_only_without_the_floor():
    x = np.array([[10.0, 10.5], [12, 12.5], [11, 11.5]])
    assert verdict(x, ("a", "b")).pairs[0].p < 1e-20
    # s = .5/√6, t = .5 √3 / s = √18
    assert verdict(x, ("a", "b"), Options(grain=0.5)).pairs[0].p == pytest.approx(2 * stats.t.sf(np.sqrt(18), 2))


def test_two_seeds():
    found = verdict([[1.0, 2.0], [2.0, 3.5]], ("a", "b"))
    expected = stats.ttest_rel([2.0, 3.5], [1.0, 2.0])
    assert (found.pairs[0].t, found.pairs[0].p) == pytest.approx((expected.statistic, expected.pvalue))
    assert found.mde is not None and found.mde > 0


@pytest.mark.parametrize(
    ("names", "options", "match"),
    [
        (("a", "b"), Options(), "different names"),
        (("a", "b", "b"), Options(), "different names"),
        (("a", "b", "c"), Options(reference="z"), "is none of a, b, c"),
        (("a", "b", "c"), Options(alpha=0), "alpha 0"),
        (("a", "b", "c"), Options(grain=-1), "grain -1"),
    ],
)
def test_bad_input_is_named(names, options: Options, match: str):
    with pytest.raises(ValueError, match=match):
        verdict(example(5, 3), names, options)


def test_fifty_entries_times_hundred_seeds_are_quick():
    x = example(100, 50, 0.1)
    names = [f"o{i}" for i in range(50)]
    start = time.perf_counter()
    found = verdict(x, names, Options(margin=0.5, grain=0.1))
    assert time.perf_counter() - start < 1  # .1 s alone
    assert len(found.pairs) == 1225
