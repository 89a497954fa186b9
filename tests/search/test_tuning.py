"""Searches as runs of a store: budgets, interruptions, several workers, and a search after another of its study."""

import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from bench.driver import Watcher
from bench.errors import BadRecordError, UsageError
from bench.executor import Done, Shard
from bench.plan import Run, ended
from bench.protocol import Protocol
from bench.record import Outcome, RunRecord
from bench.registry import entry
from bench.runner import Basis, basis
from bench.search import tuning
from bench.search.plan import Request, SearchPlan, read_plans, tuned_settings, write_plan
from bench.search.search import Sampler, Score, Search, Trial
from bench.search.tuning import Progress, replaced, search_plans, source, trial_score, tune
from bench.spec import OptimizerSpec
from bench.store import Store

Objective = Callable[[str, float], float | None]


@dataclass
class Instant:
    """An engine that stores a score in place of training, the last shard first; `stop`: interrupts before that run."""

    store: Store
    score: Objective
    slots: int = 2
    stop: int | None = None
    waiting: list[Shard] = field(default_factory=list)
    carried_out: list[str] = field(default_factory=list)

    def submit(self, shard: Shard) -> None:
        self.waiting.append(shard)

    def wait(self, timeout: float) -> Sequence[Done]:
        if len(self.carried_out) == self.stop:
            raise KeyboardInterrupt
        shard = self.waiting.pop()
        (run,) = shard.runs
        self.store.write_record(scored(run, self.score(run.optimizer, float(str(run.hyperparameters["lr"])))))
        self.carried_out.append(run.run_id)
        return [Done(shard=shard)]

    def close(self) -> None:
        pass


def scored(run: Run, value: float | None) -> RunRecord:
    """A run's record: its score on both splits; diverged without one."""
    record = ended(run, Outcome.DIVERGED if value is None else Outcome.OK, None, None)
    found = {} if value is None else {"avg_r1": value}
    return record.model_copy(update={"metrics": found, "validation_metrics": found, "chance": {"avg_r1": 0.2}})


def peak(name: str, rate: float) -> float | None:
    """At the default rate of adamw and of sgd; diverged a decade and a half above."""
    z = math.log10(rate) + (2 if name == "sgd" else 3)
    return None if z > 1.5 else 50 - 10 * z**2


def rising(name: str, rate: float) -> float | None:
    return 50 + math.log10(rate)


@pytest.fixture
def on(tiny: Protocol, tmp_path: Path) -> Callable[..., Basis]:
    """The basis of a study of these optimizers in a folder of the test's, its runs one by one."""

    def make(optimizers: str = "adamw,sgd", folder: str = "results") -> Basis:
        return basis(optimizers, protocol=tiny, results=tmp_path / folder, batch_runs=1)

    return make


def carry_out(
    request: Request, found: Basis, score: Objective = peak, **engine: int
) -> tuple[list[SearchPlan], Instant]:
    instant = Instant(Store(found.folder), score, **engine)
    runs = source(search_plans(request, found), found)
    return tune(runs, found, Watcher(), instant), instant


@pytest.mark.parametrize("sampler", ["sobol", "grid", "tpe", "gp", "cmaes"])
def test_the_number_of_workers_changes_nothing(on: Callable[..., Basis], sampler: Sampler):
    request = Request(trials=4, sampler=sampler)
    alone, one = carry_out(request, on(folder="one"), slots=1)
    together, five = carry_out(request, on(folder="five"), slots=5)
    assert alone == together and sorted(one.carried_out) == sorted(five.carried_out)
    assert len(set(one.carried_out)) == len(one.carried_out) == 2 * 4 * 2  # all settings differ


@pytest.mark.parametrize(
    "request_", [Request(trials=4, seeds=1, sampler="tpe"), Request(trials=4, seeds=1, rung_epochs=1)]
)
def test_interrupted_after_any_run_it_ends_with_the_same(on: Callable[..., Basis], request_: Request):
    whole, undisturbed = carry_out(request_, on("adamw", "whole"), rising)
    found, ran = on("adamw", "parts"), []
    for _ in undisturbed.carried_out:
        instant = Instant(Store(found.folder), rising, stop=1)
        with suppress(KeyboardInterrupt):  # all but the last raise
            tune(source(search_plans(request_, found), found), found, Watcher(), instant)
        ran += instant.carried_out
    plans, rest = carry_out(request_, found, rising)
    assert plans == whole and not rest.carried_out and sorted(ran) == sorted(undisturbed.carried_out)


