"""How many seeds a comparison takes, from the spread of paired differences that a study or a table has shown."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from bench.errors import UsageError
from bench.ranking import rank_scores, rank_table, require_scores, study_scores
from bench.statistics.intervals import CONFIDENCE
from bench.statistics.pairs import smallest_sign_flip_p
from bench.statistics.power import minimal_effect, seeds_needed
from bench.statistics.verdict import PairVerdict, Verdict
from bench.suggestions import unknown
from bench.summary import is_rank

if TYPE_CHECKING:
    from bench.study import Study  # brings torch, which a table needs not wait for

SEEDS = (3, 4, 5, 6, 7, 8, 10, 15, 20)
MOST_PAIRS = 100  # whose seeds are worked out


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be found: a `difference`, with this power at this family-wise error; `reference`: against it alone."""

    alpha: float = 0.05
    power: float = 0.8
    difference: float | None = None
    reference: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Detectable:
    """The least difference that n seeds find with the given power, by number of comparisons.

    `median` at the median spread of the pairs, `worst` at the largest. smallest_sign_flip_p: the least p of a sign-flip
    or Wilcoxon test. hours: of runs one after the other, for the seeds beyond the observed; None where times are not
    known.
    """

    n: int
    median: dict[int, float]
    worst: dict[int, float]
    smallest_sign_flip_p: float
    hours: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPair:
    """Two entries not told apart, and the seeds that tell them apart if the true difference is the observed one, or the
    one asked about; None where 100,000 seeds do not, as for no difference, or where none is asked about.
    """

    a: str
    b: str
    difference: float
    sd: float
    for_observed: int | None
    for_asked: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedPlan:
    """What n_seeds have shown and what more would.

    left_out: entries with a diverged run, whose spread is of failures; they take part in the number of comparisons.
    families: what each number of comparisons stands for. median_sd, worst_sd: of paired differences, worst_pair: whose.
    sd_factor: the 95 % interval of a true sd, in units of one estimated from so many seeds. seeds_for_difference: for
    the one asked about, at the median and the worst spread, in the largest family. seconds_per_seed: of all runs.
    """

    n_seeds: int
    entries: int
    left_out: tuple[str, ...]
    question: Question
    unit: str
    families: dict[int, str]
    median_sd: float
    worst_sd: float
    worst_pair: tuple[str, str]
    sd_factor: tuple[float, float]
    table: tuple[Detectable, ...]
    seeds_for_difference: tuple[int | None, int | None] | None
    open_pairs: tuple[OpenPair, ...]
    more_open_pairs: int
    seconds_per_seed: float | None

    @property
    def comparisons(self) -> int:
        """Of the family that the pairs are judged in: all pairs, or all against the reference."""
        return max(self.families)

    def to_json(self) -> dict[str, Any]:
        """Plain data, the fields as named here; numbers of comparisons are keys in text."""
        content = dataclasses.asdict(self)
        content["families"] = {str(m): name for m, name in self.families.items()}
        for row in content["table"]:
            row |= {of: {str(m): value for m, value in row[of].items()} for of in ("median", "worst")}
        return content


def plan_for_table(path: Path, question: Question) -> SeedPlan:
    """The plan from a CSV file of scores (see `score_table`). Raises `UsageError` where it does not allow one."""
    found = rank_table(path, alpha=question.alpha, reference=question.reference)
    return plan_seeds(found, question, str(path))


def plan_for_study(study: Study, question: Question) -> SeedPlan:
    """The plan from a study's primary metric. Raises `UsageError` where it does not allow one."""
    require_scores(study)
    scores, reference, source = study_scores(study), question.reference, f"study {study.path}"
    if reference is not None and reference not in scores.names:
        raise UsageError(f"--reference: {unknown('optimizer', reference, scores.names)}")
    found = rank_scores(scores, alpha=question.alpha, reference=reference)
    if found is None:
        raise UsageError(f"{source}: optimizers {len(scores.names)}, seeds that all of them finished "
                         f"{int(scores.complete.sum())}; a spread of differences needs 2 of each")  # fmt: skip
    unit = "ranks" if is_rank(scores.metric) else "points"
    return plan_seeds(found, question, source, unit=unit, seconds=_seconds_per_seed(study))


