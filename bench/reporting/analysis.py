"""What is computed of a study once and shown in several places: rows, verdict, times to a target, course of ranks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np

from bench.errors import BadRecordError, UsageError
from bench.races import read_race
from bench.ranking import OWN_FAILURES, StudyScores, rank_scores, study_scores
from bench.record import Outcome, RunRecord
from bench.score_table import LARGEST
from bench.search.rates import ByRates, by_rates
from bench.search.results import SearchResult, search_results
from bench.statistics.intervals import FloatArray
from bench.statistics.pairs import holm, paired_t
from bench.statistics.power import ALPHA
from bench.statistics.ranks import block_ranks
from bench.statistics.targets import TargetTimes, target_times, time_to_target
from bench.statistics.verdict import Verdict
from bench.study import Study
from bench.summary import Row, bounds, is_rank, lower_is_better, rows

Axis: TypeAlias = Literal["steps", "samples", "seconds"]
AXES: tuple[Axis, ...] = ("steps", "samples", "seconds")
LEVELS = 8  # targets stand at eighths of the way from chance to the ceiling
_HIGHEST = "the highest such eighth that at least half of the optimizers reach in most of their runs"
_LOWEST = "the lowest such eighth, although fewer than half of the optimizers reach it in most of their runs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A score to reach, and by optimizer (label) the summary of its runs' times on each axis.

    `times[axis][label]` are the times of the runs of `seeds[label]`, infinite where not reached.
    """

    score: float
    how: str
    seeds: dict[str, tuple[int, ...]]
    summary: dict[Axis, dict[str, TargetTimes]]
    times: dict[Axis, dict[str, tuple[float, ...]]]

    def blocks(self, axis: Axis = "steps") -> tuple[tuple[str, ...], FloatArray]:
        """Optimizers, and their times [seeds, optimizers] on the seeds that all of them have and some run reached.

        With one task a performance profile is over seeds.
        """
        shared = sorted(frozenset.intersection(*map(frozenset, self.seeds.values())))
        columns = [dict(zip(self.seeds[name], times, strict=True)) for name, times in self.times[axis].items()]
        x = np.array([[column[seed] for column in columns] for seed in shared]).reshape(len(shared), len(columns))
        return tuple(self.times[axis]), x[np.isfinite(x).any(axis=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCourse:
    """Mean rank over seeds [epochs, optimizers] of the primary metric at every epoch that all ended runs evaluated."""

    epochs: tuple[int, ...]
    names: tuple[str, ...]
    mean_rank: FloatArray
    flips: tuple[Flip, ...]


@dataclass(frozen=True, slots=True)
class Flip:
    """`early` was significantly better, the last time at epoch `until`, and after it `late`, first at epoch `since`."""

    early: str
    late: str
    until: int
    since: int

    def __str__(self) -> str:
        return f"{self.early} leads {self.late} last at epoch {self.until}, {self.late} leads first at {self.since}"


@dataclass(frozen=True)
class Analysis:
    """A study and what its report needs of it; every part is computed on first use.

    `rates` tells its tuned runs, which it ranks where there are any, from those with default settings.
    """

    study: Study
    rates: ByRates | None = None

    @cached_property
    def searches(self) -> dict[str, SearchResult]:
        """The searches of the study's protocol by optimizer."""
        return search_results(self.study)

    @property
    def metric(self) -> str:
        """The primary metric."""
        return self.study.protocol.primary_metric

    @property
    def points(self) -> str:
        """The unit of differences of the primary metric."""
        return "" if is_rank(self.metric) else "points"

    @cached_property
    def rows(self) -> list[Row]:
        """One row an optimizer, the best first."""
        return rows(self.study)

    @cached_property
    def verdict(self) -> Verdict | None:
        """What the runs support, of those that were not stopped early; None where there is nothing to compare."""
        return rank_scores(self.scores)

    @cached_property
    def scores(self) -> StudyScores:
        """What is ranked: of the optimizers that were not stopped early and have a run that ended by its own doing."""
        found = study_scores(self.study)
        return found.only([name for name in found.ended if name not in self.stopped])

    @property
    def unranked(self) -> tuple[str, ...]:
        """Optimizers that were not stopped, without a run that is ok, diverged or out of memory."""
        ranked = {*self.scores.names, *self.stopped}
        return tuple(row.optimizer for row in self.rows if row.optimizer not in ranked)

    @cached_property
    def stopped(self) -> dict[str, int]:
        """Optimizers that a race stopped, with the number of seeds at whose look; not those that ran on later."""
        race = read_race(self.study.path, self.study.protocol.hash)
        most = max(len(row.seeds) for row in self.rows)
        short = {row.optimizer for row in self.rows if len(row.seeds) < most}
        return {} if race is None else {name: look for name, look in race.dropped.items() if name in short}

    @cached_property
    def target(self) -> Target | None:
        """Times to a score between chance and ceiling; None where chance is not known or no curve holds the metric.

        The score is the highest eighth of that way that half of the optimizers reach in most of their runs, else the
        lowest eighth. A run that diverged or ran out of memory never reaches it; other failed runs, and ok runs whose
        curve is lost, are left out.
        """
        chance, ceiling = bounds(self.study, self.metric)
        ran = [row for row in self.rows if row.optimizer not in self.stopped]
        of_rows = {row.optimizer: tuple(self._curves(row)) for row in ran}
        curves = {name: found for name, found in of_rows.items() if found}
        if chance is None or not any(curve.scores for found in curves.values() for curve in found):
            return None
        best = 1.0 if is_rank(self.metric) else 0.0 if self._lower else 100.0
        top = ceiling if ceiling is not None else best
        levels = [chance + (top - chance) * step / LEVELS for step in range(LEVELS - 1, 0, -1)]
        for step, score in zip(range(LEVELS - 1, 0, -1), levels, strict=True):
            times = {name: [self._time(curve, "steps", score) for curve in found] for name, found in curves.items()}
            half = sum(np.isfinite(np.median(of)) for of in times.values()) >= len(times) / 2
            if half or step == 1:
                end = "ceiling" if ceiling is not None else "best value possible"
                which = _HIGHEST if half else _LOWEST
                return self._target(curves, score, f"{step}/{LEVELS} of the way from chance to the {end}, {which}")
        raise AssertionError("unreachable")

    @property
    def _lower(self) -> bool:
        return lower_is_better(self.metric)

    def _time(self, curve: _Curve, axis: Axis, score: float) -> float:
        return time_to_target(curve.times[axis], curve.scores, score, lower_is_better=self._lower)

    def _target(self, curves: Mapping[str, tuple[_Curve, ...]], score: float, how: str) -> Target:
        times: dict[Axis, dict[str, tuple[float, ...]]] = {
            axis: {name: tuple(self._time(curve, axis, score) for curve in found) for name, found in curves.items()}
            for axis in AXES
        }
        limit = {axis: max(c.times[axis][-1] for found in curves.values() for c in found if c.scores) for axis in AXES}
        summary: dict[Axis, dict[str, TargetTimes]] = {
            axis: {name: target_times(of, limit[axis]) for name, of in times[axis].items()} for axis in AXES
        }
        seeds = {name: tuple(curve.seed for curve in found) for name, found in curves.items()}
        return Target(score=score, how=how, seeds=seeds, summary=summary, times=times)

    @cached_property
    def rank_course(self) -> RankCourse | None:
        """The order of the optimizers over training; None with fewer than two optimizers or evaluated epochs.

        Blocks are the seeds of which every optimizer has a curve; runs that diverged or ran out of memory rank last
        throughout. Optimizers without either, and those stopped early, take no part.
        """
        by_seed = {row.optimizer: {curve.seed: curve.by_epoch() for curve in self._curves(row)} for row in self.rows}
        runs = {name: of for name, of in by_seed.items() if of and name not in self.stopped}
        if len(runs) < 2:
            return None
        seeds = sorted(frozenset.intersection(*(frozenset(of) for of in runs.values())))
        ended = [scores for of in runs.values() for seed in seeds if (scores := of[seed]) is not None]
        epochs = sorted(frozenset.intersection(*map(frozenset, ended))) if ended else []
        if len(epochs) < 2:
            return None
        sign = -1.0 if self._lower else 1.0
        x = np.array([[[_signed(of[seed], epoch, sign) for of in runs.values()] for seed in seeds] for epoch in epochs])
        names = tuple(runs)
        mean_rank = np.array([block_ranks(at_epoch).mean(axis=0) for at_epoch in x])
        flips = _flips(x, names, epochs, self.scores.grain)
        return RankCourse(epochs=tuple(epochs), names=names, mean_rank=mean_rank, flips=flips)

    def _curves(self, row: Row) -> Iterator[_Curve]:
        """The curves of a row's runs that ended by their own doing; an ok run whose curve is lost has none."""
        for record in row.records:
            own_failure = record.outcome in OWN_FAILURES
            if own_failure or record.outcome is Outcome.OK:
                curve = _curve(self.study, record, self.metric)
                if own_failure or curve.scores:
                    yield curve


def _signed(scores: Mapping[int, float] | None, epoch: int, sign: float) -> float:
    """The score, higher better; the worst for a run that failed."""
    return -np.inf if scores is None else sign * scores[epoch]


@dataclass(frozen=True, slots=True)
class _Curve:
    """One run's finite scores over epochs and each axis; none where the run failed or its curve is lost."""

    seed: int
    epochs: list[int]
    times: dict[Axis, list[float]]
    scores: list[float]

    def by_epoch(self) -> dict[int, float] | None:
        """The score at every evaluated epoch; None without any."""
        return dict(zip(self.epochs, self.scores, strict=True)) or None


def _curve(study: Study, record: RunRecord, metric: str) -> _Curve:
    ended = record.outcome is Outcome.OK
    points = [p for p in study.curves[record.run_id] if ended and math.isfinite(p.metrics.get(metric, math.nan))]
    times: dict[Axis, list[float]] = {
        "steps": [float(p.step) for p in points],
        "samples": [float(p.samples) for p in points],
        "seconds": [p.seconds.training for p in points],
    }
    if any(b <= a for times_of in times.values() for a, b in itertools.pairwise(times_of)):
        points = []  # no time can be read off a curve whose time does not rise
    scores = [p.metrics[metric] for p in points]
    return _Curve(seed=record.seed, epochs=[p.epoch for p in points], times=times, scores=scores)


def _flips(x: FloatArray, names: Sequence[str], epochs: Sequence[int], grain: float) -> tuple[Flip, ...]:
    """Pairs of x [epochs, seeds, k], higher better, whose order is resolved one way and later the other way.

    Paired t as in the verdict, with Holm's correction within each epoch; optimizers with a failed run take no part.
    """
    whole = [i for i in range(len(names)) if np.isfinite(x[:, :, i]).all()]
    first, second = (np.array(whole, int)[side] for side in np.triu_indices(len(whole), 1))
    if x.shape[1] < 2 or not len(first):
        return ()
    lead = np.zeros((len(epochs), len(first)))
    for at, scores in enumerate(x):
        test = paired_t(scores[:, first], scores[:, second], grain=grain)
        lead[at] = np.sign(test.difference) * (holm(test.p) <= ALPHA)
    flips = []
    for m in np.flatnonzero((lead.max(axis=0) > 0) & (lead.min(axis=0) < 0)):
        last = lead[np.flatnonzero(lead[:, m])[-1], m]
        a, b = names[int(first[m])], names[int(second[m])]
        late, early = (a, b) if last > 0 else (b, a)
        until = int(np.flatnonzero(lead[:, m] == -last)[-1])
        since = until + int(np.flatnonzero(lead[until:, m] == last)[0])
        flips.append(Flip(early, late, epochs[until], epochs[since]))
    return tuple(flips)


def _with_scores(study: Study) -> Study:
    """The study without the records that say ok and hold no finite score, which become faults."""
    metric, bad = study.protocol.primary_metric, dict[str, BadRecordError]()
    for record in study.records:
        score = record.metrics.get(metric, math.nan)
        if record.outcome is Outcome.OK and not abs(score) <= LARGEST:
            path = f"{study.path}/runs/{record.run_id}/run.json"
            bad[record.run_id] = BadRecordError(f"{path}: the run is ok and its {metric} is {score}")
    kept = tuple(record for record in study.records if record.run_id not in bad)
    return replace(study, records=kept, bad=(*study.bad, *bad.values())) if bad else study


def analyse(study: Study) -> Analysis:
    """The analysis of a study: of its tuned runs where there are any, with the default ones beside them.

    Runs that are ok without a score are left out, among the study's faults. Raises `UsageError` where there is nothing
    but trials.
    """
    study = _with_scores(study)
    if study.bad and not study.records and not study.trials:
        raise UsageError(f"study {study.name}: no run can be ranked; {study.bad[-1]}")
    if not study.records:
        raise UsageError(f"study {study.name}: {len(study.trials)} trials of searches and no run that ranks; "
                         "`bench run --lr tuned` makes them")  # fmt: skip
    rates = by_rates(study)
    return Analysis(rates.ranked, rates)
