"""The numbers of a study: means, order, outcomes, and the lines under the table."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.record import Diagnostics, Fingerprints, Outcome
from bench.study import Study
from bench.summary import bounds_lines, claim_line, estimate, findings, rows

Write = Callable[..., Study]


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


def test_rows_hold_means_and_sd_of_ok_runs(write_study: Write):
    (row,) = rows(write_study({"adam": {0: 40.0, 1: 44.0, 2: None}}))
    assert row.metrics["avg_r1"].mean == 42
    assert row.metrics["avg_r1"].sd == pytest.approx(8**0.5)
    assert row.class_r1 is not None and row.class_r1.mean == 92
    assert row.outcomes == {Outcome.OK: 2, Outcome.DIVERGED: 1}
    assert (row.runs, row.success) == (3, pytest.approx(2 / 3))
    assert row.seconds_an_epoch == 2 and row.step_share == 0.25


def test_order_is_by_success_and_then_by_the_mean(write_study: Write):
    study = write_study({
        "fragile": {0: 80.0, 1: None},
        "low": {0: 10.0, 1: 20.0},
        "high": {0: 30.0, 1: 10.0},
        "broken": {0: None, 1: None},
    })  # fmt: skip
    assert [row.optimizer for row in rows(study)] == ["high", "low", "fragile", "broken"]


def test_a_diverged_run_is_never_a_number(write_study: Write):
    (row,) = rows(write_study({"broken": {0: None, 1: None}}))
    assert row.metrics == {} and row.loss is None and row.seconds_an_epoch is None


def test_bounds_are_printed(write_study: Write):
    study = write_study({"adam": {0: 40.0}}, best_loss=3.9507)
    assert bounds_lines(study) == [
        "chance: R@1 0.20 %, R@5 1.20 %, R@10 2.20 %",
        "ceiling (best possible matcher): R@1 90.00 %, R@5 91.00 %, R@10 92.00 %",
        "lowest expected loss these data allow: 3.951",
    ]
    unknown = write_study({"adam": {0: 40.0}}, name="other", ceiling={})
    assert bounds_lines(unknown)[1] == "ceiling: no bound below 100 % is known"


def test_claim_needs_three_seeds_of_every_optimizer(write_study: Write):
    assert claim_line(write_study({"a": {0: 1.0, 1: 2.0, 2: 3.0}, "b": {0: 1.0, 1: 1.0}})) == (
        "fewer than 3 seeds: no ranking claim"
    )
    line = claim_line(write_study({"a": {0: 1.0, 1: 2.0, 2: 3.0}}, name="more"))
    assert line.startswith("ordered by the mean of avg_r1 over at least 3 seeds") and "not a ranking" in line


def test_findings_name_failures_once_with_their_seeds(write_study: Write):
    study = write_study({"bad": {0: None, 1: None}, "good": {0: 5.0, 1: 6.0}})
    assert findings(study)[0] == "bad: diverged in seeds 0, 1: loss is nan"


def test_findings_shout_when_a_block_did_not_start_alike(write_study: Write):
    write_study({"a": {0: 1.0}})
    study = write_study({"b": {0: 1.0}}, fingerprints=Fingerprints(initial_weights="x", batch_order="o0"))
    assert findings(study)[0].startswith("FAULT: initial weights, batches or data differ within seeds 0")


def test_findings_count_odd_updates_and_idle_parameters(write_study: Write):
    odd = Diagnostics(parameters=100, parameters_without_gradient=25, observed_steps=3,
                      zero_update={"w1": 3, "w2": 1}, large_update={"w3": 1})  # fmt: skip
    lines = findings(write_study({"a": {0: 1.0, 1: 2.0}}, diagnostics=odd))
    assert "a: 2 parameters had an update of exactly 0 in a watched step: w1, w2" in lines
    assert "a: 1 parameter had an update larger than its own norm in a watched step: w3" in lines
    assert "25 of 100 parameters (25.0 %) never got a gradient" in lines


def test_findings_say_which_optimizers_are_identical(write_study: Write):
    lines = findings(write_study({"adam": {0: 40.0, 1: 41.0}, "custom": {0: 40.0, 1: 41.0}, "x": {0: 40.0, 1: 42.0}}))
    assert "adam and custom gave identical metrics in all 2 common seeds" in lines
    assert not any("x gave" in line or "and x" in line for line in lines)


def test_findings_list_unreadable_records(write_study: Write):
    study = write_study({"adam": {0: 40.0, 1: 41.0}})
    (study.path / "runs" / "adam-s1" / "run.json").write_text("{")
    again = write_study({})
    assert [r.seed for r in again.records] == [0]
    assert findings(again)[0].startswith("unreadable record left out: ") and "adam-s1" in findings(again)[0]
