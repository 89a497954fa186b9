"""Two studies side by side: levels on shared seeds where the protocol is one, else the optimizers' orders alone."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.errors import UsageError
from bench.ranking import StudyScores, rank_scores, require_scores, study_scores
from bench.record import Outcome, RunRecord
from bench.statistics.pairs import holm, paired_t, tost
from bench.statistics.ranks import rank_agreement
from bench.statistics.verdict import Verdict
from bench.study import Study
from bench.study_changes import (
    Change,
    configuration_changes,
    data_changes,
    environment_changes,
    fullest,
    other_blocks,
    protocol_changes,
)

Runs = Mapping[str, Mapping[int, RunRecord]]  # by name and seed


@dataclass(frozen=True, slots=True)
class OutcomeChange:
    """A shared seed on which an optimizer's run ended in another way."""

    seed: int
    a: Outcome
    b: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One optimizer on the n seeds that both studies finished; a diverged run scores chance.

    difference: B − A in the metric's own direction; ci95, p and p_holm by paired t, None with one seed, and p None too
    where all shared runs are identical: outcome, metrics and loss equal to the last bit, which needs no test. p_holm is
    over all optimizers tested. better: B is significantly better (True), worse (False), or neither (None). reliable: no
    run diverged; else nothing is equivalent.
    """

    n: int
    mean_a: float
    mean_b: float
    difference: float
    ci95: tuple[float, float] | None
    p: float | None
    p_holm: float | None
    better: bool | None
    p_equivalent: float | None
    equivalent: bool
    identical: bool
    reliable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryComparison:
    """An optimizer of both studies; `ok_a` and `ok_b` are its runs that are ok and all its runs.

    rank_a, rank_b: rank intervals among the shared optimizers with a run that ended in both. level: None where levels
    are not compared. changes: of settings, revision and source. time_ratio: the median over shared seeds of B's
    training time over A's.
    """

    name: str
    ok_a: tuple[int, int]
    ok_b: tuple[int, int]
    rank_a: tuple[int, int] | None
    rank_b: tuple[int, int] | None
    level: Level | None
    outcomes: tuple[OutcomeChange, ...]
    changes: tuple[Change, ...]
    time_ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """The order of the shared optimizers in A and in B, each by all its own seeds.

    tau and weighted_tau (weighted to the top) compare the means, None where all means of one are equal. Pairs are
    (better, worse) and significant: `agreed` in both, `reversed` in both but the other way round in B, `only_a`,
    `only_b` in one alone.
    """

    seeds_a: int
    seeds_b: int
    tau: float | None
    weighted_tau: float | None
    best_a: tuple[str, ...]
    best_b: tuple[str, ...]
    agreed: int
    reversed: tuple[tuple[str, str], ...]
    only_a: tuple[tuple[str, str], ...]
    only_b: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two studies."""

    study: str
    protocol: str
    protocol_hash: str
    metric: str
    optimizers: int
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Entries in the order of A. `differences`: keys of the protocol, and the data; with one, or without a shared seed,
    no entry has a level. `other_blocks`: shared seeds with other initial weights or batches. `orders`: None with fewer
    than two shared optimizers, or where a study has no two seeds that all of them finished.
    """

    a: Side
    b: Side
    alpha: float
    margin: float | None
    lower_is_better: bool
    differences: tuple[Change, ...]
    shared_seeds: tuple[int, ...]
    other_blocks: tuple[int, ...]
    entries: tuple[EntryComparison, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    environment: tuple[Change, ...]
    orders: Orders | None

    @property
    def compares_levels(self) -> bool:
        """Whether any optimizer's levels are compared."""
        return any(entry.level for entry in self.entries)

    def to_json(self) -> dict[str, Any]:
        """Plain data, the fields as named here; what is not finite is a string."""
        return json.loads(json.dumps(_plain(dataclasses.asdict(self)), allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def compare_studies(a: Study, b: Study, *, alpha: float = 0.05, may_differ: tuple[str, ...] = ()) -> Comparison:
    """B against A.

    Optimizers are matched by name, and by configuration too where a study holds several of one. Protocols are one also
    where only keys that begin with those of `may_differ` differ: data and scores are the same then. Raises
    `UsageError` where the two have no optimizer in common, or a run that is ok has no score.
    """
    for study in (a, b):
        require_scores(study)
    runs_a, runs_b = _runs(a, b), _runs(b, a)
    scores_a, scores_b = _renamed(study_scores(a), runs_a, a), _renamed(study_scores(b), runs_b, b)
    names = [name for name in scores_a.names if name in scores_b.names]
    if not names:
        raise UsageError(f"{a.path} and {b.path} share no optimizer: A has {', '.join(sorted(runs_a))}; "
                         f"B has {', '.join(sorted(runs_b))}")  # fmt: skip
    # One without any run that ended would leave no seed complete.
    ranked = [n for n in names if all(any(_ended(of, n, s) for s in of.seeds) for of in (scores_a, scores_b))]
    verdicts = rank_scores(scores_a.only(ranked), alpha=alpha), rank_scores(scores_b.only(ranked), alpha=alpha)
    by_rank = [entry.name for entry in verdicts[0].entries] if verdicts[0] else []
    names = [*by_rank, *(name for name in names if name not in by_rank)]
    records_a, records_b = ([r for name in names for r in runs[name].values()] for runs in (runs_a, runs_b))
    differences = (
        *(change for change in protocol_changes(a.protocol, b.protocol) if not change.what.startswith(may_differ)),
        *data_changes((r.fingerprints for r in records_a), (r.fingerprints for r in records_b)),
    )
    levels = {} if differences else _levels(scores_a, scores_b, runs_a, runs_b, names, alpha)
    return Comparison(
        a=_side(a), b=_side(b), alpha=alpha, margin=scores_a.margin, lower_is_better=scores_a.lower_is_better,
        differences=differences,
        shared_seeds=tuple(sorted(set(scores_a.seeds) & set(scores_b.seeds))),
        other_blocks=() if differences else other_blocks(
            (r.seed, r.fingerprints, runs_b[name][r.seed].fingerprints)
            for name in names for r in runs_a[name].values() if r.seed in runs_b[name]
        ),
        entries=tuple(
            _entry(name, runs_a[name], runs_b[name], levels.get(name), verdicts, timed=not differences)
            for name in names
        ),
        only_a=tuple(sorted(set(runs_a) - set(runs_b))),
        only_b=tuple(sorted(set(runs_b) - set(runs_a))),
        environment=environment_changes(*(
            [r.environment for r in records if r.environment] for records in (records_a, records_b)
        )),
        orders=_orders(*verdicts),
    )  # fmt: skip


def _side(study: Study) -> Side:
    return Side(
        study=study.name,
        protocol=study.protocol.name,
        protocol_hash=study.protocol.hash,
        metric=study.protocol.primary_metric,
        optimizers=len(set(study.labels.values())),
        seeds=tuple(sorted({r.seed for r in study.records})),
    )


def _runs(study: Study, other: Study) -> dict[str, dict[int, RunRecord]]:
    """The study's runs, named so that one name means one thing in both studies."""
    several = {r.optimizer for of in (study, other) for r in of.records if of.labels[r.run_id] != r.optimizer}
    runs: dict[str, dict[int, RunRecord]] = {}
    for r in study.records:
        name = f"{r.optimizer}#{r.configuration[:4]}" if r.optimizer in several else r.optimizer
        runs.setdefault(name, {})[r.seed] = r
    return runs


def _renamed(scores: StudyScores, runs: Runs, study: Study) -> StudyScores:
    names = {study.labels[record.run_id]: name for name, of in runs.items() for record in of.values()}
    return dataclasses.replace(scores, names=tuple(names[label] for label in scores.names))


def _levels(
    a: StudyScores, b: StudyScores, runs_a: Runs, runs_b: Runs, names: Sequence[str], alpha: float
) -> dict[str, Level]:
    """Levels of the optimizers that have a shared seed; Holm's correction is over those that are tested.

    Chance is one under one protocol; where it is not known, the worse of both stands in.
    """
    known = [scores.chance for scores in (a, b) if scores.chance is not None]
    chance = (max if a.lower_is_better else min)(known, default=None)
    a, b = dataclasses.replace(a, chance=chance), dataclasses.replace(b, chance=chance)
    levels = {}
    for name in names:
        seeds = [seed for seed in a.seeds if seed in b.seeds and _ended(a, name, seed) and _ended(b, name, seed)]
        if seeds:
            shared = runs_a[name].keys() & runs_b[name].keys()  # one that did not finish differs, too
            identical = all(_result(runs_a[name][seed]) == _result(runs_b[name][seed]) for seed in shared)
            levels[name] = _level(a, b, name, seeds, identical, alpha)
    tested = [name for name, level in levels.items() if level.p is not None]
    for name, p in zip(tested, holm([levels[name].p for name in tested]).tolist(), strict=True):
        better = (levels[name].difference > 0) != a.lower_is_better if p <= alpha else None
        levels[name] = dataclasses.replace(levels[name], p_holm=p, better=better)
    return levels


def _ended(scores: StudyScores, name: str, seed: int) -> bool:
    place = scores.seeds.index(seed), scores.names.index(name)
    return bool(np.isfinite(scores.scores[place]) or (scores.diverged[place] and scores.chance is not None))


def _result(record: RunRecord) -> str:
    return record.model_dump_json(include={"outcome", "metrics", "loss"})


def _level(a: StudyScores, b: StudyScores, name: str, seeds: list[int], identical: bool, alpha: float) -> Level:
    (x, failed_a), (y, failed_b) = (_column(scores, name, seeds) for scores in (a, b))
    test, several = paired_t(y, x, grain=a.grain), len(seeds) > 1
    reliable = not (failed_a | failed_b).any()
    tested = a.margin is not None and several and reliable
    p_equivalent = float(tost(y, x, a.margin, grain=a.grain, alpha=alpha).p) if tested and a.margin else None
    return Level(
        n=len(seeds), mean_a=math.fsum(x) / len(x), mean_b=math.fsum(y) / len(y), difference=float(test.difference),
        ci95=(float(test.low), float(test.high)) if several else None,
        p=float(test.p) if several and not identical else None, p_holm=None, better=None,
        p_equivalent=p_equivalent, equivalent=p_equivalent is not None and p_equivalent < alpha,
        identical=identical, reliable=reliable,
    )  # fmt: skip


def _column(scores: StudyScores, name: str, seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Scores of these seeds with diverged runs at chance, and the mask of those."""
    rows, column = [scores.seeds.index(seed) for seed in seeds], scores.names.index(name)
    failed = scores.diverged[rows, column]
    chance = math.nan if scores.chance is None else scores.chance
    return np.where(failed, chance, scores.scores[rows, column]), failed


def _entry(
    name: str,
    a: Mapping[int, RunRecord],
    b: Mapping[int, RunRecord],
    level: Level | None,
    verdicts: tuple[Verdict | None, Verdict | None],
    *,
    timed: bool,
) -> EntryComparison:
    shared = sorted(set(a) & set(b))
    ok = [seed for seed in shared if a[seed].outcome is b[seed].outcome is Outcome.OK and a[seed].seconds.training > 0]
    ratios = [b[seed].seconds.training / a[seed].seconds.training for seed in ok] if timed else []
    rank_a, rank_b = (
        next((entry.rank_interval for entry in found.entries if entry.name == name), None) if found else None
        for found in verdicts
    )
    changed = [seed for seed in shared if a[seed].outcome is not b[seed].outcome] if timed else []
    return EntryComparison(
        name=name,
        ok_a=_count(a),
        ok_b=_count(b),
        rank_a=rank_a,
        rank_b=rank_b,
        level=level,
        outcomes=tuple(OutcomeChange(seed, a[seed].outcome, b[seed].outcome) for seed in changed),
        changes=configuration_changes(fullest(a.values()), fullest(b.values())),
        time_ratio=float(np.median(ratios)) if ratios else None,
    )


def _count(runs: Mapping[int, RunRecord]) -> tuple[int, int]:
    return sum(r.outcome is Outcome.OK for r in runs.values()), len(runs)


def _orders(a: Verdict | None, b: Verdict | None) -> Orders | None:
    if a is None or b is None:
        return None
    means = [{entry.name: entry.mean for entry in found.entries} for found in (a, b)]
    signs = [-1.0 if found.options.lower_is_better else 1.0 for found in (a, b)]
    names = list(means[0])
    agreement = rank_agreement(*([sign * mean[n] for n in names] for sign, mean in zip(signs, means, strict=True)))
    in_a, in_b = _resolved(a), _resolved(b)
    turned = {(worse, better) for better, worse in in_b}
    return Orders(
        seeds_a=a.n_seeds, seeds_b=b.n_seeds,
        tau=None if math.isnan(agreement.tau) else agreement.tau,
        weighted_tau=None if math.isnan(agreement.weighted_tau) else agreement.weighted_tau,
        best_a=a.best_set, best_b=b.best_set,
        agreed=sum(pair in in_b for pair in in_a),
        reversed=tuple(pair for pair in in_a if pair in turned),
        only_a=tuple(pair for pair in in_a if pair not in in_b and pair not in turned),
        only_b=tuple(pair for pair in in_b if pair not in in_a and pair[::-1] not in in_a),
    )  # fmt: skip


def _resolved(found: Verdict) -> list[tuple[str, str]]:
    """(better, worse) of every significant pair."""
    return [
        (p.a, p.b) if (p.difference > 0) != found.options.lower_is_better else (p.b, p.a)
        for p in found.pairs
        if p.significant
    ]
