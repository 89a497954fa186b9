"""TensorBoard's event files, read back by TensorBoard."""

import math
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.plan import Run
from bench.record import CurvePoint, Outcome, RunRecord
from bench.runner import Plan
from bench.trackers.selection import trackers
from bench.trackers.tracker import Tracker

pytest.importorskip("tensorboard", reason="needs the extra tensorboard")


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import (  # pyright: ignore[reportMissingImports]
        EventAccumulator,
    )

    return EventAccumulator(str(folder)).Reload()


def values(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(name)]


def test_runs_are_kept_apart(plan: Plan, tmp_path: Path, tell: Callable[[Tracker, Sequence[Run]], None]):
    study = plan.store.path
    (tracker,) = trackers(["tensorboard"], study)
    tell(tracker, plan.runs)
    tracker.close()
    fine, diverged = (study / "tensorboard" / run.run_id for run in plan.runs)
    assert values(fine, "loss") == [(1, 1.0), (2, 0.5)]
    assert values(fine, "metrics/avg_r1") == [(1, 10.0), (2, 20.0)]
    assert values(fine, "final/avg_r1") == [(2, 20.0)]
    (first, (step, second)) = values(diverged, "loss")
    assert first == (1, 3.0)
    assert step == 2
    assert math.isnan(second)
    assert read(diverged).Tensors("reason/text_summary")[0].tensor_proto.string_val == [
        b"loss is nan in \xe2\x80\xa6/mine.py"
    ]
    assert "_hparams_/session_start_info" in read(fine).summary_metadata


def test_target_is_the_folder(plan: Plan, tmp_path: Path, tell: Callable[[Tracker, Sequence[Run]], None]):
    (tracker,) = trackers([f"tensorboard={tmp_path / 'elsewhere'}"], plan.store.path)
    tell(tracker, plan.runs)
    tracker.close()
    assert len(list((tmp_path / "elsewhere").iterdir())) == 2
    assert not plan.store.path.exists()


def test_a_run_that_goes_on_replaces_what_it_repeats(
    plan: Plan, point: Callable[[int, float], CurvePoint], record: Callable[[Run, Outcome], RunRecord]
):
    run = plan.runs[0]
    for epochs in ([1, 2, 3], [3, 4]):  # killed in its fourth epoch; its state was kept at the end of its second
        (tracker,) = trackers(["tensorboard"], plan.store.path)
        tracker.on_run_start(run)
        for epoch in epochs:
            tracker.on_epoch(run, point(epoch, float(epoch)))
        tracker.close()
    (tracker,) = trackers(["tensorboard"], plan.store.path)
    tracker.on_run_start(run)
    tracker.on_run_end(run, record(run, Outcome.ERROR).model_copy(update={"epochs": 4}))
    folder = plan.store.path / "tensorboard" / run.run_id
    assert values(folder, "loss") == [(step, float(step)) for step in (1, 2, 3, 4)]


def test_files_name_no_host(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, tell: Callable[[Tracker, Sequence[Run]], None]
):
    monkeypatch.setattr(socket, "gethostname", lambda: "host-of-somebody")
    (tracker,) = trackers(["tensorboard"], plan.store.path)
    tell(tracker, plan.runs)
    for path in (plan.store.path / "tensorboard").rglob("*tfevents*"):
        assert "host-of-somebody" not in path.name
        assert b"host-of-somebody" not in path.read_bytes()
        assert str(plan.store.path.parent).encode() not in path.read_bytes()
