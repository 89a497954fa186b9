"""What is worth knowing: faults, failures, odd updates, equal results; each said once."""

import json
from collections.abc import Callable
from dataclasses import replace

from bench.record import Diagnostics, Failure, Fingerprints, Outcome
from bench.reporting.findings import findings, printable_line
from bench.study import Study, load_study
from bench.summary import rows

Write = Callable[..., Study]


def lines(study: Study) -> list[str]:
    return findings(study, rows(study))


def with_records(study: Study, change: Callable) -> Study:
    """The study with `change(record)`, a dictionary of fields, applied to every record."""
    return replace(study, records=tuple(r.model_copy(update=change(r)) for r in study.records))


def test_failures_are_named_once_with_their_seeds(write_study: Write):
    study = write_study({"bad": {0: None, 1: None}, "good": {0: 5.0, 1: 6.0}})
    assert lines(study)[0] == "bad: diverged in seeds 0, 1: loss is nan"


def test_reasons_that_differ_in_numbers_are_one(write_study: Write):
    study = with_records(
        write_study({"bad": {0: None, 1: None, 2: None}}),
        lambda r: {"failure": Failure(reason=f"loss {90 + r.seed}.5e+03 is over 10 × the initial 9")},
    )
    assert lines(study)[0] == (
        "bad: diverged in seeds 0 to 2: loss 90.5e+03 is over 10 × the initial 9 (seed 0, others alike)"
    )


def test_each_kind_of_failure_has_its_line(write_study: Write):
    def change(record):
        if record.seed:
            return {"outcome": Outcome.OUT_OF_MEMORY, "failure": Failure(reason="no memory")}
        return {}

    found = lines(with_records(write_study({"bad": {0: None, 1: None}}), change))
    assert found[:2] == ["bad: diverged in seed 0: loss is nan", "bad: out of memory in seed 1: no memory"]


def test_a_block_that_did_not_start_alike_is_a_fault(write_study: Write):
    def change(record):
        odd = record.optimizer == "c" and record.seed == 1
        return {"fingerprints": Fingerprints(initial_weights="x" if odd else "w", batch_order="o", initial_loss=10.0)}

    study = with_records(write_study({"a": {0: 1.0, 1: 2.0}, "b": {0: 1.0, 1: 3.0}, "c": {0: 2.0, 1: 1.0}}), change)
    assert lines(study)[0] == "FAULT: c did not start as the others in seed 1 (initial weights): do not compare"


def test_another_loss_at_the_first_step_is_a_fault_and_rounding_is_none(write_study: Write):
    def change(loss):
        return lambda r: {"fingerprints": r.fingerprints.model_copy(update={
            "initial_loss": loss if r.optimizer == "b" else 10.0})}  # fmt: skip

    study = write_study({"a": {0: 1.0}, "b": {0: 2.0}, "c": {0: 3.0}})
    assert not any("FAULT" in line for line in lines(with_records(study, change(10.001))))
    for loss in (11.0, float("nan"), float("inf")):
        (fault,) = [line for line in lines(with_records(study, change(loss))) if line.startswith("FAULT")]
        assert fault == "FAULT: b did not start as the others in seed 0 (loss at the first step): do not compare"


def test_a_seed_that_counts_twice_is_a_fault(write_study: Write):
    study = write_study({"a": {0: 1.0}})
    twice = replace(study, records=(*study.records, study.records[0].model_copy(update={"run_id": "a-s0-other"})))
    assert lines(twice)[0].startswith("FAULT: a has several runs of seed 0 in one configuration")


def test_configurations_are_told_apart(write_study: Write):
    study = with_records(
        write_study({"a": {0: 1.0, 1: 2.0}}),
        lambda r: {"configuration": f"{r.seed}fghij", "hyperparameters": {"lr": 0.1 + r.seed},
                   "source_digest": "0123456789" if r.seed else None},
    )  # fmt: skip
    assert lines(study)[:2] == ["a#0fgh: lr=0.1", "a#1fgh: lr=1.1, source 01234567"]


def test_missing_seeds_are_named(write_study: Write):
    assert lines(write_study({"a": {0: 1.0, 1: 2.0, 2: 3.0}, "b": {0: 1.5}}))[0] == (
        "b: no record of seeds 1, 2, which others have"
    )


def test_odd_updates_are_counted_and_shared_lines_merged(write_study: Write):
    odd = Diagnostics(parameters=100, parameters_without_gradient=25, observed_steps=3,
                      zero_update={"w1": 3, "w2": 2, "once": 1}, large_update={"w3": 1})  # fmt: skip
    found = lines(write_study({"a": {0: 1.0, 1: 2.0}, "b": {0: 3.0, 1: 4.0}}, diagnostics=odd))
    assert found == [
        "b, a: 2 parameters got an update of exactly 0 in more than one of the watched steps (w1, w2)",
        "b, a: 1 parameter got an update larger than the parameter's own norm (w3)",
        "25 of 100 weights never got a gradient (25.0 %), the same for all optimizers",
    ]


def test_weights_without_a_gradient_are_told_apart_where_they_differ(write_study: Write):
    study = with_records(
        write_study({"a": {0: 1.0}, "b": {0: 3.0}}),
        lambda r: {"diagnostics": Diagnostics(
            parameters=100, parameters_without_gradient=25 if r.optimizer == "a" else 50, observed_steps=1)},
    )  # fmt: skip
    assert lines(study) == [
        "50 of 100 weights never got a gradient (50.0 %): b",
        "25 of 100 weights never got a gradient (25.0 %): a",
    ]


def test_identical_optimizers_are_named(write_study: Write):
    found = lines(write_study({"adam": {0: 40.0, 1: 41.0}, "custom": {0: 40.0, 1: 41.0}, "x": {0: 40.0, 1: 42.0}}))
    assert "adam and custom gave identical metrics on every seed (2)" in found
    assert not any("x gave" in line or "and x" in line for line in found)


def test_unreadable_records_are_named_without_their_folder(write_study: Write):
    study = write_study({"adam": {0: 40.0, 1: 41.0}})
    (study.path / "runs" / "adam-s1" / "run.json").write_text("{")
    again, _ = load_study(study.path)
    assert [r.seed for r in again.records] == [0]
    assert lines(again)[0].startswith("left out, because unreadable: hand/runs/adam-s1/run.json: ")


def test_folders_and_control_signs_do_not_reach_the_text(write_study: Write):
    study = write_study({"adam": {0: 40.0}})
    text = f"cannot read '/home/someone/data/x.wav' or --data-dir=/mnt/a/b; {study.path}/runs\n\x1b[31m12.3/11.9 a/b"
    assert printable_line(text, study) == "cannot read '…/x.wav' or --data-dir=…/b; hand/runs [31m12.3/11.9 a/b"


def test_findings_do_not_depend_on_the_order_of_records(write_study: Write):
    study = write_study({"a": {0: None, 1: 2.0, 2: None}, "b": {0: 1.0, 1: 2.0}, "c": {0: 1.0, 1: 2.0}})
    assert lines(replace(study, records=study.records[::-1])) == lines(study)
    assert json.dumps(lines(study))


def test_a_metric_that_is_no_number_is_a_fault(write_study: Write):
    def change(record):
        return {"metrics": record.metrics | {"i2t_r5": float("nan")}} if record.seed == 1 else {}

    study = with_records(write_study({"a": {0: 5.0, 1: 6.0}}), change)
    assert lines(study)[0] == "FAULT: a: i2t_r5 without a finite number in seed 1; the means leave it out"
