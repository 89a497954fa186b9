"""The time-to-target score of a set of submissions on several workloads, and what it is worth.

For every submission and workload there are studies, each of some trials, each with its time to the target ("inf" where
it was missed). A study's time is its best trial's, a workload's the median over studies, with misses taking part. A
submission's score is the integral of its performance profile: the mean over workloads of max(0, r_max - r)/(r_max - 1),
r the ratio to the workload's best submission. Dahl et al. 2023, https://arxiv.org/abs/2306.07179; here without a grid.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import UsageError
from bench.statistics.targets import profile_scores
from bench.wording import percent

RESAMPLES = 2000
FloatArray = NDArray[np.float64]
Studies = Mapping[str, Mapping[str, Sequence[Sequence[float]]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionScore:
    """One submission: its score, a 95 % bootstrap interval over studies, and the share of resamples in which it leads.

    Both are None where any entry has a single study on a workload: of one there is nothing to resample. `times`: its
    time on every workload, infinite where the median study missed the target.
    """

    name: str
    score: float
    ci95: tuple[float, float] | None
    first: float | None
    times: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeScores:
    """Submissions by falling score. `flips`: what removing an entry does to the order of the others, if anything."""

    r_max: float
    workloads: tuple[str, ...]
    submissions: tuple[SubmissionScore, ...]
    flips: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data; an infinite time is "inf", as in the input."""
        content = dataclasses.asdict(self)
        for submission in content["submissions"]:
            submission["times"] = {k: t if math.isfinite(t) else "inf" for k, t in submission["times"].items()}
        return content


def read_studies(path: Path) -> dict[str, dict[str, list[list[float]]]]:
    """The file's times; raises `UsageError` naming the place of what is not allowed."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not readable as JSON: {error}") from None
    if not (isinstance(content, dict) and content):
        raise UsageError(f"{path}: allowed is {{submission: {{workload: [[time of each trial] per study]}}}}")
    studies = {name: _workloads(path, name, workloads) for name, workloads in content.items()}
    first, *others = studies
    for name in others:
        if differing := sorted(set(studies[first]) ^ set(studies[name])):
            raise UsageError(
                f"{path}: {first} and {name} do not have the same workloads: {differing[0]!r} is in one only"
            )
    return studies


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the file, in which JSON itself would let the last of two equal names win."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _workloads(path: Path, submission: str, workloads: Any) -> dict[str, list[list[float]]]:
    if not (isinstance(workloads, dict) and workloads):
        raise UsageError(f"{path}, {submission}: allowed is {{workload: [[time of each trial] per study]}}")
    found = {}
    for workload, studies in workloads.items():
        place = f"{path}, {submission}, {workload}"
        if not (isinstance(studies, list) and studies and all(isinstance(study, list) and study for study in studies)):
            raise UsageError(f"{place}: allowed is a list of studies, each a list of times")
        found[workload] = [[_time(place, i, time) for time in study] for i, study in enumerate(studies)]
    return found


def _time(place: str, study: int, value: Any) -> float:
    if value == "inf":
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UsageError(f'{place}, study {study}: time is {value!r}; allowed are numbers > 0 and "inf"')
    return float(value)


def _scores(times: FloatArray, r_max: float) -> FloatArray:
    return profile_scores(times, r_max).mean(axis=0)


def score_studies(studies: Studies, r_max: float = 4.0, *, seed: int = 0) -> TimeScores:
    """Scores of all submissions with intervals from resampling each one's studies on each workload."""
    if not 1 < r_max < math.inf:
        raise UsageError(f"--r-max {r_max:g}: allowed is a finite number > 1")
    names, workloads = list(studies), list(next(iter(studies.values())))
    best = [[np.array([min(study) for study in studies[name][workload]]) for name in names] for workload in workloads]
    times = np.array([[_median(x) for x in row] for row in best])  # [workloads, k]
    scores = _scores(times, r_max)
    uncertain = _resampled(best, r_max, np.random.default_rng(seed))
    order = sorted(range(len(names)), key=lambda i: (-scores[i], names[i]))
    return TimeScores(
        r_max=r_max,
        workloads=tuple(workloads),
        submissions=tuple(
            SubmissionScore(
                name=names[i], score=float(scores[i]), ci95=uncertain and uncertain[0][i],
                first=uncertain and uncertain[1][i],
                times={workload: float(times[w, i]) for w, workload in enumerate(workloads)},
            )
            for i in order
        ),
        flips=tuple(_flips(names, times, order, r_max)),
    )  # fmt: skip


def _resampled(
    best: Sequence[Sequence[FloatArray]], r_max: float, rng: np.random.Generator
) -> tuple[list[tuple[float, float]], list[float]] | None:
    """Intervals and shares of the first place by resampling studies, `best` [workloads][k]; None with single ones."""
    if any(len(x) < 2 for row in best for x in row):
        return None
    times = np.array([[_median(rng.choice(x, (RESAMPLES, len(x)))) for x in row] for row in best])
    draws = np.array([_scores(times[..., i], r_max) for i in range(RESAMPLES)])  # [resamples, k]
    leads = draws == draws.max(axis=1, keepdims=True)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    intervals = list(zip(low.tolist(), high.tolist(), strict=True))
    return intervals, (leads / leads.sum(axis=1, keepdims=True)).mean(axis=0).tolist()


def _median(x: FloatArray) -> FloatArray:
    """Over the last axis, misses taking part: infinite where one of the middle two of an even number is."""
    n = x.shape[-1]
    return np.sort(x)[..., [(n - 1) // 2, n // 2]].mean(axis=-1)


def _flips(names: Sequence[str], times: FloatArray, order: Sequence[int], r_max: float) -> list[str]:
    """A line for every entry whose removal changes the order of the others: ratios are to the best that is there."""
    lines = []
    for gone in order:
        rest = [i for i in order if i != gone]
        scores = dict(zip(rest, _scores(times[:, rest], r_max), strict=True)) if rest else {}
        for above, below in itertools.pairwise(rest):
            if scores[below] > scores[above]:
                lines.append(f"without {names[gone]}, {names[below]} stands above {names[above]}")
    return lines


def table(found: TimeScores) -> Any:
    """For the terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    shown.add_column("submission", overflow="fold")
    for heading in ("score", "95 %", "P(first)", "missed"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for each in found.submissions:
        missed = sum(math.isinf(t) for t in each.times.values())
        interval = "–" if each.ci95 is None else f"{each.ci95[0]:.3f} to {each.ci95[1]:.3f}"
        shown.add_row(Text(each.name), f"{each.score:.3f}", interval,
                      "–" if each.first is None else percent(each.first), f"{missed} of {len(each.times)}")  # fmt: skip
    order = "; ".join(found.flips) or "the order of the others stays the same whichever entry is removed"
    how = "by resampling studies, which are few: a lower bound of the uncertainty"
    if found.submissions[0].ci95 is None:
        how = "need two studies or more of every entry on every workload, and are not known"
    legend = (f"score: area under the performance profile up to {found.r_max:g} × the best time; intervals and "
              f"P(first) {how}")  # fmt: skip
    return Group(shown, Text(f"Leave one out: {order}."), Text(legend, style="dim"))
