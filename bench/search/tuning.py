"""`bench tune`: search every optimizer's settings with the same budget, as runs of the study's store."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from bench.continual.figures import PRIMARY as AVERAGE_ACCURACY
from bench.continual.figures import WORST
from bench.driver import Source, Watcher, drive
from bench.errors import UsageError
from bench.executor import Engine
from bench.placement import Placement
from bench.plan import TUNING_SEEDS, Run
from bench.protocol import Protocol
from bench.protocols import with_epochs
from bench.ranking import OWN_FAILURES
from bench.record import Outcome, RunRecord
from bench.registry import Selected
from bench.requests import write_request
from bench.runner import Basis
from bench.search.plan import Range, Request, SearchPlan, Tuned, described, readable_plans, settled, write_plan
from bench.search.search import INDEPENDENT, Sampler, Score, Search, Trial
from bench.search.space import grid_points, search_space, with_values
from bench.store import Store

MOST = 1000  # trials, and tuning seeds


def search_plans(request: Request, basis: Basis) -> list[SearchPlan]:
    """A search an optimizer, all with the same points and budget.

    Raises `UsageError` where a value is not allowed.
    """
    if (metric := basis.protocol.primary_metric) in WORST:
        raise UsageError(f"primary_metric is {metric!r}, which is not known of the validation split; allowed for a "
                         f"search is {AVERAGE_ACCURACY}")  # fmt: skip
    stored = stored_plans(basis)
    request = settled(request, list(stored.values()))
    assert request.trials is not None
    for option, count in (("--trials", request.trials), ("--tuning-seeds", request.seeds)):
        if not 1 <= count <= MOST:
            raise UsageError(f"{option} {count}: allowed is a count >= 1, at most {MOST}")
    rung = _rung(request, basis.protocol)
    _require_grid(request.sampler, request.trials, len(request.names))
    return [
        SearchPlan(
            protocol_hash=basis.protocol.hash, optimizer=chosen.spec.name, revision=chosen.spec.revision,
            source_digest=chosen.spec.source_digest, defaults=dict(chosen.hyperparameters),
            ranges={name: Range(low=r.low, high=r.high, log=r.log)
                    for name, r in search_space(chosen, request.names).ranges.items()},
            trials=request.trials, seeds=tuple(range(TUNING_SEEDS, TUNING_SEEDS + request.seeds)),
            sampler=request.sampler, rung_epochs=request.rung_epochs, rung_hash=rung.hash if rung else None,
        )
        for chosen in basis.selected
    ]  # fmt: skip


def _require_grid(sampler: Sampler, trials: int, dimensions: int) -> None:
    """Raise `UsageError` where a grid over so many hyper-parameters cannot have as many points as trials."""
    if sampler == "grid":
        try:
            grid_points(trials, dimensions)
        except ValueError as error:
            raise UsageError(f"--trials {trials} --sampler grid: {error}") from None


def stored_plans(basis: Basis) -> dict[str, SearchPlan]:
    """The searches that are there of the selected optimizers; files that are none are left out: they are made anew."""
    found, _ = readable_plans(basis.folder, basis.protocol.hash)
    names = [chosen.spec.name for chosen in basis.selected]
    return {name: found[name] for name in names if name in found}


def replaced(plans: Sequence[SearchPlan], basis: Basis) -> str | None:
    """What to say of finished searches that `plans` replace; not of those that they repeat or continue."""
    stored = stored_plans(basis)
    lost = [old for plan in plans if (old := stored.get(plan.optimizer)) and old.tuned and not _goes_on(old, plan)]
    return f"these searches give way, and their options bring them back: {described(lost)}" if lost else None


def _goes_on(old: SearchPlan, plan: SearchPlan) -> bool:
    """Whether all trials of a finished search are among those of the new one."""
    more = plan.trials == old.trials or (plan.trials > old.trials and plan.sampler == "sobol")
    return more and old.model_copy(update={"trials": plan.trials, "tuned": None}) == plan


def _rung(request: Request, protocol: Protocol) -> Protocol | None:
    """The protocol of the first rung: the same schedule, complete, in fewer epochs."""
    epochs = request.rung_epochs
    if epochs is None:
        return None
    if not 1 <= epochs < protocol.epochs:
        allowed = (
            f"allowed are 1 to {protocol.epochs - 1} epochs, fewer" if protocol.epochs > 1 else "there are no fewer"
        )
        raise UsageError(f"--rung {epochs}: {allowed} than the protocol's {protocol.epochs}")
    if request.sampler not in INDEPENDENT:
        raise UsageError(f"--rung goes with --sampler {' or '.join(INDEPENDENT)}, not {request.sampler}")
    return _shortened(protocol, epochs)


def _shortened(protocol: Protocol, epochs: int) -> Protocol:
    """The same rules in fewer epochs."""
    shorter = with_epochs(protocol, epochs, f"--rung {epochs}")
    return shorter.model_copy(update={"name": f"{protocol.name}-rung"})


class Progress:
    """What a search tells; may be left as it is."""

    def trial_done(self, optimizer: str, trial: Trial, score: Score, search: Search) -> None:
        """A trial is in that was not in the store before; `search` knows the best so far."""


@dataclass(slots=True)
class _Entry:
    """One optimizer's search under way."""

    plan: SearchPlan
    make_run: Callable[[Trial, int], Run]
    search: Search
    records: dict[str, RunRecord] = field(default_factory=dict)
    told: set[tuple[str, int]] = field(default_factory=set)

    def waiting(self) -> list[Trial]:
        """The trials whose scores the search does not know yet."""
        asked = [*self.search.rung_trials, *self.search.trials]
        return [trial for trial in asked if (trial.stage, trial.number) not in self.told]

    def score(self, trial: Trial, metric: str) -> Score | None:
        """The trial's score; None where a run is still out."""
        ids = [self.make_run(trial, seed).run_id for seed in self.plan.seeds]
        found = [self.records[run_id] for run_id in ids if run_id in self.records]
        return trial_score(found, metric) if len(found) == len(ids) else None


