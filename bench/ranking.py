"""The verdict on tables of scores."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from bench.errors import UsageError
from bench.score_table import read_scores
from bench.statistics.verdict import Options, Verdict, verdict
from bench.suggestions import unknown


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
