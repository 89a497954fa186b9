"""What a study's searches say: from records written by hand, with numbers worked out by hand."""

import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from click.testing import CliRunner

from bench.commands.export import export_command
from bench.errors import UsageError
from bench.plan import TUNING_SEEDS
from bench.protocols import PROTOCOLS, changed
from bench.record import Failure, Outcome, ProtocolName, RunRecord, Seconds
from bench.search.export import export
from bench.search.plan import Range, SearchPlan, Tuned, read_plans, write_plan
from bench.search.rates import by_rates
from bench.search.results import search_results
from bench.search.search import Score
from bench.search.space import with_values
from bench.store import Store
from bench.study import Study, load_study

PROTOCOL = changed(PROTOCOLS["mini"], {"name": "hand", "epochs": 3}, "test")
DEFAULTS = {"lr": 1e-3, "weight_decay": 0.0}


def record(optimizer: str, lr: float, seed: int, validation: float | None, test: float = 0.0) -> RunRecord:
    """A run at that rate; without a score it has diverged."""
    ok = validation is not None
    return RunRecord(
        run_id=f"{optimizer}-s{seed}-{lr:.6g}", protocol=ProtocolName(name="hand", hash=PROTOCOL.hash),
        optimizer=optimizer, configuration=f"{lr:.6g}", hyperparameters=with_values(DEFAULTS, {"lr": lr}), seed=seed,
        outcome=Outcome.OK if ok else Outcome.DIVERGED, failure=None if ok else Failure(reason="loss is nan"),
        metrics={"avg_r1": test} if ok else {}, validation_metrics={"avg_r1": validation} if validation else {},
        chance={"avg_r1": 0.2}, ceiling={"avg_r1": 90.0}, seconds=Seconds(total=10.0), finished="2020-01-01",
    )  # fmt: skip


@pytest.fixture
def searched(tmp_path: Path) -> Callable[..., Study]:
    """A grid search of four rates around 1e-3 on two seeds, scored by a function of log10 of the rate."""

    def make(name: str, score: Callable[[float], float | None], drop: int = 0, **changes: object) -> Study:
        store = Store(tmp_path / "hand")
        store.write_protocol(PROTOCOL)
        seeds = (TUNING_SEEDS, TUNING_SEEDS + 1)
        plan = SearchPlan(
            protocol_hash=PROTOCOL.hash, optimizer=name, defaults=DEFAULTS,
            ranges={"lr": Range(low=1e-5, high=1e-1, log=True)}, trials=4, seeds=seeds, sampler="grid",
        ).model_copy(update=changes)  # fmt: skip
        write_plan(store.path, plan)
        runs = [(trial.values["lr"], seed) for trial in plan.search(PROTOCOL).ask() for seed in seeds]
        for lr, seed in runs[: len(runs) - drop]:
            found = score(math.log10(lr))
            store.write_record(record(name, lr, seed, found, 0.0 if found is None else found - 1 + seed % 2))
        return load_study(store.path)[0]

    return make


def parabola(z: float) -> float | None:
    """At −4.5, −3.5, −2.5: 30, 40, 30; diverged at −1.5."""
    return None if z > -2 else 50 - 10 * round((z + 3.5) ** 2 + 1)


def test_trials_scores_and_cost(searched: Callable[..., Study]):
    (result,) = search_results(searched("a", parabola)).values()
    assert result.rates.tolist() == pytest.approx([10**z for z in (-4.5, -3.5, -2.5, -1.5)])
    assert result.validation.tolist() == [[30, 30], [40, 40], [30, 30], [0.2, 0.2]]
    assert result.test.tolist() == [[29, 30], [39, 40], [29, 30], [0.2, 0.2]]
    assert result.diverged.tolist() == [0, 0, 0, 2] and result.seconds == 80
    assert result.search.best is not None and result.search.best.number == 1 and result.search.finished


