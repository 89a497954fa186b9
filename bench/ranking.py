"""The verdict on scores: of a table from a file, or of a study's runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import UsageError
from bench.record import Outcome, RunRecord
from bench.score_table import LARGEST, read_scores
from bench.statistics.intervals import BoolArray, FloatArray
from bench.statistics.pairs import default_margin
from bench.statistics.verdict import Options, Verdict, verdict
from bench.suggestions import unknown
from bench.summary import bounds, is_rank, lower_is_better

if TYPE_CHECKING:
    from bench.protocol import Protocol
    from bench.study import Study  # brings torch, which a table needs not wait for

# What an optimizer brings upon itself is an outcome; what happens to a run otherwise leaves it missing.
OWN_FAILURES = (Outcome.DIVERGED, Outcome.OUT_OF_MEMORY)
HALF_A_POINT = 0.5  # of a percent metric: differences within it count as equivalent, where the test says so


def rank_table(
    path: Path,
    *,
    lower_is_better: bool = False,
    alpha: float = 0.05,
    reference: str | None = None,
    grain: float = 0.0,
    chance: float | None = None,
    margin: float | None = None,
) -> Verdict:
    """The verdict on a CSV file of scores (see `score_table`); diverged runs score `chance`, by default the worst.

    Raises `UsageError` where the file or an option is not allowed.
    """
    table = read_scores(path)
    if reference is not None and reference not in table.names:
        raise UsageError(f"--reference: {unknown('entry', reference, table.names)}")
    if chance is not None and not math.isfinite(chance):
        raise UsageError(f"--chance {chance}: allowed is a finite number")
    if chance is None:
        chance = float(np.nanmax(table.scores) if lower_is_better else np.nanmin(table.scores))
    options = Options(
        lower_is_better=lower_is_better, alpha=alpha, reference=reference, grain=grain, chance=chance, margin=margin
    )
    return verdict(table.scores, table.names, options, diverged=table.diverged)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyScores:
    """A study's primary metric: scores [seeds, names], NaN where a run has none.

    `diverged` marks the runs that failed by their optimizer, out of memory included: they score `chance`, which is the
    worst score of all where it is not known, None without any score. `grain` is the step of the scores.
    """

    metric: str
    names: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: FloatArray
    diverged: BoolArray
    chance: float | None
    grain: float
    lower_is_better: bool

    @property
    def complete(self) -> BoolArray:
        """[seeds]: those in which every optimizer has a score or has diverged."""
        return np.asarray(~(np.isnan(self.scores) & ~self.diverged).any(axis=1))

    @property
    def ended(self) -> tuple[str, ...]:
        """Those with a score or a diverged run; one without any would leave no seed complete."""
        some: list[bool] = np.any(~np.isnan(self.scores) | self.diverged, axis=0).tolist()
        return tuple(name for name, ended in zip(self.names, some, strict=True) if ended)

    def only(self, names: Sequence[str]) -> StudyScores:
        """These optimizers alone, in this order."""
        columns = [self.names.index(name) for name in names]
        scores, diverged = self.scores[:, columns], self.diverged[:, columns]
        return replace(self, names=tuple(names), scores=scores, diverged=diverged)

    @property
    def margin(self) -> float | None:
        """Within it differences count as equivalent; None for a rank, which has no percentage points."""
        return None if is_rank(self.metric) else default_margin(HALF_A_POINT, self.grain)


def study_scores(study: Study) -> StudyScores:
    """The study's runs as a table, names (labels) and seeds in rising order.

    An ok run without a finite score is missing; `require_scores` refuses it.
    """
    metric = study.protocol.primary_metric
    names = sorted({study.labels[r.run_id] for r in study.records})
    seeds = sorted({r.seed for r in study.records})
    scores, diverged = np.full((len(seeds), len(names)), np.nan), np.zeros((len(seeds), len(names)), bool)
    for record in study.records:
        place = seeds.index(record.seed), names.index(study.labels[record.run_id])
        diverged[place] = record.outcome in OWN_FAILURES
        if record.outcome is Outcome.OK and _usable(record, metric):
            scores[place] = record.metrics[metric]
    chance, lower = bounds(study, metric)[0], lower_is_better(metric)
    if chance is None and not np.isnan(scores).all():
        chance = float(np.nanmax(scores) if lower else np.nanmin(scores))
    return StudyScores(
        metric=metric, names=tuple(names), seeds=tuple(seeds), scores=scores, diverged=diverged, chance=chance,
        grain=recall_grain(study.protocol), lower_is_better=lower,
    )  # fmt: skip


def _usable(record: RunRecord, metric: str) -> bool:
    """Whether an ok run has a score; not NaN, and not so large that squares of differences overflow."""
    return abs(record.metrics.get(metric, math.nan)) <= LARGEST


def require_scores(study: Study) -> None:
    """Raise `UsageError` where a run that is ok has no finite score: it would be missing, and nobody would notice."""
    metric = study.protocol.primary_metric
    for record in study.records:
        if record.outcome is Outcome.OK and not _usable(record, metric):
            found = f"its {metric} is {record.metrics[metric]}" if metric in record.metrics else f"has no {metric}"
            raise UsageError(f"{study.path}/runs/{record.run_id}/run.json: the run is ok and {found}; allowed is a "
                             f"finite number, at most {LARGEST:g}")  # fmt: skip


def rank_study(study: Study) -> Verdict | None:
    """The verdict on a study's primary metric, of the optimizers with a run that ended; see `rank_scores`."""
    found = study_scores(study)
    return rank_scores(found.only(found.ended))


def rank_scores(found: StudyScores, *, alpha: float = 0.05, reference: str | None = None) -> Verdict | None:
    """The verdict on these scores; None with fewer than two optimizers or two seeds that all have finished.

    Diverged runs and those out of memory score chance; seeds with another failed or a missing run are left out.
    """
    if len(found.names) < 2 or found.complete.sum() < 2 or np.isnan(found.scores[found.complete]).all():
        return None
    options = Options(
        lower_is_better=found.lower_is_better, alpha=alpha, reference=reference, grain=found.grain,
        chance=found.chance, margin=found.margin,
    )  # fmt: skip
    return verdict(found.scores, found.names, options, diverged=found.diverged)


def recall_grain(protocol: Protocol) -> float:
    """The step of the primary metric: of a mean over queries, or of a median of whole ranks.

    A percent metric moves by a query of one direction, a mean rank by a rank of one query; an average has a query for
    every direction.
    """
    metric, queries = protocol.primary_metric, protocol.workload.dataset_options.get("test")
    if metric.endswith("median_rank"):
        return 1.0
    if not isinstance(queries, int):
        return 0.0
    modalities = len(protocol.workload.modalities)
    directions = modalities * (modalities - 1) if metric.startswith("avg_") else 1
    return (1 if is_rank(metric) else 100) / (queries * directions)
