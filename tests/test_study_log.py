"""The log file of a study, and several watchers at once."""

import os
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bench.driver import Watcher
from bench.executor import Progress, Started
from bench.plan import Run, ended
from bench.protocol import Protocol
from bench.record import CurvePoint, Failure, Outcome, Seconds
from bench.runner import prepare
from bench.study_log import StudyLog, Watchers


@pytest.fixture
def run(tiny: Protocol, tmp_path: Path) -> Run:
    return prepare("sgd", protocol=tiny, seeds=1, results=tmp_path).runs[0]


def lines(study: Path) -> list[str]:
    """What follows the time of each line."""
    found = []
    for line in (study / "logs" / "study.log").read_text().splitlines():
        time, _, rest = line.partition(" ")
        assert datetime.fromisoformat(time).utcoffset() == timedelta(0)
        found.append(rest)
    return found


def test_every_event_is_a_line(run: Run, tmp_path: Path):
    log, name = StudyLog(tmp_path, "avg_r1"), run.run_id
    good = ended(run, Outcome.OK, None, None).model_copy(
        update={"metrics": {"avg_r1": 12.345}, "seconds": Seconds(total=3.21)}
    )
    log.run_started(Started(worker=1, run_id=name, epoch=0))
    log.retried(run, "signal 9")
    log.run_started(Started(worker=0, run_id=name, epoch=3))
    log.run_done(good)
    log.run_done(ended(run, Outcome.DIVERGED, Failure(reason="loss is nan\nat \x1b[31mstep 3"), None))
    log.stopping(2)
    log.set_aside(name, "/home/somebody/results/run.json: not what was written")
    log.note("searched by tpe")
    assert lines(tmp_path) == [
        f"{name} started on worker 1",
        f"{name} its worker died (signal 9), tried once more",
        f"{name} goes on after epoch 3 on worker 0",
        f"{name} ended ok after 3.2 s, avg_r1 12.35 %",
        f"{name} ended diverged after 0.0 s: loss is nan at �[31mstep 3",
        "- stopping, 2 runs under way",
        f"{name} set aside, runs again: …/run.json: not what was written",
        "- searched by tpe",
    ]


def test_two_processes_share_the_file(tmp_path: Path):
    first, second = StudyLog(tmp_path, "avg_r1"), StudyLog(tmp_path, "avg_r1")
    for i in range(3):
        first.note(f"a{i}")
        second.note(f"b{i}")
    assert lines(tmp_path) == ["- a0", "- b0", "- a1", "- b1", "- a2", "- b2"]


def test_a_full_disk_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = StudyLog(tmp_path, "avg_r1")

    def full(*arguments: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        log.note("lost")
    log.note("kept")
    assert lines(tmp_path) == ["- kept"]


def test_a_folder_that_cannot_be_made_ends_nothing(tmp_path: Path):
    (tmp_path / "logs").write_text("a file")
    StudyLog(tmp_path, "avg_r1").note("lost")


class Noted(Watcher):
    """Notes the names of its events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name in EVENTS:
            return lambda *arguments: self.events.append(name)
        return super().__getattribute__(name)


EVENTS = [name for name in dir(Watcher) if re.match("[a-z]", name)]


def test_watchers_pass_every_event_to_all(run: Run):
    first, second = Noted(), Noted()
    both = Watchers([first, second])
    record = ended(run, Outcome.OK, None, None)
    point = CurvePoint(epoch=1, step=1, samples=1, loss=1.0, pair_losses={}, gradient_norm=1.0, update_ratio=1.0,
                       learning_rate=1.0, metrics={}, seconds=Seconds(), peak_bytes=0)  # fmt: skip
    arguments: dict[str, tuple[Any, ...]] = {
        "run_started": (Started(worker=0, run_id=run.run_id, epoch=0),),
        "epoch_done": (Progress(worker=0, run_id=run.run_id, point=point),),
        "run_done": (record,),
        "set_aside": (run.run_id, "not what was written"),
        "retried": (run, "signal 9"),
        "waiting": (1,),
        "stopping": (1,),
    }
    assert sorted(arguments) == sorted(EVENTS), "a watcher's method without a test"
    for name in EVENTS:
        assert name in vars(Watchers), f"Watchers passes {name} on to nobody"
        getattr(both, name)(*arguments[name])
    assert first.events == second.events == EVENTS