def test_best_of_k_is_the_expected_test_score_of_the_best_validated(searched: Callable[..., Study]):
    (result,) = search_results(searched("a", parabola)).values()
    # One trial: the mean of 29.5, 39.5, 29.5, 0.2. All four: the best. Two of four: the best is there in 3 of 6 pairs,
    # 29.5 is the best of the pairs (1, 3), (1, 4), (3, 4).
    assert result.best_of == {1: pytest.approx((29.5 + 39.5 + 29.5 + 0.2) / 4), 2: pytest.approx((39.5 + 29.5) / 2),
                              4: pytest.approx(39.5)}  # fmt: skip
    assert result.tunability is not None
    curve = [24.675, 34.5, (39.5 * 3 + 29.5) / 4, 39.5]
    assert result.tunability.cpu == pytest.approx(sum(curve) / 4)
    assert result.tunability.cpe == pytest.approx(sum(w * x for w, x in zip((4, 3, 2, 1), curve, strict=True)) / 10)


def test_sensitivity_knows_default_and_stability(searched: Callable[..., Study]):
    (result,) = search_results(searched("a", parabola)).values()
    found = result.sensitivity
    assert found is not None and found.best == 39.5 and found.edge_rate == pytest.approx(10**-2.5)
    assert found.regret_at_default == pytest.approx(5.0)  # 1e-3 lies half way between 39.5 and 29.5


def test_a_search_under_way_shows_what_is_in(searched: Callable[..., Study]):
    (result,) = search_results(searched("a", parabola, drop=3)).values()
    assert len(result.trials) == 2 and not result.search.finished


def test_adaptive_trials_have_no_budget_curve(searched: Callable[..., Study]):
    (result,) = search_results(searched("a", parabola, sampler="tpe")).values()
    assert result.best_of == {} and result.tunability is None


def test_tuned_runs_are_ranked_and_the_default_stands_beside_them(searched: Callable[..., Study]):
    tuned = Tuned(hyperparameters=with_values(DEFAULTS, {"lr": 0.01}), values={"lr": 0.01}, validation=40.0,
                  unresolved=False, trials=4, extra_trials=0)  # fmt: skip
    study = searched("a", parabola, tuned=tuned)
    store = Store(study.path)
    assert by_rates(study).default is None
    for seed in (0, 1):
        store.write_record(record("a", 1e-3, seed, 30.0, 30.0))
        store.write_record(record("a", 0.01, seed, 40.0, 40.0))
        store.write_record(record("a", 0.5, seed, 1.0, 1.0))
    found = by_rates(load_study(study.path)[0])
    assert found.default is not None and found.left_out == 2
    assert [r.hyperparameters["lr"] for r in found.ranked.records] == [0.01, 0.01]
    assert [r.hyperparameters["lr"] for r in found.default.records] == [1e-3, 1e-3]
    assert set(found.ranked.labels.values()) == {"a"}


def test_default_runs_are_not_taken_for_those_of_a_search_that_found_nothing(searched: Callable[..., Study]):
    nothing = Tuned(hyperparameters=None, values=None, validation=None, unresolved=False, trials=4, extra_trials=0)
    store = Store(searched("b", parabola, tuned=nothing).path)
    for name in "ab":
        store.write_record(record(name, 1e-3, 0, 30.0, 30.0))
    found = by_rates(load_study(store.path)[0])
    assert found.default is None and {r.optimizer for r in found.ranked.records} == {"a", "b"}


def test_runs_of_earlier_code_are_left_out(searched: Callable[..., Study]):
    """The optimizer's file has changed since: its old runs have the same settings and seeds, and other scores."""
    study = searched("a", parabola, source_digest="new")
    assert search_results(study) == {}
    store = Store(study.path)
    for r in study.trials:
        store.write_record(r.model_copy(update={
            "run_id": f"z{r.run_id}", "source_digest": "new", "validation_metrics": {"avg_r1": 1.0},
            "outcome": Outcome.OK, "metrics": {"avg_r1": 2.0}}))  # fmt: skip
    (result,) = search_results(load_study(study.path)[0]).values()
    assert result.validation.tolist() == [[1, 1]] * 4 and result.test.tolist() == [[2, 2]] * 4


