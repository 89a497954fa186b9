"""Two runs at once, as a study would tell them to a tracker."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bench.plan import Run, ended
from bench.protocol import Protocol
from bench.record import CurvePoint, DeviceUse, Failure, MemoryUse, Outcome, RunRecord, Seconds
from bench.runner import Plan, prepare
from bench.trackers.tracker import Tracker


@pytest.fixture
def plan(tiny: Protocol, tmp_path: Path) -> Plan:
    """One seed of sgd and adamw, in a study of the name `tiny`."""
    return prepare("sgd,adamw", protocol=tiny, seeds=1, results=tmp_path / "results", overrides={"sgd": {"lr": 0.25}})


def make_point(epoch: int, loss: float) -> CurvePoint:
    return CurvePoint(
        epoch=epoch, step=4 * epoch, samples=32 * epoch, loss=loss, pair_losses={"image_text": loss}, gradient_norm=1.5,
        update_ratio=0.125, learning_rate=0.5, metrics={"avg_r1": 10.0 * epoch}, seconds=Seconds(training=0.5 * epoch),
        peak_bytes=1000,
    )  # fmt: skip


def make_record(run: Run, outcome: Outcome) -> RunRecord:
    failure = None if outcome is Outcome.OK else Failure(reason="loss is nan in /home/somebody/project/mine.py")
    record = ended(run, outcome, failure, "bench run --results /home/somebody")
    ok = {"metrics": {"avg_r1": 20.0}, "loss": 0.5, "device_use": DeviceUse(samples=2, energy_joules=7.0)}
    return record.model_copy(update={
        "epochs": 2, "steps": 8, "seconds": Seconds(training=1.0), "memory": MemoryUse(peak_bytes=1000),
        **(ok if outcome is Outcome.OK else {}),
    })  # fmt: skip


@pytest.fixture
def point() -> Callable[[int, float], CurvePoint]:
    return make_point


@pytest.fixture
def record() -> Callable[[Run, Outcome], RunRecord]:
    return make_record


@pytest.fixture
def tell() -> Callable[[Tracker, Sequence[Run]], None]:
    """Tells a tracker of two interleaved runs: the first is fine, the second diverges in its second epoch."""

    def tell(tracker: Tracker, runs: Sequence[Run]) -> None:
        fine, diverging = runs
        tracker.on_run_start(fine)
        tracker.on_run_start(diverging)
        tracker.on_epoch(fine, make_point(1, 1.0))
        tracker.on_epoch(diverging, make_point(1, 3.0))
        tracker.on_epoch(diverging, make_point(2, math.nan))
        tracker.on_epoch(fine, make_point(2, 0.5))
        tracker.on_run_end(diverging, make_record(diverging, Outcome.DIVERGED))
        tracker.on_run_end(fine, make_record(fine, Outcome.OK))

    return tell