def _seconds_per_seed(study: Study) -> float | None:
    """All runs of a seed, from each optimizer's mean; None where a run has no time."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for record in study.records:
        seconds[study.labels[record.run_id]].append(record.seconds.total)
    total = sum(math.fsum(of) / len(of) for of in seconds.values())
    return total if all(min(of) > 0 for of in seconds.values()) else None


def plan_seeds(
    found: Verdict, question: Question, source: str, *, unit: str = "", seconds: float | None = None
) -> SeedPlan:
    """The plan from a verdict's pairs; `seconds` is what one more seed of all entries takes.

    Raises `UsageError`, with `source` where fewer than two entries are without a diverged run.
    """
    if question.power <= question.alpha:
        raise UsageError(f"--power {question.power:g}: allowed are numbers above --alpha {question.alpha:g}, below 1")
    left_out = tuple(entry.name for entry in found.entries if not entry.reliable)
    pairs = [pair for pair in found.pairs if pair.sd is not None and not {pair.a, pair.b} & set(left_out)]
    if not pairs:
        raise UsageError(f"{source}: no pair of entries without a diverged run; a spread of differences needs one")
    spread = [pair.sd or 0.0 for pair in pairs]
    worst = int(np.argmax(spread))
    median_sd, worst_sd = float(np.median(spread)), spread[worst]
    families = _families(len(found.entries), question.reference)
    undecided = [pair for pair in pairs if not pair.significant]
    return SeedPlan(
        n_seeds=found.n_seeds, entries=len(found.entries), left_out=left_out, question=question, unit=unit,
        families=families, median_sd=median_sd, worst_sd=worst_sd, worst_pair=(pairs[worst].a, pairs[worst].b),
        sd_factor=_sd_factor(found.n_seeds),
        table=tuple(
            _detectable(n, families, median_sd, worst_sd, question, None if seconds is None else
                        max(0, n - found.n_seeds) * seconds / 3600)
            for n in sorted({*SEEDS, found.n_seeds})
        ),
        seeds_for_difference=None if question.difference is None else (
            _needed(question.difference, median_sd, question, families),
            _needed(question.difference, worst_sd, question, families),
        ),
        open_pairs=tuple(_open_pair(pair, question, families) for pair in undecided[:MOST_PAIRS]),
        more_open_pairs=max(0, len(undecided) - MOST_PAIRS),
        seconds_per_seed=seconds,
    )  # fmt: skip


def _families(k: int, reference: str | None) -> dict[int, str]:
    """What numbers of comparisons among k entries stand for; of equal numbers the first."""
    families = {1: "one comparison"}
    families.setdefault(k - 1, f"{k - 1} comparisons with {reference or 'a reference'}")
    if reference is None:
        families.setdefault(k * (k - 1) // 2, f"all {k * (k - 1) // 2} pairs")
    return families


def _sd_factor(n: int) -> tuple[float, float]:
    """√((n − 1) / χ²) at both ends of the confidence."""
    tails = (1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2
    low, high = (math.sqrt((n - 1) / (2 * special.gammaincinv((n - 1) / 2, tail))) for tail in tails)
    return low, high


def _detectable(
    n: int, families: dict[int, str], median_sd: float, worst_sd: float, question: Question, hours: float | None
) -> Detectable:
    effects = {m: minimal_effect(n, m, alpha=question.alpha, power=question.power) for m in families}
    return Detectable(
        n=n,
        median={m: effect * median_sd for m, effect in effects.items()},
        worst={m: effect * worst_sd for m, effect in effects.items()},
        smallest_sign_flip_p=smallest_sign_flip_p(n),
        hours=hours,
    )


def _needed(difference: float, sd: float, question: Question, families: dict[int, str]) -> int | None:
    """Seeds that find the difference in the largest family."""
    if not sd > 0:
        return None
    return seeds_needed(difference / sd, max(families), alpha=question.alpha, power=question.power)


def _open_pair(pair: PairVerdict, question: Question, families: dict[int, str]) -> OpenPair:
    sd, asked = pair.sd or 0.0, question.difference
    return OpenPair(
        a=pair.a,
        b=pair.b,
        difference=pair.difference,
        sd=sd,
        for_observed=_needed(pair.difference, sd, question, families),
        for_asked=None if asked is None else _needed(asked, sd, question, families),
    )
