"""What is computed of a study once and shown in several places: rows, verdict, times to a target, course of ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np

from bench.ranking import OWN_FAILURES, rank_study
from bench.record import Outcome, RunRecord
from bench.statistics.intervals import FloatArray
from bench.statistics.ranks import block_ranks
from bench.statistics.targets import TargetTimes, target_times, time_to_target
from bench.statistics.verdict import Verdict
from bench.study import Study
from bench.summary import Row, bounds, lower_is_better, rows

Axis: TypeAlias = Literal["steps", "samples", "seconds"]
AXES: tuple[Axis, ...] = ("steps", "samples", "seconds")
LEVELS = 8  # targets stand at eighths of the way from chance to the ceiling


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A score to reach, and by optimizer (label) the summary of its runs' times on each axis.

    `times[axis][label]` are the runs' times, infinite where not reached, in the order of the row's records that ended.
    """

    score: float
    how: str
    summary: dict[Axis, dict[str, TargetTimes]]
    times: dict[Axis, dict[str, tuple[float, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCourse:
    """Mean rank over seeds [epochs, optimizers] of the primary metric at every epoch that all ended runs evaluated."""

    epochs: tuple[int, ...]
    names: tuple[str, ...]
    mean_rank: FloatArray


@dataclass(frozen=True)
class Analysis:
    """A study and what its report needs of it; every part is computed on first use."""

    study: Study

    @property
    def metric(self) -> str:
        """The primary metric."""
        return self.study.protocol.primary_metric

    @cached_property
    def rows(self) -> list[Row]:
        """One row an optimizer, the best first."""
        return rows(self.study)

    @cached_property
    def verdict(self) -> Verdict | None:
        """What the runs support; None where there is nothing to compare."""
        return rank_study(self.study)

    @cached_property
    def target(self) -> Target | None:
        """Times to a score between chance and ceiling; None where chance is not known or no curve holds the metric.

        The score is the highest eighth of that way that half of the optimizers reach in half of their runs, else the
        lowest eighth. A run that diverged or ran out of memory never reaches it; other failed runs are left out.
        """
        chance, ceiling = bounds(self.study, self.metric)
        curves = {row.optimizer: tuple(_curve(self.study, r, self.metric) for r in _counted(row)) for row in self.rows}
        curves = {name: found for name, found in curves.items() if found}
        if chance is None or not any(curve.scores for found in curves.values() for curve in found):
            return None
        top = ceiling if ceiling is not None else 1.0 if self._lower else 100.0
        levels = [chance + (top - chance) * step / LEVELS for step in range(LEVELS - 1, 0, -1)]
        for step, score in zip(range(LEVELS - 1, 0, -1), levels, strict=True):
            times = {name: [self._time(curve, "steps", score) for curve in found] for name, found in curves.items()}
            half = sum(np.isfinite(np.median(of)) for of in times.values()) >= len(times) / 2
            if half or step == 1:
                return self._target(curves, score, f"{step}/{LEVELS} of the way from chance to the "
                                    f"{'ceiling' if ceiling is not None else 'best value possible'}")  # fmt: skip
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
        return Target(score=score, how=how, summary=summary, times=times)

    @cached_property
    def rank_course(self) -> RankCourse | None:
        """The order of the optimizers over training; None with fewer than two optimizers or evaluated epochs.

        Blocks are the seeds that every optimizer has; runs that diverged or ran out of memory rank last throughout.
        """
        seeds = sorted(frozenset.intersection(*(frozenset(r.seed for r in _counted(row)) for row in self.rows)))
        by_epoch = [{r.seed: self._by_epoch(r) for r in _counted(row)} for row in self.rows]
        ended = [scores for runs in by_epoch for seed, scores in runs.items() if seed in seeds and scores is not None]
        epochs = sorted(frozenset.intersection(*map(frozenset, ended))) if ended else []
        if len(self.rows) < 2 or not seeds or len(epochs) < 2:
            return None
        worst = np.inf if self._lower else -np.inf
        sign = -1.0 if self._lower else 1.0
        mean_rank = [
            block_ranks([
                [sign * (scores[epoch] if (scores := runs[seed]) is not None else worst) for runs in by_epoch]
                for seed in seeds
            ]).mean(axis=0)
            for epoch in epochs
        ]  # fmt: skip
        names = tuple(row.optimizer for row in self.rows)
        return RankCourse(epochs=tuple(epochs), names=names, mean_rank=np.array(mean_rank))

    def _by_epoch(self, record: RunRecord) -> dict[int, float] | None:
        """The metric at every evaluated epoch; None for a run that failed by its optimizer."""
        if record.outcome is not Outcome.OK:
            return None
        return {p.epoch: p.metrics[self.metric] for p in self.study.curves[record.run_id] if self.metric in p.metrics}


def _counted(row: Row) -> tuple[RunRecord, ...]:
    """The runs that ended by their own doing."""
    return tuple(r for r in row.records if r.outcome is Outcome.OK or r.outcome in OWN_FAILURES)


@dataclass(frozen=True, slots=True)
class _Curve:
    """One run's metric over each axis; without scores where the run failed or holds none."""

    times: dict[Axis, list[float]]
    scores: list[float]


def _curve(study: Study, record: RunRecord, metric: str) -> _Curve:
    ended = record.outcome is Outcome.OK
    points = [p for p in study.curves[record.run_id] if ended and metric in p.metrics]
    times: dict[Axis, list[float]] = {
        "steps": [float(p.step) for p in points],
        "samples": [float(p.samples) for p in points],
        "seconds": [p.seconds.training for p in points],
    }
    return _Curve(times=times, scores=[p.metrics[metric] for p in points])