def trial_score(records: Iterable[RunRecord], metric: str) -> Score:
    """The mean over a trial's runs; a run that diverged or ran out of memory counts with chance.

    One that is ok without a finite score counts as failed: a score is never NaN.
    """
    validation, test, diverged = [], [], 0
    for record in records:
        if _has_score(record, metric):
            validation.append(record.validation_metrics[metric])
            test.append(record.metrics[metric])
        elif record.outcome in OWN_FAILURES:
            diverged += 1
            score = record.chance.get(metric, WORST.get(metric, 0.0))
            validation.append(score)
            test.append(score)
        else:
            return Score(validation=None, test=None, diverged=diverged)
    return Score(validation=fmean(validation), test=fmean(test), diverged=diverged)


def _has_score(record: RunRecord, metric: str) -> bool:
    """Whether a run is ok, with a finite score on both splits."""
    found = (record.validation_metrics.get(metric, math.nan), record.metrics.get(metric, math.nan))
    return record.outcome is Outcome.OK and all(map(math.isfinite, found))


class SearchSource(Source):
    """The runs of several searches: those that can start now, and more as results come in."""

    def __init__(
        self, entries: Sequence[_Entry], store: Store, protocol: Protocol, progress: Progress, placement: Placement
    ) -> None:
        self.entries, self._store, self._metric = entries, store, protocol.primary_metric
        self.protocol, self._progress, self._placement = protocol, Progress(), placement
        self._waiting: deque[Run] = deque()
        self._owner: dict[str, _Entry] = {}
        self.missing: list[Run] = []  # every run that had to be carried out, so far
        for entry in entries:
            self._advance(entry)
        self._progress = progress

    @property
    def failed(self) -> int:
        """How many runs ended in another way than ok or diverged."""
        records = (record for entry in self.entries for record in entry.records.values())
        return sum(record.outcome not in (Outcome.OK, Outcome.DIVERGED) for record in records)

    def take(self) -> Run | None:
        return self._waiting.popleft() if self._waiting else None

    def ended(self, record: RunRecord) -> None:
        entry = self._owner[record.run_id]
        entry.records[record.run_id] = record
        self._advance(entry)

    def _advance(self, entry: _Entry) -> None:
        """Tell the search what is in and queue what it asks for, until it waits for a run or has ended."""
        search = entry.search
        while True:
            for trial in search.ask():
                self._queue(entry, trial)
            told = False
            for trial in entry.waiting():
                score = entry.score(trial, self._metric)
                if score is not None:
                    entry.told.add((trial.stage, trial.number))
                    search.tell(trial, score)
                    self._progress.trial_done(entry.plan.optimizer, trial, score, search)
                    told = True
            if not told:
                return

    def _queue(self, entry: _Entry, trial: Trial) -> None:
        for seed in entry.plan.seeds:
            run = entry.make_run(trial, seed)
            if not self._store.why_missing(run.run_id, self._placement):
                record = self._store.read_record(run.run_id)
                assert record is not None
                entry.records[run.run_id] = record
            elif run.run_id not in self._owner:
                self._waiting.append(run)
                self.missing.append(run)
            self._owner[run.run_id] = entry


