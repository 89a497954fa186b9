"""What a technique does to each optimizer, and whether it changes which optimizer wins: one study with, one without."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from bench.comparison import Comparison, compare_studies
from bench.ranking import StudyScores, study_scores
from bench.statistics.intervals import FloatArray
from bench.statistics.pairs import holm, paired_t
from bench.study import Study

TECHNIQUES = ("techniques.",)  # keys of a protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class GainDifference:
    """`more` gains significantly more from the technique than `less`: by `difference` points, of n seeds."""

    more: str
    less: str
    n: int
    difference: float
    ci95: tuple[float, float]
    p_holm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """A technique's effects: A is the study without it, B the one with it, on the same seeds.

    gains_differ: the pairs of optimizers whose gains differ, by paired t on the differences of their differences, Holm
    over all pairs; gains_tested: how many pairs there are.
    """

    technique: str
    comparison: Comparison
    gains_differ: tuple[GainDifference, ...]
    gains_tested: int

    def to_json(self) -> dict[str, Any]:
        """Plain data, the fields as named here."""
        gains = [json.loads(json.dumps(dataclasses.asdict(gain))) for gain in self.gains_differ]
        return {"technique": self.technique, "comparison": self.comparison.to_json(), "gains_differ": gains,
                "gains_tested": self.gains_tested}  # fmt: skip


def ablation(technique: str, without: Study, with_it: Study, *, alpha: float = 0.05) -> Ablation:
    """The effect of `technique`, by which alone the two studies' protocols differ.

    Raises `UsageError` as `compare_studies` does.
    """
    comparison = compare_studies(without, with_it, alpha=alpha, may_differ=TECHNIQUES)
    names, gains = _gains(study_scores(without), study_scores(with_it))
    pairs = list(combinations(range(len(names)), 2)) if len(gains) > 1 else []
    return Ablation(
        technique=technique, comparison=comparison, gains_tested=len(pairs),
        gains_differ=_differing(names, gains, pairs, alpha, comparison.lower_is_better, study_scores(without).grain),
    )  # fmt: skip


def _gains(a: StudyScores, b: StudyScores) -> tuple[list[str], FloatArray]:
    """Of the optimizers with a run that ended in both, B − A on the seeds that all of them finished, [seeds, names]."""
    names = [name for name in a.ended if name in b.ended]
    seeds = [seed for seed in a.seeds if seed in b.seeds]
    both = []
    for scores in (a.only(names), b.only(names)):
        rows = [scores.seeds.index(seed) for seed in seeds]
        chance = np.nan if scores.chance is None else scores.chance
        both.append(np.where(scores.diverged[rows], chance, scores.scores[rows]))
    gains = both[1] - both[0]
    return names, gains[~np.isnan(gains).any(axis=1)]


def _differing(
    names: list[str], gains: FloatArray, pairs: list[tuple[int, int]], alpha: float, lower: bool, grain: float
) -> tuple[GainDifference, ...]:
    if not pairs:
        return ()
    first, second = (gains[:, list(side)] for side in zip(*pairs, strict=True))
    test = paired_t(first, second, grain=grain * np.sqrt(2))  # each gain is a difference of two rounded numbers
    found = []
    for k, ((i, j), p) in enumerate(zip(pairs, holm(test.p).tolist(), strict=True)):
        if p <= alpha:
            more, less = (i, j) if (test.difference[k] > 0) != lower else (j, i)
            sign = 1 if test.difference[k] > 0 else -1
            low, high = sorted((sign * float(test.low[k]), sign * float(test.high[k])))
            found.append(GainDifference(
                more=names[more], less=names[less], n=test.n, difference=abs(float(test.difference[k])),
                ci95=(low, high), p_holm=p,
            ))  # fmt: skip
    return tuple(sorted(found, key=lambda gain: (gain.p_holm, -gain.difference)))
