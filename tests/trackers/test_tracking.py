"""Events on their way to trackers that fail, hang or are slow."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.executor import Progress, Started
from bench.plan import Run
from bench.record import CurvePoint, Outcome, RunRecord
from bench.runner import Plan, carry_out
from bench.trackers import tracking as tracking_module
from bench.trackers.tracker import Tracker
from bench.trackers.tracking import Tracking


class Noted(Tracker):
    """Notes what it is told."""

    label = "--tracker noted"

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.threads: set[str] = set()

    def on_run_start(self, run: Run) -> None:
        self._note("start", run)

    def on_epoch(self, run: Run, point: CurvePoint) -> None:
        self._note(f"epoch {point.epoch}", run)

    def on_run_end(self, run: Run, record: RunRecord) -> None:
        self._note(str(record.outcome), run)

    def close(self) -> None:
        self.events.append(("close", ""))

    def _note(self, what: str, run: Run) -> None:
        self.threads.add(threading.current_thread().name)
        self.events.append((what, run.optimizer))


class Failing(Noted):
    label = "--tracker failing"

    def on_epoch(self, run: Run, point: CurvePoint) -> None:
        super().on_epoch(run, point)
        raise ConnectionError("refused\nby the server")

    def close(self) -> None:
        super().close()
        raise SystemExit(1)


class Hanging(Noted):
    label = "--tracker hanging"

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def on_run_start(self, run: Run) -> None:
        super().on_run_start(run)
        self.released.wait(60)


Point = Callable[[int, float], CurvePoint]
Record = Callable[[Run, Outcome], RunRecord]


def tell(tracking: Tracking, run: Run, point: Point, record: Record) -> None:
    """A whole run of two epochs."""
    tracking.run_started(Started(worker=0, run_id=run.run_id, epoch=0))
    for epoch in (1, 2):
        tracking.epoch_done(Progress(worker=0, run_id=run.run_id, point=point(epoch, 1.0)))
    tracking.run_done(record(run, Outcome.OK))


def test_events_arrive_in_order_in_another_thread(plan: Plan, point: Point, record: Record):
    tracker, warnings = Noted(), list[str]()
    with Tracking([tracker], plan, warnings.append) as tracking:
        tell(tracking, plan.runs[1], point, record)
        tell(tracking, plan.runs[0], point, record)
    adamw = [("start", "adamw"), ("epoch 1", "adamw"), ("epoch 2", "adamw"), ("ok", "adamw")]
    assert tracker.events == [*adamw, *((what, "sgd") for what, _ in adamw), ("close", "")]
    assert tracker.threads == {"tracker --tracker noted"}
    assert warnings == []


def test_a_failing_tracker_is_one_warning_and_the_others_go_on(plan: Plan, point: Point, record: Record):
    failing, fine, warnings = Failing(), Noted(), list[str]()
    with Tracking([failing, fine], plan, warnings.append) as tracking:
        for run in plan.runs:
            tell(tracking, run, point, record)
    assert len(fine.events) == 9
    assert failing.events == [("start", "sgd"), ("epoch 1", "sgd"), ("close", "")]
    assert warnings == ["--tracker failing: ConnectionError: refused by the server; switched off, the study goes on "
                        "without it"]  # fmt: skip


def test_a_hanging_tracker_holds_up_neither_events_nor_the_end(plan: Plan, point: Point, record: Record):
    hanging, fine, warnings = Hanging(), Noted(), list[str]()
    before = time.monotonic()
    with Tracking([hanging, fine], plan, warnings.append, patience=1.0) as tracking:
        for run in plan.runs:
            tell(tracking, run, point, record)
        assert time.monotonic() - before < 1
    assert time.monotonic() - before < 10
    assert len(fine.events) == 9
    assert warnings == ["--tracker hanging: not done yet, 8 events not sent; switched off, the study goes on without "
                        "it"]  # fmt: skip
    hanging.released.set()


def test_a_slow_tracker_that_gets_on_is_waited_for(plan: Plan, point: Point, record: Record):
    class Slow(Noted):
        def _note(self, what: str, run: Run) -> None:
            time.sleep(0.15)
            super()._note(what, run)

    slow, warnings = Slow(), list[str]()
    with Tracking([slow], plan, warnings.append, patience=0.6) as tracking:  # 8 events take twice as long
        for run in plan.runs:
            tell(tracking, run, point, record)
    assert (len(slow.events), warnings) == (9, [])


def test_too_many_waiting_events_switch_a_tracker_off(plan: Plan, point: Point, record: Record):
    hanging, warnings = Hanging(), list[str]()
    with Tracking([hanging], plan, warnings.append, patience=0.1, most_waiting=5) as tracking:
        for _ in range(3):
            tell(tracking, plan.runs[0], point, record)
    assert warnings == ["--tracker hanging: 5 events wait for it; switched off, the study goes on without it"]
    hanging.released.set()


def test_runs_of_other_processes_are_left_to_them(plan: Plan, record: Record):
    tracker = Noted()
    with Tracking([tracker], plan, pytest.fail) as tracking:
        tracking.run_done(record(plan.runs[0], Outcome.OK))
        tracking.run_started(Started(worker=0, run_id="not-planned", epoch=0))
    assert tracker.events == [("close", "")]


def test_a_run_that_could_not_begin_is_told(plan: Plan, record: Record):
    tracker = Noted()
    with Tracking([tracker], plan, pytest.fail) as tracking:
        tracking.run_done(record(plan.runs[0], Outcome.ERROR).model_copy(update={"steps": 0, "epochs": 0}))
    assert tracker.events == [("start", "sgd"), ("error", "sgd"), ("close", "")]


def test_runs_that_are_planned_later_are_found(plan: Plan, point: Point, record: Record):
    class Growing:
        missing: list[Run] = []  # noqa: RUF012

    growing, tracker = Growing(), Noted()
    with Tracking([tracker], growing, pytest.fail) as tracking:
        for run in plan.runs:
            growing.missing.append(run)
            tell(tracking, run, point, record)
    assert len(tracker.events) == 9


def test_waiting_is_said_once_and_bounded_for_all_together(plan: Plan, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracking_module, "SILENT_WAIT", 0.1)
    first, second, warnings = Hanging(), Hanging(), list[str]()
    tracking = Tracking([first, second], plan, warnings.append, patience=60, longest_wait=0.4)
    tracking.run_started(Started(worker=0, run_id=plan.runs[0].run_id, epoch=0))
    before = time.monotonic()
    tracking.close()
    assert 0.4 <= time.monotonic() - before < 2
    label, said = "--tracker hanging", "not done yet, 1 event not sent; switched off, the study goes on without it"
    assert warnings == [f"waiting for {label}, {label} to take what is left; Ctrl-C goes on without",
                        f"{label}: {said}", f"{label}: {said}"]  # fmt: skip
    first.released.set()
    second.released.set()


def test_an_interrupt_ends_the_waiting_alone(plan: Plan, monkeypatch: pytest.MonkeyPatch):
    hanging, warnings = Hanging(), list[str]()
    tracking = Tracking([hanging], plan, warnings.append)
    tracking.run_started(Started(worker=0, run_id=plan.runs[0].run_id, epoch=0))

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(time, "sleep", interrupted)
        tracking.close()
    assert len(warnings) == 1
    hanging.released.set()


@pytest.mark.slow
def test_a_study_is_tracked_and_a_failing_tracker_fails_no_run(plan: Plan, tmp_path: Path):
    fine, failing, warnings = Noted(), Failing(), list[str]()
    with Tracking([fine, failing], plan, warnings.append) as tracking:
        study = carry_out(plan, tracking)
    assert [str(record.outcome) for record in study.records] == ["ok", "ok"]
    assert sorted(fine.events) == sorted(
        [(what, name) for name in ("sgd", "adamw") for what in ("start", "epoch 1", "epoch 2", "ok")] + [("close", "")]
    )
    assert len(warnings) == 1
