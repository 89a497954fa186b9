"""What a running study shows."""

import math
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from bench.display import LiveView, PlainLines, display
from bench.executor import Progress
from bench.protocol import Protocol
from bench.record import CurvePoint, Failure, Outcome, ProtocolName, RunRecord, Seconds
from bench.runner import Plan, prepare


@pytest.fixture
def plan(tiny: Protocol, tmp_path: Path) -> Plan:
    return prepare("sgd,adamw", protocol=tiny, seeds=1, results=tmp_path)


def console(terminal: bool) -> tuple[Console, StringIO]:
    stream = StringIO()
    return Console(file=stream, force_terminal=terminal, width=80, color_system=None), stream


def make_record(plan: Plan, place: int, outcome: Outcome) -> RunRecord:
    run = plan.runs[place]
    ok = outcome is Outcome.OK
    return RunRecord(
        run_id=run.run_id, protocol=ProtocolName(name="tiny", hash=plan.protocol.hash), optimizer=run.optimizer,
        configuration=run.configuration, hyperparameters={}, seed=run.seed, outcome=outcome,
        failure=None if ok else Failure(reason="loss is nan [1/2]"), metrics={"avg_r1": 12.345} if ok else {},
        loss=1.5 if ok else None, finished="2020-01-01T00:00:00+00:00",
    )  # fmt: skip


def make_point(epoch: int, loss: float, **metrics: float) -> CurvePoint:
    return CurvePoint(epoch=epoch, step=epoch, samples=epoch, loss=loss, pair_losses={}, gradient_norm=1.0,
                      update_ratio=0.1, learning_rate=0.1, metrics=metrics, seconds=Seconds(),
                      peak_bytes=1)  # fmt: skip


def test_terminal_or_not_decides_the_form(plan: Plan):
    assert isinstance(display(plan, console(True)[0]), LiveView)
    assert isinstance(display(plan, console(False)[0]), PlainLines)


def test_plain_lines_are_one_a_run(plan: Plan):
    place, stream = console(False)
    with PlainLines(plan, place) as watcher:
        watcher.epoch_done(Progress(worker=0, run_id=plan.runs[0].run_id, point=make_point(1, 2.0, avg_r1=1.0)))
        watcher.run_done(make_record(plan, 0, Outcome.OK))
        watcher.retried(plan.runs[1], "signal 9")
        watcher.run_done(make_record(plan, 1, Outcome.DIVERGED))
    assert stream.getvalue().splitlines() == [
        "[1/2] sgd seed 0: avg_r1 12.35 %, loss 1.500 (0.0 s)",
        "worker died (signal 9) on adamw seed 0; trying once more",
        "[2/2] adamw seed 0: diverged: loss is nan [1/2] (0.0 s)",
    ]


def test_live_view_has_a_row_a_worker_and_counts_runs(plan: Plan):
    place, stream = console(True)
    with LiveView(plan, place) as watcher:
        watcher.epoch_done(Progress(worker=0, run_id=plan.runs[0].run_id, point=make_point(1, 2.0, avg_r1=1.0)))
        watcher.epoch_done(Progress(worker=1, run_id=plan.runs[1].run_id, point=make_point(2, math.nan)))
        watcher.run_done(make_record(plan, 1, Outcome.DIVERGED))
        watcher._live.refresh()
    text = stream.getvalue()
    assert "1/2 runs" in text
    assert "epoch   1/2   loss 2.000   R@1   1.0 %" in text
    assert "loss not finite" in text
    assert "adamw seed 0: diverged: loss is nan [1/2]" in text


def test_live_view_counts_the_runs_that_a_worker_has_at_once(plan: Plan):
    place, stream = console(True)
    with LiveView(plan, place) as watcher:
        for run in plan.runs:
            watcher.epoch_done(Progress(worker=0, run_id=run.run_id, point=make_point(1, 2.0, avg_r1=1.0)))
        watcher._live.refresh()
        shown = stream.getvalue()
        watcher.run_done(make_record(plan, 1, Outcome.OK))
        watcher.epoch_done(Progress(worker=0, run_id=plan.runs[0].run_id, point=make_point(2, 1.5, avg_r1=1.0)))
        watcher._live.refresh()
    (line,) = {line.rstrip() for line in shown.splitlines() if "adamw s0" in line}
    assert line.endswith("+1 more") and len(line) <= 80
    assert "loss 1.500   R@1   1.0 % +" not in stream.getvalue()
