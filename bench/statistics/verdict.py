"""The verdict on one metric: what `bench rank` prints, from the scores of all optimizers on the same seeds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bench.statistics import pairs as tests
from bench.statistics.friedman import Friedman, friedman
from bench.statistics.intervals import CONFIDENCE, BoolArray, t_quantile
from bench.statistics.outcomes import Blocks, Success, blocks, display_order, success
from bench.statistics.pairs import PairedT, Pairing
from bench.statistics.power import minimal_effect, seeds_needed
from bench.statistics.ranks import best_set, block_ranks, compact_letters, rank_intervals

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to compare.

    alpha: family-wise error of the tests; intervals are 95 % always. reference: compare with this entry alone, k − 1
    comparisons instead of k (k − 1)/2. grain: step of the scores, such as 100/N percent. chance: score of a diverged
    run. margin: differences within it count as equivalent; None tests no equivalence. power: of mde and seeds_needed.
    sought: the difference that seeds_needed is for; None takes the observed one of the first pair.
    """

    lower_is_better: bool = False
    alpha: float = 0.05
    reference: str | None = None
    grain: float = 0.0
    chance: float | None = None
    margin: float | None = None
    power: float = 0.8
    sought: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryVerdict:
    """One optimizer. mean, sd (ddof 1) and ci95 are over all seeds, a diverged run at chance.

    reliable: no run diverged; else t intervals cover too rarely. mean_rank: over seeds, diverged runs last.
    rank_interval: holds the rank of the true mean, jointly for all entries. tier: its lower end. letters: entries that
    share one are not told apart. sd and ci95 are None with one seed.
    """

    name: str
    mean: float
    sd: float | None
    ci95: Interval | None
    mean_rank: float
    rank_interval: tuple[int, int]
    tier: int
    letters: str
    in_best_set: bool
    reliable: bool
    success: Success


@dataclass(frozen=True, slots=True, kw_only=True)
class PairVerdict:
    """Two optimizers on the same seeds: difference a − b in the metric's own direction, t of its sign.

    p two-sided, p_holm over all pairs listed. poi: P(a is better on a seed), ties half; poi_ci95 among non-ties;
    poi_unpaired: over all pairs of runs. p_equivalent: of the equivalence test, None without a margin. One seed: ci95,
    sd, effect_size and t are None, p is 1.
    """

    a: str
    b: str
    difference: float
    ci95: Interval | None
    sd: float | None
    effect_size: float | None
    t: float | None
    p: float
    p_holm: float
    significant: bool
    poi: float
    poi_ci95: Interval
    poi_unpaired: float
    p_equivalent: float | None
    equivalent: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Entries in the order of display, pairs in the order of their entries.

    dropped_seeds: rows left out because a run is missing. mde: the least difference these seeds find with
    `Options.power`, at the corrected level and the median spread of the pairs: a noisier pair needs more. sought and
    seeds_needed: that difference needs so many seeds, at the first pair's spread; None where it is zero or needs more
    than 100,000. Without a pair, friedman, pairing, mde, sought and seeds_needed are None; with one seed the last four.
    """

    n_seeds: int
    dropped_seeds: int
    options: Options
    entries: tuple[EntryVerdict, ...]
    pairs: tuple[PairVerdict, ...]
    friedman: Friedman | None
    pairing: Pairing | None
    mde: float | None
    sought: float | None
    seeds_needed: int | None

    @property
    def best_set(self) -> tuple[str, ...]:
        """The entries that no other is significantly better than: only one of them may be called the best."""
        return tuple(entry.name for entry in self.entries if entry.in_best_set)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers; what is not finite is None."""
        return _plain(dataclasses.asdict(self))


def verdict(
    scores: ArrayLike,
    names: Sequence[str],
    options: Options | None = None,
    *,
    diverged: ArrayLike | None = None,
    rng: np.random.Generator | None = None,
) -> Verdict:
    """All comparisons of x [seeds, optimizers], column i of `names[i]`.

    `diverged` is the mask of diverged runs; without it a score that is not finite has diverged, with it such a score is
    missing and its seed is left out. `rng` serves Friedman's p where it is by resampling, and is seeded if None.
    """
    options = options or Options()
    data = blocks(scores, diverged, chance=options.chance, lower_is_better=options.lower_is_better, grain=options.grain)
    _check(names, data.scores.shape[1], options)
    # Exact sums, so that the seeds' order does not decide between equal means.
    mean = [math.fsum(column) / len(column) for column in data.scores.T]
    order = display_order(mean, 1 - data.failed.mean(axis=0), names)
    data = _reordered(data, order)
    names = [names[i] for i in order]
    first, second = _family(names, options)
    test = tests.paired_t(data.scores[:, first], data.scores[:, second], grain=options.grain)
    found = _compare(data, names, first, second, test, options)
    mde, sought, needed = _power(test, options)
    return Verdict(
        n_seeds=len(data.scores),
        dropped_seeds=int(np.sum(~data.kept)),
        options=options,
        entries=_entries(data, names, _better(found, names, options), options),
        pairs=found,
        friedman=friedman(data.standing, rng) if found else None,
        pairing=tests.pairing(data.scores),
        mde=mde,
        sought=sought,
        seeds_needed=needed,
    )


