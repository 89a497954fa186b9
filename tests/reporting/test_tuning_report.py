"""Searches in the report: tables, figures, and the two rankings side by side."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.plan import TUNING_SEEDS, slug
from bench.record import MemoryUse, RunRecord
from bench.reporting.analysis import analyse
from bench.reporting.content import document
from bench.reporting.document import Table
from bench.reporting.figures.frame import Drawn
from bench.reporting.figures.looks import Look, style
from bench.reporting.figures.tuning import budget_figure, parallel_figure, sensitivity_figure
from bench.reporting.markdown import markdown
from bench.reporting.report import write_report
from bench.reporting.spreadsheet import csv_table
from bench.reporting.tuning_tables import search_line, sensitivity_table
from bench.search.plan import Range, SearchPlan, Tuned, read_plans, write_plan
from bench.search.search import Trial
from bench.search.space import with_values
from bench.store import Store
from bench.study import Study, load_study

from .conftest import PROTOCOL, make_curve, make_record, store_run

Write = Callable[..., Study]
SCORES = {"a": (10.0, 30.0, 20.0, None), "b": (5.0, 12.0, 25.0, 8.0)}


def searched(
    write_study: Write, ranges: dict[str, Range], *, tuned: bool, trials: int = 4, sampler: str = "grid",
    scores: Mapping[str, tuple[float | None, ...]] = SCORES,
) -> Study:  # fmt: skip
    """Two optimizers searched on two seeds; with default runs on three seeds, and tuned ones where asked."""
    store = Store(write_study({"zero": {0: 1.0}}).path)
    defaults = {"lr": 0.1, "weight_decay": 0.01}
    for name, of_trials in scores.items():
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
                add(store, name, seed, of_trials[trial.number % 4], with_values(defaults, trial.values))
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
    assert "| a | 1–2 | 1–2 | 16.00 | 22.00 | +6.00 (+3.52 to +8.48) | 0.1 | 0.02 | 3 | – |" in text
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


def content(study: Study) -> dict[str, Table]:
    """The report's tables by stem."""
    return {table.stem: table for table in document(analyse(study), (), {}, None).tables}


def as_text(study: Study) -> str:
    """The report without figures."""
    return markdown(document(analyse(study), (), {}, None))


def rewrite_plan(study: Study, name: str, **changes: object) -> None:
    """Change what is stored of an optimizer's search."""
    plan = read_plans(study.path, PROTOCOL.hash)[name]
    write_plan(study.path, plan.model_copy(update=changes))