def test_trials_of_the_rung_are_no_extra_trials(on: Callable[..., Basis]):
    plans, _ = carry_out(Request(trials=8, rung_epochs=1), on("adamw"))
    assert plans[0].tuned is not None and (plans[0].tuned.trials, plans[0].tuned.extra_trials) == (4, 0)
    plans, _ = carry_out(Request(trials=8, rung_epochs=1), on("adamw", "rising"), rising)
    assert plans[0].tuned is not None and (plans[0].tuned.trials, plans[0].tuned.extra_trials) == (8, 4)
    assert plans[0].tuned.unresolved


def specs(*names: str) -> list[OptimizerSpec]:
    return [entry(name) for name in names]


def test_a_search_of_earlier_code_is_not_ranked(on: Callable[..., Basis], tiny: Protocol):
    (plan,), _ = carry_out(Request(trials=4), on("adamw"))
    folder = on().folder
    assert tuned_settings(folder, tiny, specs("adamw")).keys() == {"adamw"}
    for change in ({"revision": plan.revision - 1}, {"source_digest": "x"}):
        write_plan(folder, plan.model_copy(update=change))
        with pytest.raises(UsageError, match="adamw has changed since it was searched"):
            tuned_settings(folder, tiny, specs("adamw"))


def test_searches_of_unequal_budget_are_not_ranked(on: Callable[..., Basis], tiny: Protocol):
    carry_out(Request(trials=8), on("adamw"))
    carry_out(Request(trials=4), on("sgd"))
    folder = on().folder
    with pytest.raises(UsageError, match=r"searches differ.*adamw: 8 trials of lr on 2 tuning seeds \(sobol\); sgd: 4"):
        tuned_settings(folder, tiny, specs("adamw", "sgd"))
    with pytest.raises(UsageError, match="no finished search of lion"):
        tuned_settings(folder, tiny, specs("adamw", "lion"))
    assert tuned_settings(folder, tiny, specs("adamw")).keys() == {"adamw"}
    carry_out(Request(trials=8), on("sgd"))
    assert tuned_settings(folder, tiny, specs("adamw", "sgd")).keys() == {"adamw", "sgd"}


def test_a_search_without_a_number_goes_on_with_the_one_that_is_there(on: Callable[..., Basis]):
    assert {plan.trials for plan in search_plans(Request(), on())} == {8}
    asked = Request(trials=4, seeds=1, sampler="grid", rung_epochs=1)
    carry_out(asked, on("adamw"))
    assert {plan.request for plan in search_plans(Request(), on())} == {asked}  # sgd has none of its own
    carry_out(Request(trials=8), on("sgd"))
    with pytest.raises(UsageError, match="--lr search: the searches differ"):
        search_plans(Request(), on())


def test_a_search_that_gives_way_to_another_is_named(on: Callable[..., Basis]):
    def said(request: Request, found: Basis) -> str | None:
        return replaced(search_plans(request, found), found)

    assert said(Request(trials=8), on()) is None
    carry_out(Request(trials=8), on())
    assert said(Request(trials=8), on()) is None and said(Request(trials=16), on()) is None
    assert "adamw, sgd: 8 trials of lr on 2 tuning seeds (sobol)" in str(said(Request(trials=4), on()))
    others = [Request(trials=8, seeds=1), Request(trials=8, sampler="tpe"), Request(trials=8, rung_epochs=1)]
    assert all(said(request, on()) for request in others)
    found = on("adamw")
    changed = replace(found, selected=[replace(found.selected[0], spec=replace(found.selected[0].spec, revision=9))])
    assert said(Request(trials=8), changed)


def test_a_finished_search_keeps_its_result_while_others_run(on: Callable[..., Basis]):
    (before,), _ = carry_out(Request(trials=4), on("adamw"))
    with pytest.raises(KeyboardInterrupt):
        carry_out(Request(trials=4), on(), stop=1)
    stored = read_plans(on().folder, on().protocol.hash)
    assert stored["adamw"] == before and stored["sgd"].tuned is None


