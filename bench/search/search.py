"""The search of one optimizer's settings: which trials to run, given the results of earlier ones.

A trial is one setting on all tuning seeds. The same settings and results give the same trials, in whatever order
results come and however often the process is killed: results count in the order of the trials' numbers, and every
suggestion is drawn by a sampler seeded with its number. Nothing is stored but the runs' own records.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Literal

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from bench.search.plan import RATE, Sampler
from bench.search.space import DECADES, Side, Space, grid_points, sobol_points

Stage = Literal["rung", "shared", "adaptive", "widened"]
INDEPENDENT: tuple[Sampler, ...] = ("sobol", "grid")  # whose trials do not depend on results
MAX_WIDENINGS = 2
DIVERGED = "diverged"  # the constraint: how many of a trial's runs diverged


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One setting to be tried, in the order of its number."""

    number: int
    values: dict[str, float]
    stage: Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A trial's mean over its tuning seeds, diverged runs at chance; None where a run failed by no fault of its own."""

    validation: float | None
    test: float | None
    diverged: int


@dataclass(slots=True)
class Search:
    """Trials and results of one optimizer; `ask` says what can run now, `tell` what came of it.

    With `rung` the shared points first run a short, complete schedule (`rung_trials`), and the better half of them the
    full one: nothing is ever stopped inside a decaying schedule, whose scores at different rates cannot be compared.
    """

    space: Space
    budget: int
    sampler: Sampler
    seed: int
    lower_is_better: bool = False
    rung: bool = False
    trials: list[Trial] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)  # of the first trials, in their order
    rung_trials: list[Trial] = field(default_factory=list)
    rung_scores: dict[int, Score] = field(default_factory=dict)
    widenings: int = 0
    _early: dict[int, Score] = field(default_factory=dict)
    _study: optuna.Study = field(init=False)
    _open: dict[int, optuna.trial.Trial] = field(default_factory=dict)

    def __post_init__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(direction="minimize" if self.lower_is_better else "maximize")

    def ask(self) -> list[Trial]:
        """The trials that can start now and were not handed out yet; empty while results are awaited, or at the end."""
        if self.rung and not self.rung_trials:
            points = enumerate(self._shared_points())
            self.rung_trials = [Trial(number=i, values=self.space.at(point), stage="rung") for i, point in points]
            return list(self.rung_trials)
        if len(self.rung_scores) < len(self.rung_trials):
            return []
        if not self.trials:
            points = self._shared_points()
            kept = self._promoted() if self.rung else range(len(points))
            return self._enqueue(self.space, [points[i] for i in kept], "shared")
        if len(self.scores) < len(self.trials):
            return []
        if len(self.trials) < self._full_trials:
            return [self._suggest()]
        side = self.edge
        if side is None or self.widenings == MAX_WIDENINGS:
            return []
        self.widenings += 1
        self.space, part = self.space.widened(side)
        points = sobol_points(math.ceil(self.budget / DECADES), len(part.ranges), self.seed + self.widenings).tolist()
        return self._enqueue(part, points, "widened")

    def tell(self, trial: Trial, score: Score) -> None:
        """The result of a trial; it counts once those of all earlier trials are in."""
        if trial.stage == "rung":
            self.rung_scores[trial.number] = score
            return
        self._early[trial.number] = score
        while (first := len(self.scores)) in self._early:
            self._count(first, self._early.pop(first))

    @property
    def finished(self) -> bool:
        """Whether all trials are in and no more are due."""
        done = bool(self.trials) and len(self.scores) == len(self.trials) >= self._full_trials
        return done and (self.edge is None or self.widenings == MAX_WIDENINGS)

    @property
    def _full_trials(self) -> int:
        """How many trials of the full schedule there are without any widening."""
        return math.ceil(self.budget / 2) if self.rung else self.budget

    def _promoted(self) -> list[int]:
        """The better half of the rung, in the order of its points; trials with failed or diverged runs come last."""
        sign = -1.0 if self.lower_is_better else 1.0

        def place(number: int) -> tuple[bool, bool, float, int]:
            score = self.rung_scores[number]
            validation = -math.inf if score.validation is None else sign * score.validation
            return score.validation is None, score.diverged > 0, -validation, number

        return sorted(sorted(self.rung_scores, key=place)[: self._full_trials])

    @property
    def best(self) -> Trial | None:
        """The trial of the best validation score among those without a diverged run, the earliest of equals."""
        sign = -1.0 if self.lower_is_better else 1.0
        sound = [
            (sign * s.validation, -t.number) for t, s in self._told() if s.validation is not None and not s.diverged
        ]
        return self.trials[-max(sound)[1]] if sound else None

    @property
    def extra_trials(self) -> int:
        """How many trials were added where the best one lay at an edge."""
        return sum(trial.stage == "widened" for trial in self.trials)

    @property
    def edge(self) -> Side | None:
        """The end of the range that the best trial is too near to: in its outermost tenth, or with no rate beyond."""
        best = self.best
        if best is None:
            return None
        rates = self._rates_scored()
        if (near := self.space.edge(best.values)) or len(rates) == 1:
            return near
        return "low" if best.values[RATE] == min(rates) else "high" if best.values[RATE] == max(rates) else None

    @property
    def unresolved(self) -> bool:
        """Whether the optimum is still at an edge after all widenings."""
        return self.finished and self.edge is not None

    def _told(self) -> list[tuple[Trial, Score]]:
        return list(zip(self.trials, self.scores, strict=False))

    def _rates_scored(self) -> list[float]:
        """The rates of which something is known: of all trials but those that failed by no fault of their own."""
        rung = [(trial, self.rung_scores[trial.number]) for trial in self.rung_trials]
        return [trial.values[RATE] for trial, score in [*rung, *self._told()] if score.validation is not None]

    def _shared_points(self) -> list[list[float]]:
        """The points that every optimizer tries; an adaptive sampler starts from half of the budget."""
        dimensions = len(self.space.ranges)
        if self.sampler == "grid":
            return grid_points(self.budget, dimensions).tolist()
        shared = self.budget if self.sampler == "sobol" else max(1, self.budget // 2)
        return sobol_points(shared, dimensions, self.seed).tolist()

    def _enqueue(self, space: Space, points: list[list[float]], stage: Stage) -> list[Trial]:
        made = []
        for point in points:
            values = space.at(point)
            self._study.enqueue_trial(values)
            made.append(self._take(self._study.ask(self._distributions()), stage))
            # The number as it was enqueued: the trial's own may have gone through a logarithm.
            assert all(math.isclose(made[-1].values[name], value) for name, value in values.items())
        return made

    def _suggest(self) -> Trial:
        """A new setting: a random one where the sampler would repeat another, whose runs would say nothing new."""
        seed, known = self.seed + 1_000 + len(self.trials), [trial.values for trial in self.trials]
        self._study.sampler = _sampler(self.sampler, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a Gaussian process that fits its trials exactly
            asked = self._study.ask(self._distributions())
        if _values(asked) in known:
            self._study.tell(asked, state=TrialState.FAIL)
            self._study.sampler = optuna.samplers.RandomSampler(seed)
            asked = self._study.ask(self._distributions())
        return self._take(asked, "adaptive")

    def _take(self, asked: optuna.trial.Trial, stage: Stage) -> Trial:
        trial = Trial(number=len(self.trials), values=_values(asked), stage=stage)
        self._open[trial.number] = asked
        self.trials.append(trial)
        return trial

    def _distributions(self) -> dict[str, BaseDistribution]:
        return {name: FloatDistribution(r.low, r.high, log=r.log) for name, r in self.space.ranges.items()}

    def _count(self, number: int, score: Score) -> None:
        asked = self._open.pop(number)
        if score.validation is None:
            self._study.tell(asked, state=TrialState.FAIL)
        else:
            asked.set_constraint(DIVERGED, float(score.diverged))
            with warnings.catch_warnings():  # CMA-ES says that it knows no constraints; the score at chance tells it
                warnings.filterwarnings("ignore", "Constraints have been set", UserWarning)
                self._study.tell(asked, score.validation)
        self.scores.append(score)


def _values(asked: optuna.trial.Trial) -> dict[str, float]:
    return {name: float(value) for name, value in asked.params.items()}


def _sampler(kind: Sampler, seed: int) -> BaseSampler:
    """An adaptive sampler that draws the suggestion of one trial; CMA-ES learns from none but its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if kind == "tpe":
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=0)
        if kind == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=0)
        assert kind == "cmaes", f"{kind} suggests nothing"
        return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=0, warn_independent_sampling=False)
