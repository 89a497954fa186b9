"""trackio's local store, read back."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.plan import Run
from bench.runner import Plan
from bench.trackers.selection import trackers
from bench.trackers.tracker import Tracker


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Its store in a folder of the test, for a user who is logged in."""
    pytest.importorskip("trackio", reason="needs the extra trackio")
    from trackio import run, sqlite_storage, utils  # pyright: ignore[reportMissingImports]

    for module in (utils, sqlite_storage):  # read from the environment once a process
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setattr(run, "_get_default_namespace", lambda: "somebody")
    return sqlite_storage.SQLiteStorage


def test_runs_are_kept_apart_and_nothing_is_printed(
    plan: Plan, storage: Any, tell: Callable[[Tracker, Sequence[Run]], None], capsys: pytest.CaptureFixture[str]
):
    (tracker,) = trackers(["trackio"], plan.store.path)
    tell(tracker, plan.runs)
    tracker.close()
    fine, diverged = (storage.get_logs("tiny", run.run_id) for run in plan.runs)
    assert [(row["step"], row["loss"]) for row in fine[:2]] == [(1, 1.0), (2, 0.5)]
    assert (fine[2]["final/avg_r1"], fine[2]["outcome"]) == (20.0, "ok")
    assert diverged[0]["loss"] == 3.0
    assert math.isnan(diverged[1]["loss"])
    assert (diverged[2]["outcome"], diverged[2]["reason"]) == ("diverged", "loss is nan in …/mine.py")
    assert capsys.readouterr().out == ""


def test_settings_are_kept_without_the_account(
    plan: Plan, storage: Any, tell: Callable[[Tracker, Sequence[Run]], None], tmp_path: Path
):
    (tracker,) = trackers(["trackio=other"], plan.store.path)
    tell(tracker, plan.runs)
    found = storage.get_run_config("other", plan.runs[0].run_id)
    assert found["hyperparameters.lr"] == 0.25
    assert found["_Username"] is None
    for path in (tmp_path / "trackio").rglob("*.db"):
        assert b"somebody" not in path.read_bytes()


def test_an_interrupted_run_goes_on(plan: Plan, storage: Any, point: Callable[[int, float], Any]):
    for epoch in (1, 2):
        (tracker,) = trackers(["trackio"], plan.store.path)
        tracker.on_run_start(plan.runs[0])
        tracker.on_epoch(plan.runs[0], point(epoch, 1.0))
        tracker.close()
    assert [row["step"] for row in storage.get_logs("tiny", plan.runs[0].run_id)] == [1, 2]