def test_the_rungs_order_is_compared_setting_by_setting(searched: Callable[..., Study]):
    """Two weight decays at each rate; the short and the full schedule agree on all of them."""
    ranges = {"lr": Range(low=1e-5, high=1e-1, log=True), "weight_decay": Range(low=1e-4, high=1.0, log=True)}
    study = searched(
        "a", parabola, drop=8, ranges=ranges, trials=9, rung_epochs=1, rung_hash="rung", seeds=(TUNING_SEEDS,)
    )
    plan, store = read_plans(study.path, PROTOCOL.hash)["a"], Store(study.path)
    search = plan.search(PROTOCOL)
    while asked := search.ask():
        for trial in asked:
            score = 50 + math.log10(trial.values["lr"]) - 5 * math.log10(trial.values["weight_decay"])
            found = record("a", 1e-3, TUNING_SEEDS, score).model_copy(
                update={
                    "run_id": f"{trial.stage}-{trial.number}",
                    "hyperparameters": with_values(DEFAULTS, trial.values),
                }
            )
            if trial.stage == "rung":
                found = found.model_copy(update={"protocol": ProtocolName(name="rung", hash="rung")})
            store.write_record(found)
            search.tell(trial, Score(validation=score, test=0.0, diverged=0))
    (result,) = search_results(load_study(study.path, PROTOCOL.hash)[0]).values()
    assert result.rung_agreement == pytest.approx(1.0)


def test_an_export_can_be_read_by_optuna_and_repeated(searched: Callable[..., Study], tmp_path: Path):
    study, storage = searched("a", parabola), f"sqlite:///{tmp_path / 'trials.db'}"
    assert export(study, storage) == export(study, storage) == [(f"hand/a/{PROTOCOL.hash}", 4)]
    found = optuna.load_study(study_name=f"hand/a/{PROTOCOL.hash}", storage=storage)
    assert found.best_value == 40 and found.best_params["lr"] == pytest.approx(10**-3.5)
    assert [trial.user_attrs["diverged"] for trial in found.trials] == [0, 0, 0, 2]


def test_a_diverged_trial_is_exported_as_infeasible(searched: Callable[..., Study], tmp_path: Path):
    """One of two runs at the best rate has diverged: like the search itself, Optuna takes the next best."""
    study, storage = searched("a", parabola), f"sqlite:///{tmp_path / 'trials.db'}"
    store, best = Store(study.path), record("a", 10**-3.5, TUNING_SEEDS, None)
    store.write_record(best)
    export(load_study(study.path)[0], storage)
    found = optuna.load_study(study_name=f"hand/a/{PROTOCOL.hash}", storage=storage)
    assert [trial.constraints for trial in found.trials] == [{"diverged": n} for n in (0, 1, 0, 2)]
    assert found.best_params["lr"] == pytest.approx(10**-4.5)


def test_a_storage_of_another_optuna_is_named(searched: Callable[..., Study], tmp_path: Path):
    study, storage = searched("a", parabola), f"sqlite:///{tmp_path / 'trials.db'}"
    export(study, storage)
    with closing(sqlite3.connect(tmp_path / "trials.db")) as database, database:
        database.execute("update alembic_version set version_num = 'unknown'")
    with pytest.raises(UsageError, match=f"--storage {storage!r}: .*no longer compatible"):
        export(study, storage)


def test_an_export_without_all_records_says_so(searched: Callable[..., Study], tmp_path: Path):
    study = searched("a", parabola)
    (study.path / "runs" / study.trials[0].run_id / "run.json").write_text("{")
    arguments = ["hand", "--results", str(tmp_path), "--storage", f"sqlite:///{tmp_path / 'trials.db'}"]
    done = CliRunner().invoke(export_command, arguments)
    assert done.exit_code == 0 and "warning: 1 unreadable, left out; first: " in done.stderr
    assert done.stdout == f"hand/a/{PROTOCOL.hash}: 3 trials\n"


@pytest.mark.parametrize("storage", ["", "nonsense://x", "sqlite:////no/such/folder/x.db"])
def test_a_storage_that_cannot_be_used_is_named(searched: Callable[..., Study], storage: str):
    with pytest.raises(UsageError, match=f"--storage {storage!r}: "):
        export(searched("a", parabola), storage)