def test_what_is_complete_starts_no_worker(on: Callable[..., Basis], monkeypatch: pytest.MonkeyPatch):
    before, _ = carry_out(Request(trials=4), on())

    def never(*arguments: object) -> None:
        raise AssertionError("there is nothing to run")

    monkeypatch.setattr(tuning, "drive", never)
    assert carry_out(Request(trials=4), on())[0] == before


def test_trials_in_the_store_are_not_told_again(on: Callable[..., Basis]):
    class Heard(Progress):
        def __init__(self) -> None:
            self.trials: list[tuple[str, int]] = []

        def trial_done(self, optimizer: str, trial: Trial, score: Score, search: Search) -> None:
            self.trials.append((optimizer, trial.number))

    carry_out(Request(trials=4), on("adamw"))
    heard, found = Heard(), on()
    runs = source(search_plans(Request(trials=4), found), found, heard)
    tune(runs, found, Watcher(), Instant(Store(found.folder), peak))
    assert sorted(heard.trials) == [("sgd", number) for number in range(4)] and runs.failed == 0


def test_a_run_that_is_ok_without_a_score_counts_as_failed(on: Callable[..., Basis]):
    found = on("adamw")
    plans, _ = carry_out(Request(trials=4), found, lambda name, rate: math.nan if rate > 1e-3 else 10.0)
    assert plans[0].tuned is not None and plans[0].tuned.validation == 10
    records, _ = Store(found.folder).records()
    assert {trial_score([record], "avg_r1").validation for record in records} == {10.0, None}


BROKEN = {
    "content": "",
    "schema_version": {"schema_version": 2},
    "seeds": {"seeds": []},
    "ranges.lr": {"ranges": {"lr": {"low": 0.0, "high": 1.0, "log": True}}},
    "lr must have a range": {"defaults": {"lr": "x"}},
}


@pytest.mark.parametrize("place", BROKEN)
def test_a_search_that_cannot_be_read_is_named_and_made_anew(on: Callable[..., Basis], tiny: Protocol, place: str):
    found = on("adamw")
    (plan,), _ = carry_out(Request(trials=4), found)
    path = found.folder / "searches" / tiny.hash / "adamw.json"
    content, change = json.loads(path.read_text()), BROKEN[place]
    path.write_text(change if isinstance(change, str) else json.dumps(content | change))
    with pytest.raises(BadRecordError, match=rf"adamw\.json: .*{place}.*`bench tune` writes it anew") as caught:
        read_plans(found.folder, tiny.hash)
    assert len(str(caught.value).splitlines()) == 1
    again, rest = carry_out(Request(trials=4), found)
    assert again == [plan] and rest.carried_out == [] and read_plans(found.folder, tiny.hash) == {"adamw": plan}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(trials=0), "--trials 0: allowed is a count >= 1, at most 1000"),
        (Request(trials=10**9), "--trials 1000000000: "),
        (Request(trials=8, seeds=10**9), "--tuning-seeds 1000000000: "),
        (
            Request(trials=8, sampler="grid", names=("lr", "weight_decay")),
            "never has 8 points; allowed are 4, 9, 16, …",
        ),
        (Request(trials=8, rung_epochs=2), "--rung 2: allowed are 1 to 1 epochs, fewer than the protocol's 2"),
    ],
)
def test_what_is_not_allowed_is_named(on: Callable[..., Basis], request_: Request, message: str):
    with pytest.raises(UsageError, match=message):
        search_plans(request_, on("adamw"))


def test_one_epoch_has_no_rung(on: Callable[..., Basis]):
    found = on("adamw")
    short = replace(found, protocol=found.protocol.model_copy(update={"epochs": 1}))
    with pytest.raises(UsageError, match="--rung 1: there are no fewer than the protocol's 1"):
        search_plans(Request(trials=8, rung_epochs=1), short)


def test_a_plan_of_another_optimizer_is_kept(on: Callable[..., Basis], tiny: Protocol):
    (plan,), _ = carry_out(Request(trials=4), on("adamw"))
    write_plan(on().folder, plan.model_copy(update={"optimizer": "mine.py:Mine"}))
    assert read_plans(on().folder, tiny.hash).keys() == {"adamw", "mine.py:Mine"}