def line_of(text: str, start: str) -> str:
    """The only table line that begins so."""
    (found,) = (line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return found


def test_the_answer_says_what_search_the_settings_come_from(write_study: Write):
    tuned = as_text(searched(write_study, RATE, tuned=True))
    assert "2 optimizers, 6 runs; tuned by 4 trials of lr on 2 tuning seeds (grid) each):" in tuned


def test_an_unresolved_edge_is_said_first_and_under_every_table_with_the_optimizer(write_study: Write):
    study = searched(write_study, RATE, tuned=True)
    flag = "Tuned rate at an edge of the range searched, unresolved: b; a better one may lie beyond."
    text = as_text(study)
    assert f"* {flag}" in text and "b: its tuned rate lies at an edge of the range searched, unresolved" in text
    assert "Edge, unresolved, of b: the best rate lies at an end" in text
    shown = [one for one in content(study).values() if any(cell.text == "b" for row in one.rows for cell in row)]
    assert len(shown) >= 8 and all("unresolved" in one.note for one in shown)
    assert "| 0.1 | 0.02 | 3 | edge, unresolved |" in text
    after = [text.split(f"**{caption}**")[1] for caption in ("The budget of the search", "Sensitivity to the rate")]
    assert all("edge, unresolved" in line_of(part.split("\n\n")[1], "b") for part in after)


def test_runs_with_default_settings_are_not_flagged_for_what_a_search_found(write_study: Write):
    study = searched(write_study, RATE, tuned=True)
    default = tuple(r for r in study.records if r.hyperparameters["lr"] == 0.1)
    text = as_text(replace(study, records=default))
    assert "tuned by" not in text and "Tuned rate at an edge" not in text


def test_means_and_gain_are_over_the_seeds_that_have_both_runs(write_study: Write):
    study = searched(write_study, RATE, tuned=True)

    def lost(r: RunRecord) -> bool:
        return r.optimizer == "a" and r.hyperparameters["lr"] == 0.1 and r.seed == 0

    study = replace(study, records=tuple(r for r in study.records if not lost(r)))
    text = as_text(study)
    # Of a, seeds 1 and 2 have both: 16, 17 and 22, 24; gains 6, 7; t of 1 degree of freedom 12.706 · 0.7071/√2.
    assert "| 16.50 | 23.00 | +6.50 (+0.15 to +12.85) | 0.1 | 0.02 | 2 |" in text
    exported = csv_table(content(study)["tuned"]).splitlines()
    assert "gain,gain 95 % from,gain 95 % to,default lr" in exported[0] and ",6.5," in exported[1]


def test_a_diverged_default_run_is_counted_beside_its_mean(write_study: Write):
    study = searched(write_study, RATE, tuned=True)
    store = Store(study.path)
    old = next(r for r in study.records if r.optimizer == "a" and r.hyperparameters["lr"] == 0.1 and r.seed == 0)
    add(store, "a", 0, None, old.hyperparameters)
    text = as_text(load_study(store.path)[0])
    assert "| 11.07 (1 diverged) | 22.00 |" in text  # (0.2 + 16 + 17)/3


def test_optimizers_without_default_runs_leave_the_default_ranking(write_study: Write):
    study = searched(write_study, RATE, tuned=True)
    kept = tuple(r for r in study.records if r.optimizer == "a" or r.hyperparameters["lr"] == 0.02)
    text = as_text(replace(study, records=kept))
    assert "| b | – | 1–2 | – | 22.00 | – | 0.1 | 0.02 | 3 |" in text
    assert "by default 1 of the 2 ranked optimizers have such runs" in text


def test_tuned_runs_whose_trials_are_gone_still_have_a_report(write_study: Write):
    study = searched(write_study, RATE, tuned=True)
    trials = tuple(r for r in study.trials if r.optimizer == "b")
    assert "| 16.00 | 22.00 | +6.00 (+3.52 to +8.48) | – | 0.02 | 3 | – |" in as_text(replace(study, trials=trials))


def test_searches_that_differ_are_not_said_to_be_equal(write_study: Write):
    study = searched(write_study, RATE, tuned=False)
    rewrite_plan(study, "a", seeds=(TUNING_SEEDS,))
    text = as_text(study)
    assert (
        "2 optimizers searched in different ways, of which a larger one has an advantage (a: 4 trials of lr on 1 "
        "tuning seed (grid); b: 4 trials of lr on 2 tuning seeds (grid)), chosen"
    ) in text


def test_an_optimizer_that_diverged_at_every_rate_is_not_called_robust(write_study: Write):
    study = searched(write_study, RATE, tuned=False, scores=SCORES | {"b": (None, None, None, None)})
    said = "| b | – | 0.20 | – | – | – | – | – | – | no trial ended well; every run diverged |"
    assert said in as_text(study)
    with style():
        drawn = sensitivity_figure(analyse(study), Look(["a", "b"]))
    assert drawn is not None and "b diverged in every run" in drawn.alternative


def test_a_curve_that_never_rises_above_chance_has_no_plateau(write_study: Write):
    study = searched(write_study, RATE, tuned=False, scores=SCORES | {"b": (0.1, 0.2, 0.1, None)})
    assert "| b | – | 0.20 | – | – | – | 0.316 | – | – | no rate above chance |" in as_text(study)


def test_after_a_first_rung_the_sensitivity_says_that_rates_are_missing(write_study: Write):
    (result,) = [r for r in analyse(searched(write_study, RATE, tuned=False)).searches.values() if r.name == "a"]
    short = replace(result, plan=result.plan.model_copy(update={"rung_epochs": 1}))
    for found, said in ((result, False), (short, True)):
        table = sensitivity_table([found], "avg_r1")
        assert table is not None and ("After a first rung only the rates that it sent on" in table.note) is said


def test_a_range_that_ends_first_is_a_bound(write_study: Write):
    study = searched(write_study, RATE, tuned=False, scores={"a": (10.0, 30.0, 29.5, 29.5), "b": (1.0, 2.0, 3.0, None)})
    text = as_text(study)
    # Rates 10^-2.5 … 10^0.5. Of a none diverged, and the plateau, 1/20 of a decade and two, reaches the last rate. Of b
    # the last diverged, and the plateau is the decade from 2 to 3 and 1/2.8 of the next.
    assert "| a | 0.0316 | 30.00 | 0.0945 | ≥ 2.05 |" in text and "| ≥ 3.16 | ≥ 2.00 |" in text
    assert "| b | 0.316 | 3.00 |" in text and "| 1.36 |" in text and "| 0.316 | 0.00 |" in text


def test_more_trials_at_an_edge_are_counted_beside_a_first_rung(write_study: Write):
    result = analyse(searched(write_study, RATE, tuned=False)).searches["a"]
    # Of 16 trials of a first rung 8 run in full, and these are 4 and one more: fewer than were asked for.
    rung = replace(result, plan=result.plan.model_copy(update={"trials": 16, "rung_epochs": 1}))
    assert "more trial" not in search_line([rung])
    result.search.trials.append(Trial(number=4, values={"lr": 20.0}, stage="widened"))
    assert "; 1 more trial where the best rate lay at an edge of its range;" in search_line([rung])


def test_adaptive_trials_have_no_columns_of_best_of_k(write_study: Write, tmp_path: Path):
    report = write_report(searched(write_study, RATE, tuned=False, sampler="tpe"), tmp_path / "report")
    text = report.markdown.read_text()
    assert "CPE" not in text and "best of 1" not in text and "No best of k: it needs trials that do not" in text
    assert not (report.folder / "figures" / "budget.svg").exists()
    assert (report.folder / "figures" / "sensitivity.svg").exists()


def test_a_search_with_one_trial_has_a_sensitivity_figure(write_study: Write, tmp_path: Path):
    report = write_report(searched(write_study, RATE, tuned=False, trials=1), tmp_path / "report")
    text = report.markdown.read_text()
    assert "lr searched for 2 optimizers: 1 trial each" in text and "| a | 0.1 | 10.00 |" in text
    assert not (report.folder / "figures" / "budget.svg").exists()


def test_optimizers_searched_over_different_settings_have_their_own_panels(write_study: Write):
    ranges = RATE | {"weight_decay": Range(low=1e-4, high=1.0, log=True)}
    study = searched(write_study, ranges, tuned=False)
    other = read_plans(study.path, PROTOCOL.hash)["b"]
    named = {"lr": other.ranges["lr"], "momentum": Range(low=0.5, high=0.9, log=False)}
    plan = other.model_copy(update={"ranges": named, "defaults": {**other.defaults, "momentum": 0.9}})
    write_plan(study.path, plan)
    store = Store(study.path)
    for trial in plan.search(PROTOCOL).ask():
        for seed in plan.seeds:
            add(store, "b", seed, 20.0 + trial.number, with_values(plan.defaults, trial.values))
    analysis = analyse(replace(study, trials=load_study(study.path)[0].trials))
    with style():
        drawn = parallel_figure(analysis, Look(["a", "b"]))
    assert drawn is not None and len(drawn.figure.axes) == 2
    ticks = [[tick.get_text() for tick in axes.get_xticklabels()] for axes in drawn.figure.axes]
    assert ticks[0] == ["lr, log", "weight_decay, log", "average R@1, %,\nvalidation split"]
    assert ticks[1] == ["lr, log", "momentum", "average R@1, %,\nvalidation split"]
    assert any(line.get_marker() == "x" for line in drawn.figure.axes[0].lines)  # a diverged at the fourth point


def test_the_sensitivity_figure_marks_default_choice_and_divergence(write_study: Write):
    study = searched(write_study, RATE, tuned=True)
    analysis = analyse(study)
    with style():
        drawn = sensitivity_figure(analysis, Look(["a", "b"]))
    assert drawn is not None
    (axes,) = drawn.figure.axes
    assert axes.get_ylabel() == "average R@1, %, test split" and axes.get_xlabel() == "learning rate"
    chosen = [line for line in axes.lines if line.get_markersize() == 9]
    assert [list(np.asarray(line.get_ydata())) for line in chosen] == [[30.0], [25.0]]
    assert [list(np.asarray(line.get_ydata())) for line in axes.lines if line.get_marker() == "x"] == [[0.2]]
    assert "chance 0.2, ceiling 90.0" in drawn.alternative and "a best at 0.0316 (30.0), 2 runs" in drawn.alternative


def test_a_figure_names_the_searched_optimizers_that_it_leaves_out(write_study: Write):
    study = searched(write_study, RATE, tuned=False)
    analysis = analyse(replace(study, records=tuple(r for r in study.records if r.optimizer == "a")))
    for figure in (sensitivity_figure, budget_figure):
        with style():
            drawn = figure(analysis, Look(["a"]))
        assert drawn is not None and "not drawn, without a run that ranks: b" in caption_of(drawn)


def caption_of(drawn: Drawn) -> str:
    caption = drawn.figure._supxlabel  # type: ignore[attr-defined]
    return caption.get_text()


def test_bands_stand_on_the_split_that_they_are_of(write_study: Write):
    analysis = analyse(searched(write_study, RATE, tuned=False, trials=16, sampler="sobol"))
    with style():
        drawn = budget_figure(analysis, Look(["a", "b"]))
    assert drawn is not None
    test, validation = drawn.figure.axes
    assert test.get_ylabel() == "average R@1, %, test split, mean" and not test.collections
    assert validation.get_ylabel() == "average R@1, %, validation split, median" and len(validation.collections) == 2


def test_crosses_of_several_optimizers_at_one_rate_are_all_seen(write_study: Write):
    analysis = analyse(searched(write_study, RATE, tuned=False, scores=dict.fromkeys("abc", SCORES["a"])))
    with style():
        drawn = sensitivity_figure(analysis, Look("abc"))
    assert drawn is not None
    sizes = [line.get_markersize() for line in drawn.figure.axes[0].lines if line.get_marker() == "x"]
    assert sizes == sorted(set(sizes), reverse=True) and len(sizes) == 3


def test_an_optimizer_in_several_configurations_keeps_its_curve(write_study: Write):
    store = Store(searched(write_study, RATE, tuned=False).path)
    for seed in range(3):
        add(store, "a", seed, 12.0, {"lr": 0.5, "weight_decay": 0.01})
    analysis = analyse(load_study(store.path)[0])
    labels = [row.optimizer for row in analysis.rows]
    with style():
        drawn = sensitivity_figure(analysis, Look(labels))
    assert sum(label.startswith("a#") for label in labels) == 2
    assert drawn is not None and "a#" in drawn.alternative and "not drawn" not in caption_of(drawn)
