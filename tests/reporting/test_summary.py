"""The numbers of a study: means, order, outcomes, and the lines under the table."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.protocols import changed
from bench.record import Outcome, RunRecord
from bench.study import Study
from bench.summary import bounds_lines, claim_lines, estimate, metric_title, outcomes_text, rows, settings_text

Write = Callable[..., Study]


def edited(study: Study, optimizer: str, seed: int, **changes) -> Study:
    """The study with one record changed."""

    def edit(record: RunRecord) -> RunRecord:
        chosen = (record.optimizer, record.seed) == (optimizer, seed)
        return record.model_copy(update=changes) if chosen else record

    return replace(study, records=tuple(edit(record) for record in study.records))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
def test_estimate_is_mean_and_sd(values: list[float]):
    found = estimate(values)
    assert found is not None
    assert found.mean == pytest.approx(sum(values) / len(values), abs=1e-6)
    if len(values) == 1:
        assert found.sd is None
    else:
        variance = sum((v - found.mean) ** 2 for v in values) / (len(values) - 1)
        assert found.sd == pytest.approx(variance**0.5, abs=1e-3)


def test_estimate_is_of_finite_values():
    nan, inf = float("nan"), float("inf")
    assert estimate([1.0, nan, 3.0, inf, -inf]) == estimate([1.0, 3.0])
    assert estimate([nan, nan]) is None and estimate([]) is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8), st.randoms())
def test_estimate_does_not_depend_on_the_order(values: list[float], random):
    shuffled = list(values)
    random.shuffle(shuffled)
    assert estimate(shuffled) == estimate(values)


def test_rows_hold_means_and_sd_of_ok_runs(write_study: Write):
    (row,) = rows(write_study({"adam": {0: 40.0, 1: 44.0, 2: None}}))
    assert row.metrics["avg_r1"].mean == 42
    assert row.metrics["avg_r1"].sd == pytest.approx(8**0.5)  # sqrt(((40 - 42)² + (44 - 42)²) / 1)
    assert row.class_r1 is not None and row.class_r1.mean == 92
    assert row.outcomes == {Outcome.OK: 2, Outcome.DIVERGED: 1}
    assert outcomes_text(row.outcomes) == "2 ok, 1 diverged"
    assert (row.runs, row.success, row.seeds) == (3, pytest.approx(2 / 3), {0, 1, 2})
    assert row.seconds_an_epoch == 2 and row.step_share == 0.25


def test_class_level_is_left_out_where_it_is_the_same(write_study: Write):
    (row,) = rows(write_study({"adam": {0: 40.0}}, class_metrics={"avg_r1": 40.0}))
    assert row.class_r1 is None


def test_order_is_by_success_and_then_by_the_mean(write_study: Write):
    study = write_study({
        "fragile": {0: 80.0, 1: None},
        "low": {0: 10.0, 1: 20.0},
        "high": {0: 30.0, 1: 10.0},
        "broken": {0: None, 1: None},
    })  # fmt: skip
    assert [row.optimizer for row in rows(study)] == ["high", "low", "fragile", "broken"]


def test_order_follows_the_primary_metric_and_small_ranks_are_good(write_study: Write):
    study = write_study({"a": {0: 10.0}, "b": {0: 20.0}})
    for name, best in (("a", 3.0), ("b", 9.0)):
        (record,) = [r for r in study.records if r.optimizer == name]
        study = edited(study, name, 0, metrics=record.metrics | {"i2t_median_rank": best})
    assert [row.optimizer for row in rows(study)] == ["b", "a"]
    ranked = replace(study, protocol=changed(study.protocol, {"primary_metric": "i2t_median_rank"}, "test"))
    assert [row.optimizer for row in rows(ranked)] == ["a", "b"]


def test_a_diverged_run_is_never_a_number(write_study: Write):
    (row,) = rows(write_study({"broken": {0: None, 1: None}}))
    assert row.metrics == {} and row.loss is None and row.seconds_an_epoch is None


def test_another_configuration_of_an_optimizer_is_another_row(write_study: Write):
    study = edited(write_study({"adam": {0: 10.0, 1: 20.0}}), "adam", 1, configuration="d123456")
    assert [row.optimizer for row in rows(study)] == ["adam#d123", "adam#c0"]


def test_settings_are_of_the_run_that_names_most(write_study: Write):
    """A run that could not be set up does not know its constructor's defaults."""
    study = write_study({"adam": {0: 10.0, 1: None}}, hyperparameters={"lr": 0.1, "eps": 1e-8, "other": None})
    (row,) = rows(edited(study, "adam", 0, hyperparameters={"lr": 0.1}, outcome=Outcome.ERROR))
    assert settings_text(row) == "eps=1e-08, lr=0.1"


def test_bounds_are_printed(write_study: Write):
    study = write_study({"adam": {0: 40.0}}, best_loss=3.9507, class_chance={"avg_r1": 5.0})
    assert bounds_lines(study) == [
        "chance: R@1 0.20 %, R@5 1.20 %, R@10 2.20 %",
        "ceiling (best possible matcher): R@1 90.00 %, R@5 91.00 %, R@10 92.00 %",
        "chance of R@1 where any item of the class counts: 5.00 %",
        "lowest expected loss these data allow: 3.951",
    ]
    captions = write_study({"adam": {0: 40.0}}, name="captions", pools={"text": 5000, "image": 1000})
    assert bounds_lines(captions)[0] == (
        "retrieval among the test split's 5,000 texts, 1,000 images; averages over I→T, T→I"
    )
    unknown = write_study({"adam": {0: 40.0}}, name="other", ceiling={})
    assert bounds_lines(unknown)[1] == "ceiling: not known; 100 % is not excluded"


def test_claim_needs_four_seeds_of_every_optimizer(write_study: Write):
    few = write_study({"a": {0: 1.0, 1: 2.0, 2: 3.0}, "b": {0: 1.0, 1: 1.0}})
    assert claim_lines(few, rows(few)) == ["3 seeds or fewer: a description, no ranking claim"]
    lost = write_study({"a": {0: 1.0, 1: 2.0, 2: 3.0, 3: None}}, name="lost")
    assert claim_lines(lost, rows(lost))[0] == "3 seeds or fewer: a description, no ranking claim"
    more = write_study({"a": {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0, 4: None}}, name="more")
    order, failed = claim_lines(more, rows(more))
    assert order.startswith("ordered by the mean of average R@1; ± is the standard deviation over 4 seeds")
    assert "not a ranking" in order and "not ok" in failed


def test_metrics_have_names():
    names = ("avg_r1", "i2t_r10", "a2t_mrr", "t2i_median_rank")
    assert [metric_title(n) for n in names] == ["average R@1", "I→T R@10", "A→T MRR", "T→I median rank"]
