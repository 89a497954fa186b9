"""What searches found, read back from a study: every trial with its scores, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from bench.plan import settings_key
from bench.ranking import OWN_FAILURES
from bench.record import Outcome, RunRecord
from bench.search.plan import SearchPlan, read_plans
from bench.search.search import INDEPENDENT, Search, Trial
from bench.search.space import RATE, with_values
from bench.search.tuning import trial_score
from bench.statistics.intervals import FloatArray, IntArray
from bench.statistics.ranks import rank_agreement
from bench.statistics.sensitivity import Sensitivity, sensitivity
from bench.statistics.tuning import Tunability, best_validated, tunability
from bench.study import Study
from bench.summary import bounds, lower_is_better

BUDGETS = (1, 2, 4, 8, 16, 32)
TRIALS_FOR_BANDS = 16
PLATEAU = 1.0  # points below the best within which a rate counts as as good


@dataclass(frozen=True)
class SearchResult:
    """One optimizer's search as far as it has come.

    validation, test [trials, seeds]: percent, diverged runs at chance; a trial with a run that failed otherwise is left
    out of `trials`. diverged [trials]: how many of its runs diverged.
    """

    plan: SearchPlan
    search: Search
    trials: tuple[Trial, ...]
    validation: FloatArray
    test: FloatArray
    diverged: IntArray
    seconds: float
    chance: float
    lower: bool
    full_epochs: int

    @property
    def rung_agreement(self) -> float | None:
        """Kendall's τ between the first rung and the full schedule over the trials that had both; None below three."""
        scores = self.search.rung_scores
        rung = {settings_key(trial.values): scores.get(trial.number) for trial in self.search.rung_trials}
        pairs = [
            (short.validation, float(self.validation[i].mean()))
            for i, trial in enumerate(self.trials)
            if (short := rung.get(settings_key(trial.values))) is not None and short.validation is not None
        ]
        if len(pairs) < 3:
            return None
        tau = rank_agreement(*zip(*pairs, strict=True)).tau
        return None if np.isnan(tau) else tau

    @property
    def name(self) -> str:
        """The optimizer."""
        return self.plan.optimizer

    @property
    def rates(self) -> FloatArray:
        """The trials' learning rates."""
        return np.array([trial.values[RATE] for trial in self.trials])

    @property
    def shared(self) -> int:
        """How many of the first trials are the points that every optimizer tries."""
        return sum(trial.stage == "shared" for trial in self.trials)

    @property
    def _independent(self) -> bool:
        return self.plan.sampler in INDEPENDENT and not self.search.rung

    @cached_property
    def best_of(self) -> dict[int, float]:
        """Expected test score of the best validated of k of the shared trials, by k; scores are means over seeds.

        Empty for adaptive samplers and after a first rung: their trials are no independent draws.
        """
        n = self.shared
        if not self._independent or not n:
            return {}
        return {k: self._best_of(k) for k in sorted({*(k for k in BUDGETS if k < n), n})}

    def _best_of(self, k: int) -> float:
        """Chosen as the search chooses, by the mean over tuning seeds."""
        validation, test = (scores[: self.shared].mean(axis=1) for scores in (self.validation, self.test))
        return float(best_validated(validation, test, k, lower_is_better=self.lower))

    @cached_property
    def bands(self) -> tuple[FloatArray, FloatArray] | None:
        """95 % bands of the median validation score of the best of k = 1, …, N random trials, each [N].

        Exact for independent draws whose scores all differ; evenly spread points vary less than the bands allow for.
        None below `TRIALS_FOR_BANDS`, where they say next to nothing, and for adaptive samplers. Simultaneous in k
        (Lourie, Cho and He, arXiv 2311.09480), by `opda`.
        """
        n = self.shared
        if n < TRIALS_FOR_BANDS or not self._independent or self.lower:
            return None
        from opda.nonparametric import EmpiricalDistribution

        scores = self.validation[:n].mean(axis=1)
        # Diverged trials share the score of chance; with equal scores only the conservative bands hold.
        method = "ld_highest_density" if len(np.unique(scores)) == n else "dkw"
        lower, _, upper = EmpiricalDistribution.confidence_bands(
            scores, 0.95, a=0.0, b=100.0, generator=np.random.default_rng(0), method=method, n_jobs=1
        )
        budgets = np.arange(1, n + 1)
        return upper.quantile_tuning_curve(budgets), lower.quantile_tuning_curve(budgets)

    @cached_property
    def tunability(self) -> Tunability | None:
        """Of the curve over all budgets up to the number of shared trials."""
        if not self.best_of:
            return None
        return tunability([self._best_of(k) for k in range(1, self.shared + 1)])

    @cached_property
    def sensitivity(self) -> Sensitivity | None:
        """Of the mean test score to the learning rate; None where other settings were searched with it."""
        if len(self.plan.ranges) > 1 or not self.trials:
            return None
        default = self.plan.defaults[RATE]
        assert isinstance(default, int | float)
        return sensitivity(self.rates, self.test.mean(axis=1), diverged=self.diverged, chance=self.chance,
                           delta=PLATEAU, default=float(default), lower_is_better=self.lower)  # fmt: skip


