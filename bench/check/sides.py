"""Two snapshots side by side: their runs paired by optimizer and seed, as arrays for the gates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.check.gates import Sides
from bench.check.snapshot import KeptRun, Snapshot
from bench.ranking import OWN_FAILURES
from bench.record import Environment, Outcome
from bench.statistics.intervals import BoolArray, FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPair:
    """One optimizer's run of one seed on both sides.

    `repeatable`: equal code gives equal bits there. `same_hardware`: on one kind of machine, so that seconds compare.
    """

    baseline: KeptRun
    candidate: KeptRun
    repeatable: bool
    same_hardware: bool


def run_pairs(baseline: Snapshot, candidate: Snapshot) -> list[RunPair]:
    """The runs that both sides have, in the baseline's order."""
    after = {(run.optimizer, run.seed): run for run in candidate.runs}
    found = [(run, after[run.optimizer, run.seed]) for run in baseline.runs if (run.optimizer, run.seed) in after]
    places = [(baseline.place(before), candidate.place(now)) for before, now in found]
    return [
        RunPair(baseline=before, candidate=now, repeatable=repeatable(a, b), same_hardware=hardware(a) == hardware(b))
        for (before, now), (a, b) in zip(found, places, strict=True)
    ]


def repeatable(a: Environment | None, b: Environment | None) -> bool:
    """Whether two runs of the same code are equal bit for bit: one platform, and a device that repeats itself."""
    if a is None or b is None or platform(a) != platform(b):
        return False
    return a.device == "cpu" or (a.deterministic and b.deterministic)


def platform(place: Environment) -> dict[str, str]:
    """What the bits of a run depend on besides this project's code."""
    versions = {key: value for key, value in place.versions.items() if key != "optimizer-bench"}
    return versions | hardware(place) | {"driver": str(place.driver)}


def hardware(place: Environment | None) -> dict[str, str]:
    """The machine as far as it is known."""
    if place is None:
        return {}
    return {"device": place.device, "processor": place.processor, "threads": str(place.threads)}


def score_sides(baseline: Snapshot, candidate: Snapshot) -> Sides:
    """The primary metric of the optimizers that both have, the baseline's best first; all seeds of either."""
    chance = baseline.metric.chance if baseline.metric.chance is not None else candidate.metric.chance
    common = [name for name in baseline.names if name in candidate.names]
    seeds = sorted({run.seed for run in (*baseline.runs, *candidate.runs)})
    b, b_failed = _scores(baseline, common, seeds, chance)
    c, c_failed = _scores(candidate, common, seeds, chance)
    means = [_mean(b[:, j]) for j in range(len(common))]
    by_rank = sorted(range(len(common)), key=lambda j: (-means[j], common[j]))
    return Sides(
        names=tuple(common[j] for j in by_rank),
        seeds=tuple(seeds),
        baseline=b[:, by_rank],
        candidate=c[:, by_rank],
        baseline_failed=b_failed[:, by_rank],
        candidate_failed=c_failed[:, by_rank],
        grain=baseline.metric.grain,
    )


def _mean(column: FloatArray) -> float:
    known = column[np.isfinite(column)]
    return float(known.mean()) if len(known) else -math.inf


def _scores(
    snap: Snapshot, names: Sequence[str], seeds: Sequence[int], chance: float | None
) -> tuple[FloatArray, BoolArray]:
    """Scores [n, k], higher better, and where the run failed by its optimizer."""
    sign = -1.0 if snap.metric.lower_is_better else 1.0
    scores, failed = np.full((len(seeds), len(names)), np.nan), np.zeros((len(seeds), len(names)), bool)
    row, column = {seed: i for i, seed in enumerate(seeds)}, {name: j for j, name in enumerate(names)}
    for run in snap.runs:
        if run.optimizer not in column:
            continue
        place = row[run.seed], column[run.optimizer]
        failed[place] = run.outcome in OWN_FAILURES
        if run.outcome is Outcome.OK:
            scores[place] = sign * run.metrics[snap.metric.name]
        elif failed[place] and chance is not None:
            scores[place] = sign * chance
    return scores, failed
