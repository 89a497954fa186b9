"""Between a study and its workers: who may write a run's record, and what happens when something ends early."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from bench.checkpoint import Checkpoints
from bench.driver import Listed, Watcher, _Drive
from bench.driver import drive as drive_runs
from bench.engines.local import LocalEngine
from bench.errors import EngineError
from bench.executor import Done, Shard
from bench.placement import Placement
from bench.plan import Run, ended
from bench.protocol import Protocol
from bench.record import Failure, Outcome
from bench.store import Store
from bench.worker import carry_out

PLACEMENT = Placement(device="cpu")
CPU = torch.device("cpu")


@pytest.fixture
def run(tiny: Protocol) -> Run:
    return Run(protocol=tiny, optimizer="sgd", reference="sgd", hyperparameters={"lr": 0.1}, seed=0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def give_up(store: Store, run: Run):
    drive = _Drive(Listed([]), store, PLACEMENT, Watcher())
    return drive._give_up(run, Outcome.ERROR, Failure(reason="the worker process died"))


def test_a_run_that_another_process_has_begun_is_not_given_up(store: Store, run: Run):
    with store.claim(run.run_id) as mine:
        assert mine and give_up(store, run) is None
    assert store.read_record(run.run_id) is None
    store.write_record(ended(run, Outcome.DIVERGED, None, None))
    assert give_up(store, run).outcome is Outcome.DIVERGED
    assert store.read_record(run.run_id).outcome is Outcome.DIVERGED


class Busy:
    """An engine that finds its only run in another process's hands, until that has ended it with an unreadable record
    and then with a good one."""

    slots = 1

    def __init__(self, store: Store) -> None:
        self._store, self.asked = store, 0
        self._shard: Shard | None = None

    def submit(self, shard: Shard) -> None:
        self._shard = shard
        self.asked += 1

    def wait(self, timeout: float) -> Sequence[Done]:
        shard, self._shard = self._shard, None
        if shard is None:
            time.sleep(0.01)
            return []
        (run,) = shard.runs
        if self.asked <= 2:
            return [Done(shard=shard, busy=frozenset([run.run_id]))]
        self._store.write_record(ended(run, Outcome.DIVERGED, None, None))
        if self.asked == 3:
            (self._store.run_dir(run.run_id) / "run.json").write_text("half")
        return [Done(shard=shard)]

    def stop(self) -> None: ...

    def close(self) -> None: ...


def test_waiting_for_another_process_is_said_once(store: Store, run: Run, monkeypatch: pytest.MonkeyPatch):
    said: list[int] = []

    class Log(Watcher):
        def waiting(self, runs: int) -> None:
            said.append(runs)

    monkeypatch.setattr("bench.driver.ASK_AGAIN_SECONDS", 0.05)
    engine = Busy(store)
    drive_runs(Listed([run]), store, PLACEMENT, Log(), engine)
    assert said == [1] and engine.asked == 4


def test_a_worker_that_is_killed_before_it_is_ready_costs_the_run_no_try(store: Store, run: Run):
    engine = LocalEngine(PLACEMENT, store.path / "logs")
    try:
        shard = Shard(runs=(run,), study=store.path, placement=PLACEMENT)
        engine.submit(shard)
        for expected in ([Done(shard=shard)], [], [], []):
            engine._workers[0]._process.kill()
            assert engine.wait(60) == expected
        engine._workers[0]._process.kill()
        with pytest.raises(EngineError, match=r"cannot start \(exit code -9\)"):
            engine.wait(60)
    finally:
        engine.close()


def carried_out(store: Store, run: Run, stopping: threading.Event) -> list[str]:
    said: list[str] = []
    shard = Shard(runs=(run,), study=store.path, placement=PLACEMENT)
    carry_out(shard, lambda **event: said.append(event["event"]), stopping, CPU)
    return said


def test_a_run_that_had_not_begun_when_it_was_to_stop_is_not_begun(store: Store, run: Run):
    stopping = threading.Event()
    stopping.set()
    assert carried_out(store, run, stopping) == ["stopped"]
    assert not store.run_dir(run.run_id).exists()


def test_a_run_that_cannot_be_set_up_keeps_its_state_and_has_no_curve_of_an_earlier_try(store: Store, run: Run):
    other = run.model_copy(update={"source_digest": "of another time"})
    store.start_curve(other.run_id)
    (store.run_dir(other.run_id) / "curve.jsonl").write_text("an earlier try's\n")
    Checkpoints(store.run_dir(other.run_id)).write(4, {"run_id": other.run_id})
    assert carried_out(store, other, threading.Event()) == ["done"]
    record = store.read_record(other.run_id)
    assert record.outcome is Outcome.ERROR and store.read_curve(other.run_id, record.curve_sha256) == []
    assert Checkpoints(store.run_dir(other.run_id)).read() is not None