def _check(names: Sequence[str], columns: int, options: Options) -> None:
    if len(names) != columns or len(set(names)) < columns:
        raise ValueError(f"{columns} columns of scores need as many different names; found {list(names)}")
    if options.reference is not None and options.reference not in names:
        raise ValueError(f"the reference {options.reference!r} is none of {', '.join(names)}")
    if not 0 < options.alpha < 1 or options.grain < 0:
        raise ValueError(f"alpha {options.alpha} must lie between 0 and 1, grain {options.grain} must not be negative")


def _reordered(data: Blocks, order: list[int]) -> Blocks:
    by_rank = {field: getattr(data, field)[:, order] for field in ("scores", "standing", "failed")}
    return dataclasses.replace(data, **by_rank)


def _family(names: Sequence[str], options: Options) -> tuple[list[int], list[int]]:
    """Columns a and b of every comparison: all pairs, or each entry and the reference."""
    k = len(names)
    if options.reference is None:
        first, second = np.triu_indices(k, 1)
        return first.tolist(), second.tolist()
    reference = names.index(options.reference)
    others = [i for i in range(k) if i != reference]
    return others, [reference] * len(others)


def _compare(
    data: Blocks, names: Sequence[str], first: list[int], second: list[int], test: PairedT, options: Options
) -> tuple[PairVerdict, ...]:
    a, b = data.scores[:, first], data.scores[:, second]
    p_holm = tests.holm(test.p)
    wins = tests.probability_of_improvement(data.standing[:, first], data.standing[:, second])
    equivalence = None if options.margin is None else tests.tost(a, b, options.margin, grain=options.grain)
    sign = -1.0 if options.lower_is_better else 1.0
    several = test.n > 1
    low, high = (test.low, test.high) if sign > 0 else (-test.high, -test.low)
    difference, t = sign * test.difference + 0.0, sign * test.t + 0.0  # no −0
    return tuple(
        PairVerdict(
            a=names[i],
            b=names[j],
            difference=float(difference[m]),
            ci95=(float(low[m]), float(high[m])) if several else None,
            sd=float(test.sd[m]) if several else None,
            effect_size=_ratio(float(difference[m]), float(test.sd[m])) if several else None,
            t=float(t[m]) if several else None,
            p=float(test.p[m]),
            p_holm=float(p_holm[m]),
            significant=bool(p_holm[m] <= options.alpha),
            poi=float(wins.probability[m]),
            poi_ci95=(float(wins.low[m]), float(wins.high[m])),
            poi_unpaired=tests.probability_of_improvement_unpaired(data.standing[:, i], data.standing[:, j]),
            p_equivalent=None if equivalence is None else float(equivalence.p[m]),
            equivalent=None if equivalence is None else bool(equivalence.p[m] < options.alpha),
        )
        for m, (i, j) in enumerate(zip(first, second, strict=True))
    )


def _ratio(value: float, sd: float) -> float:
    return value / sd if sd > 0 else 0.0


def _better(found: Sequence[PairVerdict], names: Sequence[str], options: Options) -> BoolArray:
    """[k, k], i significantly better than j. With a reference also what follows: i better than it and it than j."""
    place = {name: i for i, name in enumerate(names)}
    better = np.zeros((len(names), len(names)), bool)
    for pair in found:
        if pair.significant:
            a_wins = (pair.difference > 0) != options.lower_is_better
            a, b = place[pair.a], place[pair.b]
            better[(a, b) if a_wins else (b, a)] = True
    if options.reference is not None:
        reference = place[options.reference]
        better |= better[:, [reference]] & better[[reference]]
    return better


def _entries(data: Blocks, names: Sequence[str], better: BoolArray, options: Options) -> tuple[EntryVerdict, ...]:
    n = len(data.scores)
    sign = -1.0 if options.lower_is_better else 1.0
    mean, mean_rank = sign * data.scores.mean(axis=0), block_ranks(data.standing).mean(axis=0)
    sd = data.scores.std(axis=0, ddof=1) if n > 1 else None
    low, high = rank_intervals(better)
    best, letters = best_set(better), compact_letters(better | better.T)
    return tuple(
        EntryVerdict(
            name=name,
            mean=float(mean[i]),
            sd=None if sd is None else float(sd[i]),
            ci95=None if sd is None else _level_interval(float(mean[i]), float(sd[i]), n, options.grain),
            mean_rank=float(mean_rank[i]),
            rank_interval=(int(low[i]), int(high[i])),
            tier=int(low[i]),
            letters=letters[i],
            in_best_set=bool(best[i]),
            reliable=not data.failed[:, i].any(),
            success=success(sign * data.scores[:, i], data.failed[:, i]),
        )
        for i, name in enumerate(names)
    )


def _level_interval(mean: float, sd: float, n: int, grain: float) -> Interval:
    """mean ± t s/√n with the floor s² ≥ g²/12, the variance of one rounded number."""
    half = t_quantile(n, (1 + CONFIDENCE) / 2) * max(sd, grain / math.sqrt(12)) / math.sqrt(n)
    return mean - half, mean + half


def _power(test: PairedT, options: Options) -> tuple[float | None, float | None, int | None]:
    """mde, sought and seeds_needed."""
    m = len(test.difference)
    if not m or test.n < 2:
        return None, None, None
    settings = {"alpha": options.alpha, "power": options.power}
    mde = minimal_effect(test.n, m, **settings) * float(np.median(test.sd))
    sought = abs(float(test.difference[0])) if options.sought is None else options.sought
    effect = _ratio(sought, float(test.sd[0]))
    return mde, sought, seeds_needed(effect, m, **settings) if effect else None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
