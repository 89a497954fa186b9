"""Keeping an engine busy with runs until none is left, whoever says which runs there are."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.executor import Done, Engine, LocalEngine, Progress, Shard
from bench.plan import Run, ended
from bench.record import Failure, Outcome, RunRecord
from bench.store import Store

ATTEMPTS = 2  # a run whose worker dies is tried once more


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where and how runs are carried out; `command` is what the user asked, for the records."""

    device: str
    data_dir: Path | None
    workers: int
    threads: int
    command: str | None = None


class Watcher:
    """What a study tells while it runs; every method may be left as it is."""

    def run_done(self, record: RunRecord) -> None:
        """A run has ended and its record is stored."""

    def epoch_done(self, progress: Progress) -> None:
        """An epoch has ended on a worker."""

    def retried(self, run: Run, how: str) -> None:
        """A worker died on `run`, which is tried again."""


class Source(Protocol):
    """Where runs come from: a list, or a search that decides on the next when it knows the results of the last."""

    def take(self) -> Run | None:
        """The next run that can start now; None where there is none, for good or until another has ended."""
        ...

    def ended(self, record: RunRecord) -> None:
        """A run that was taken has ended."""
        ...


class Listed:
    """Runs known in advance."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._waiting = list(reversed(runs))

    def take(self) -> Run | None:
        return self._waiting.pop() if self._waiting else None

    def ended(self, record: RunRecord) -> None:
        return None


def drive(source: Source, store: Store, placement: Placement, watcher: Watcher, engine: Engine | None = None) -> None:
    """Carry out the runs of `source` until none is left; raises `KeyboardInterrupt` soon after Ctrl-C."""
    engine = engine or LocalEngine(
        workers=placement.workers, threads=placement.threads, logs=store.path / "logs", on_progress=watcher.epoch_done
    )
    try:
        with _noticing_interrupts() as interrupted:
            _Drive(source, store, placement, watcher, engine).go(interrupted)
    finally:
        engine.close()


class _Drive:
    """The loop's state: runs to be tried again, and how often each was tried."""

    def __init__(self, source: Source, store: Store, placement: Placement, watcher: Watcher, engine: Engine) -> None:
        self._source, self._store, self._placement = source, store, placement
        self._watcher, self._engine = watcher, engine
        self._again: list[Run] = []
        self._attempts: dict[str, int] = {}

    def go(self, interrupted: threading.Event) -> None:
        busy = 0
        while True:
            while busy < self._engine.slots and (run := self._again.pop() if self._again else self._source.take()):
                self._submit(run)
                busy += 1
            if not busy:
                return
            if interrupted.is_set():
                raise KeyboardInterrupt
            for done in self._engine.wait(timeout=0.2):
                busy -= 1
                self._settle(done)

    def _submit(self, run: Run) -> None:
        self._attempts[run.run_id] = self._attempts.get(run.run_id, 0) + 1
        place = self._placement
        self._engine.submit(
            Shard(runs=(run,), study=self._store.path, device=place.device, data_dir=place.data_dir,
                  command=place.command)
        )  # fmt: skip

    def _settle(self, done: Done) -> None:
        """Runs of an ended shard that have to run again are kept; the others are told."""
        for run in done.shard.runs:
            record = self._store.read_record(run.run_id)
            if done.crashed is not None and run.run_id == done.run_id:
                if self._attempts[run.run_id] < ATTEMPTS:
                    self._watcher.retried(run, done.crashed)
                    self._again.append(run)
                    continue
                record = ended(run, Outcome.ERROR, _crash(done.crashed), self._placement.command)
                self._store.write_record(record)
            if record is None:
                self._again.append(run)
            else:
                self._source.ended(record)
                self._watcher.run_done(record)


def _crash(how: str) -> Failure:
    """Why a run has failed whose worker died every time."""
    text = f"the worker process died {ATTEMPTS} times on this run, last by {how}; the study's logs/ may say why"
    return Failure(reason=text)


@contextmanager
def _noticing_interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets.

    An exception out of a signal handler can be lost inside a library that was just at work; an event cannot.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
