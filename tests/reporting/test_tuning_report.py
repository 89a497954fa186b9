"""Searches in the report: tables, figures, and the two rankings side by side."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.plan import TUNING_SEEDS, slug
from bench.record import MemoryUse
from bench.reporting.analysis import analyse
from bench.reporting.report import write_report
from bench.search.plan import Range, SearchPlan, Tuned, write_plan
from bench.search.space import with_values
from bench.store import Store
from bench.study import Study, load_study

from .conftest import PROTOCOL, make_curve, make_record, store_run

Write = Callable[..., Study]
SCORES = {"a": (10.0, 30.0, 20.0, None), "b": (5.0, 12.0, 25.0, 8.0)}


def searched(
    write_study: Write, ranges: dict[str, Range], *, tuned: bool, trials: int = 4, sampler: str = "grid"
) -> Study:
    """Two optimizers searched on two seeds; with default runs on three seeds, and tuned ones where asked."""
    store = Store(write_study({"zero": {0: 1.0}}).path)
    defaults = {"lr": 0.1, "weight_decay": 0.01}
    for name, scores in SCORES.items():
        plan = SearchPlan(protocol_hash=PROTOCOL.hash, optimizer=name, defaults=defaults, ranges=ranges, trials=trials,
                          seeds=(TUNING_SEEDS, TUNING_SEEDS + 1), sampler=sampler)  # fmt: skip
        best = {"lr": 0.02}
        if tuned:
            plan = plan.model_copy(update={"tuned": Tuned(
                hyperparameters=with_values(defaults, best), values=best, validation=30.0, unresolved=name == "b",
                trials=4, extra_trials=0)})  # fmt: skip
        write_plan(store.path, plan)
        for trial in plan.search(PROTOCOL).ask():
            for seed in plan.seeds:
                add(store, name, seed, scores[trial.number % 4], with_values(defaults, trial.values))
        for seed in range(3):
            add(store, name, seed, 15.0 + seed, defaults)
            if tuned:
                add(store, name, seed, 20.0 + 2 * seed, with_values(defaults, best))
    study, _ = load_study(store.path)
    kept = tuple(r for r in study.records if r.optimizer != "zero")
    return Study(study.path, study.protocol, kept, (), study.trials)


def add(store: Store, name: str, seed: int, r1: float | None, settings: dict) -> None:
    record = make_record(
        name, seed, r1, run_id=slug(f"{name}-s{seed}-{settings}"), hyperparameters=settings,
        configuration=f"{hash(str(settings)) & 0xFFFFFF:x}", memory=MemoryUse(peak_bytes=1, state_bytes=1),
    )  # fmt: skip
    if r1 is not None:
        record = record.model_copy(update={"validation_metrics": record.metrics})
    store_run(store, record, make_curve(r1))


RATE = {"lr": Range(low=1e-3, high=10.0, log=True)}


def test_both_rankings_stand_side_by_side_with_the_gain(write_study: Write, tmp_path: Path):
    report = write_report(searched(write_study, RATE, tuned=True), tmp_path / "report")
    text = report.markdown.read_text()
    # Tuned 20, 22, 24 against 15, 16, 17 on the same seeds: gains 5, 6, 7; t of 2 degrees of freedom 4.303 · 1/√3.
    assert "| a | 0.1 | 0.02 | 16.00 | 22.00 | +6.00 (+3.52 to +8.48) |" in text
    assert report.analysis.rates is not None and report.analysis.rates.default is not None
    assert {r.hyperparameters["lr"] for r in report.analysis.study.records} == {0.02}  # type: ignore[misc]
    assert "6 runs: 2 optimizers" in text and "of the settings took 104.0 s more, in 16 runs" in text
    assert (tmp_path / "report" / "tables" / "tuned.csv").exists()


def test_budget_and_sensitivity_have_table_and_figure(write_study: Write, tmp_path: Path):
    report = write_report(searched(write_study, RATE, tuned=False), tmp_path / "report")
    text = report.markdown.read_text()
    assert "lr searched for 2 optimizers: 4 trials each (grid, the same points for every optimizer)" in text
    # a: one trial (10 + 30 + 20 + 0.2)/4; of two, 30 in three pairs of six, 20 in two, 10 in one; two runs diverged.
    assert "| a | 15.05 | 23.33 | 30.00 | 21.52 | 23.97 | 26.42 | 4 | 2 |" in text
    for stem in ("sensitivity", "budget"):
        assert (report.folder / "figures" / f"{stem}.svg").exists() and f"figures/{stem}.png" in text
    assert not (report.folder / "figures" / "parallel.svg").exists()
    assert "Before and after tuning" not in text


def test_several_settings_are_drawn_as_parallel_coordinates(write_study: Write, tmp_path: Path):
    ranges = RATE | {"weight_decay": Range(low=1e-4, high=1.0, log=True)}
    report = write_report(searched(write_study, ranges, tuned=False), tmp_path / "report")
    assert (report.folder / "figures" / "parallel.svg").exists()
    assert not (report.folder / "figures" / "sensitivity.svg").exists()


@pytest.mark.parametrize("trials", [16])
def test_bands_from_sixteen_trials_on(write_study: Write, tmp_path: Path, trials: int):
    study = searched(write_study, RATE, tuned=False, trials=trials, sampler="sobol")
    (a, _) = analyse(study).searches.values()
    assert a.bands is not None
    low, high = a.bands
    assert len(low) == trials and (low <= high).all() and (low >= 0).all() and (high <= 100).all()
    again = analyse(study).searches["a"].bands
    assert again is not None and (again[0] == low).all()
    assert write_report(study, tmp_path / "report").html.exists()


def test_a_study_of_trials_alone_says_what_is_missing(write_study: Write):
    study = searched(write_study, RATE, tuned=False)
    with pytest.raises(ValueError, match="trials of searches and no run that ranks"):
        analyse(Study(study.path, study.protocol, (), (), study.trials))