def source(plans: Sequence[SearchPlan], basis: Basis, progress: Progress | None = None) -> SearchSource:
    """The runs of the searches, those left out whose records are in the store."""
    digest, protocol = basis.data().digest, basis.protocol
    entries = [
        _Entry(plan, _runs_of(plan, chosen, protocol, digest), plan.search(protocol))
        for plan, chosen in zip(plans, basis.selected, strict=True)
    ]
    return SearchSource(entries, Store(basis.folder), protocol, progress or Progress(), basis.placement)


def _runs_of(
    plan: SearchPlan, chosen: Selected, protocol: Protocol, data_digest: str | None
) -> Callable[[Trial, int], Run]:
    rung = None if plan.rung_epochs is None else _shortened(protocol, plan.rung_epochs)

    def make_run(trial: Trial, seed: int) -> Run:
        rules = rung if rung and trial.stage == "rung" else protocol
        return Run(
            protocol=rules, optimizer=plan.optimizer, reference=chosen.reference,
            hyperparameters=with_values(plan.defaults, trial.values), seed=seed, revision=plan.revision,
            source_digest=plan.source_digest, data_digest=data_digest,
        )  # fmt: skip

    return make_run


def tune(runs: SearchSource, basis: Basis, watcher: Watcher, engine: Engine | None = None) -> list[SearchPlan]:
    """Carry out the searches and store what they found; returns the plans with their outcome.

    Several processes may carry out the same searches at once.
    """
    store = Store(basis.folder)
    for protocol in {run.protocol.hash: run.protocol for run in runs.missing}.values():
        store.write_protocol(protocol)
    store.write_protocol(basis.protocol)
    for entry in runs.entries:
        if not entry.search.finished:  # one that is complete keeps what it found until the end
            write_plan(store.path, entry.plan)
    if runs.missing:
        write_request(store, runs.missing, basis.placement.command)
        drive(runs, store, basis.placement, watcher, engine)
    ended = [_with_outcome(entry.plan, entry.search) for entry in runs.entries]
    for plan in ended:
        write_plan(store.path, plan)
    store.mark_used(basis.protocol)
    return ended


def _with_outcome(plan: SearchPlan, search: Search) -> SearchPlan:
    """The plan with what its search found."""
    assert search.finished, f"the search of {plan.optimizer} has not ended"
    best = search.best
    tuned = Tuned(
        hyperparameters=None if best is None else with_values(plan.defaults, best.values),
        values=None if best is None else best.values,
        validation=None if best is None else search.scores[best.number].validation,
        unresolved=search.unresolved, trials=len(search.trials), extra_trials=search.extra_trials,
    )  # fmt: skip
    return plan.model_copy(update={"tuned": tuned})
