"""Courses of training that ask for a look: losses that rise or stand still, scores no better than chance, slow epochs.

The limits are rules of thumb, no tests; a line says what was seen, not why.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from bench.record import CurvePoint, RunRecord
from bench.statistics.intervals import t_quantile
from bench.wording import counted, seeds_text

if TYPE_CHECKING:
    from bench.study import Study
    from bench.summary import Row

FEWEST_EPOCHS = 6  # of a curve of which anything is said
FEWEST_SEEDS = 3  # of an interval
RISE = 1.5  # × the lowest loss of an epoch before
STILL = 0.02  # of the way from the first loss to the best possible one, in the second half
FAR = 0.5  # of that way is still to go
SLOW = 3.0  # × the run's median epoch


def courses(study: Study, table: Sequence[Row]) -> list[str]:
    """A line for each kind and optimizer, with the seeds in which it was seen."""
    kinds: dict[str, Callable[[RunRecord, Sequence[CurvePoint]], bool]] = {
        f"the loss of an epoch rose to over {RISE:g} × the lowest before": _rose,
        "the loss stands still in the second half, far from the best possible": _stood_still,
        f"an epoch took over {SLOW:g} × the median of its run": _slowed,
    }
    if study.protocol.workload.kind == "continual":  # the next task's loss is high at first
        kinds = {what: seen for what, seen in kinds.items() if seen is _slowed}
    lines = []
    for row in table:
        curves = {r.seed: (r, study.curves.get(r.run_id, ())) for r in row.records}
        long = {seed: found for seed, found in curves.items() if len(found[1]) >= FEWEST_EPOCHS}
        for what, seen in kinds.items():
            if seeds := [seed for seed, (record, curve) in long.items() if seen(record, curve)]:
                lines.append(f"{row.optimizer}: {what} in {seeds_text(seeds)}")
        lines += _at_chance(row, study.protocol.primary_metric)
    return lines


def _rose(record: RunRecord, curve: Sequence[CurvePoint]) -> bool:
    del record
    lowest = math.inf
    for point in curve:
        if point.loss > RISE * lowest:
            return True
        lowest = min(lowest, point.loss)
    return False


def _stood_still(record: RunRecord, curve: Sequence[CurvePoint]) -> bool:
    if record.best_loss is None:
        return False
    first, middle, last = curve[0].loss, curve[len(curve) // 2].loss, curve[-1].loss
    way = first - record.best_loss
    return middle - last < STILL * way and last - record.best_loss > FAR * way


def _slowed(record: RunRecord, curve: Sequence[CurvePoint]) -> bool:
    del record
    behind = [0.0, *(point.seconds.training for point in curve)]
    epochs = [after - before for before, after in pairwise(behind)]
    typical = statistics.median(epochs)
    return max(epochs[1:]) > SLOW * typical > 0


def _at_chance(row: Row, metric: str) -> list[str]:
    """Where chance lies within the mean's interval, or above it."""
    scores: Mapping[int, float] = {r.seed: r.metrics[metric] for r in row.ok if metric in r.metrics}
    chance = next((r.chance[metric] for r in row.ok if metric in r.chance), None)
    if chance is None or len(scores) < FEWEST_SEEDS or metric.endswith("_rank"):
        return []
    mean, spread = statistics.mean(scores.values()), statistics.stdev(scores.values())
    low = mean - t_quantile(len(scores), 0.975) * spread / math.sqrt(len(scores))
    if low > chance:
        return []
    return [f"{row.optimizer}: {metric} {mean:.2f} over {counted(len(scores), 'seed')} is not above chance "
            f"({chance:.2f}), as far as its 95 % interval tells"]  # fmt: skip
