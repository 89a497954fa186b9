"""The verdict on scores: of a table from a file, or of a study's runs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from bench.errors import UsageError
from bench.record import Outcome
from bench.score_table import read_scores
from bench.statistics.pairs import default_margin
from bench.statistics.verdict import Options, Verdict, verdict
from bench.study import Study
from bench.suggestions import unknown
from bench.summary import bounds, lower_is_better

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


def rank_study(study: Study) -> Verdict | None:
    """The verdict on a study's primary metric; None with fewer than two optimizers or two seeds that all have finished.

    Diverged runs and those out of memory score chance; seeds with another failed or a missing run are left out.
    """
    metric = study.protocol.primary_metric
    names = sorted({study.labels[r.run_id] for r in study.records})
    seeds = sorted({r.seed for r in study.records})
    scores, diverged = np.full((len(seeds), len(names)), np.nan), np.zeros((len(seeds), len(names)), bool)
    for record in study.records:
        place = seeds.index(record.seed), names.index(study.labels[record.run_id])
        diverged[place] = record.outcome in OWN_FAILURES
        if record.outcome is Outcome.OK:
            scores[place] = record.metrics[metric]
    complete = ~(np.isnan(scores) & ~diverged).any(axis=1)
    if len(names) < 2 or complete.sum() < 2 or np.isnan(scores[complete]).all():
        return None
    chance, lower = bounds(study, metric)[0], lower_is_better(metric)
    if chance is None:
        chance = float(np.nanmax(scores) if lower else np.nanmin(scores))
    grain = 0.0 if lower else _grain(study, metric)
    margin = None if lower else default_margin(HALF_A_POINT, grain)
    options = Options(lower_is_better=lower, chance=chance, grain=grain, margin=margin)
    return verdict(scores, names, options, diverged=diverged)


def _grain(study: Study, metric: str) -> float:
    """The step of a percent metric: a query of one direction; an average has one for every direction."""
    queries = study.protocol.workload.dataset_options.get("test")
    if not isinstance(queries, int):
        return 0.0
    modalities = len(study.protocol.workload.modalities)
    directions = modalities * (modalities - 1) if metric.startswith("avg_") else 1
    return 100 / (queries * directions)