def search_results(study: Study) -> dict[str, SearchResult]:
    """The searches of the study's protocol by optimizer, in the order of their names."""
    trials = sorted(study.trials, key=lambda record: (record.finished, record.run_id))  # of equal runs the last counts
    by_settings = {_key(record, record.protocol.hash, record.hyperparameters, record.seed): record for record in trials}
    chance = bounds(replace(study, records=study.records + study.trials), study.protocol.primary_metric)[0] or 0.0
    plans = read_plans(study.path, study.protocol.hash)
    found = {name: _result(plan, study, by_settings, chance) for name, plan in sorted(plans.items())}
    return {name: result for name, result in found.items() if result.trials}


Key = tuple[str, str, int, str | None, str, int]
Records = Mapping[Key, RunRecord]


def _key(of: SearchPlan | RunRecord, protocol_hash: str, hyperparameters: Mapping[str, Any], seed: int) -> Key:
    """What tells a run from others: never does one of an optimizer's earlier code stand for one of its present."""
    return protocol_hash, of.optimizer, of.revision, of.source_digest, settings_key(hyperparameters), seed


def _result(plan: SearchPlan, study: Study, records: Records, chance: float) -> SearchResult:
    """The search gone through again with the records at hand."""
    search, metric = plan.search(study.protocol), study.protocol.primary_metric
    runs: dict[tuple[bool, int], list[RunRecord]] = {}
    while asked := search.ask():
        for trial in asked:
            rung = trial.stage == "rung"
            rules = plan.rung_hash if rung and plan.rung_hash else plan.protocol_hash
            settings = with_values(plan.defaults, trial.values)
            keys = [_key(plan, rules, settings, seed) for seed in plan.seeds]
            found = [records[key] for key in keys if key in records]
            if len(found) == len(keys):
                runs[rung, trial.number] = found
                search.tell(trial, trial_score(found, metric))
    told = [t for t in search.trials if (own := runs.get((False, t.number))) and _is_known(own, metric)]
    table = [[_scores(record, metric, chance) for record in runs[False, trial.number]] for trial in told]
    scores = np.array(table).reshape(len(told), len(plan.seeds), 2)
    return SearchResult(
        plan=plan, search=search, trials=tuple(told), validation=scores[..., 0], test=scores[..., 1],
        diverged=np.array([sum(r.outcome in OWN_FAILURES for r in runs[False, t.number]) for t in told], int),
        seconds=_seconds(runs.values()), chance=chance, lower=lower_is_better(metric),
        full_epochs=study.protocol.epochs,
    )  # fmt: skip


def _is_known(runs: Sequence[RunRecord], metric: str) -> bool:
    """Whether the runs of a trial say something of its settings."""
    return trial_score(runs, metric).validation is not None


def _scores(record: RunRecord, metric: str, chance: float) -> tuple[float, float]:
    if record.outcome is not Outcome.OK:
        return chance, chance
    return record.validation_metrics[metric], record.metrics[metric]


def _seconds(runs: Iterable[Sequence[RunRecord]]) -> float:
    return sum(record.seconds.total for of_trial in runs for record in of_trial)
