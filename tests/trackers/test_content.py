"""What trackers are told."""

from collections.abc import Callable

from bench.plan import Run
from bench.record import Outcome, RunRecord
from bench.runner import Plan
from bench.trackers.content import ending, results, settings


def test_settings_are_flat_and_name_no_folder(plan: Plan):
    hyperparameters = {"lr": 0.25, "betas": [0.9, 0.99], "cache": "/home/somebody/cache"}
    changes = {"reference": "/home/somebody/mine.py:Mine", "hyperparameters": hyperparameters}
    found = settings(plan.runs[0].model_copy(update=changes))
    assert found["optimizer"] == "sgd"
    assert found["hyperparameters.lr"] == 0.25
    assert found["hyperparameters.betas"] == "[0.9, 0.99]"
    assert found["protocol.hash"] == plan.protocol.hash
    assert "somebody" not in str(found)


def test_a_failed_run_has_its_reason_without_folders_and_no_metrics(
    plan: Plan, record: Callable[[Run, Outcome], RunRecord]
):
    failed = record(plan.runs[0], Outcome.ERROR)
    assert ending(failed) == {"outcome": "error", "reason": "loss is nan in …/mine.py"}
    assert "final/avg_r1" not in results(failed)


def test_results_hold_the_device_where_it_was_watched(plan: Plan, record: Callable[[Run, Outcome], RunRecord]):
    found = results(record(plan.runs[0], Outcome.OK))
    assert found["final/avg_r1"] == 20.0
    assert found["final/device/energy_joules"] == 7.0
    assert "final/device/max_temperature_celsius" not in found
