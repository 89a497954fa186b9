"""Keeping an engine busy with runs until none is left, whoever says which runs there are."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from bench.bank import runs_at_once
from bench.engines import engine_for
from bench.environment import out_of_memory_kills
from bench.errors import BadRecordError
from bench.executor import Done, Engine, Listener, Progress, Shard, Started
from bench.placement import Placement
from bench.plan import Run, ended
from bench.record import Failure, Outcome, RunRecord
from bench.store import Store

ATTEMPTS = 2  # a run whose worker dies is tried once more
ASK_AGAIN_SECONDS = 2.0  # how often to look whether a run that another process holds has ended


class Watcher(Listener):
    """What a study tells while it runs; every method may be left as it is."""

    def run_done(self, record: RunRecord) -> None:
        """A run has ended and its record is stored."""

    def retried(self, run: Run, how: str) -> None:
        """A worker died on `run`, which is tried again."""

    def waiting(self, runs: int) -> None:
        """So many runs, which other processes are at work on, are all that is left."""

    def stopping(self, runs: int) -> None:
        """Ctrl-C: so many runs under way end at their next epoch's end."""


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
    """Carry out the runs of `source` until none is left.

    Several processes may do so on one study: each run is done by one of them. Ctrl-C lets the runs under way end at
    their next epoch's end with their state kept, a second one ends them at once; both raise `KeyboardInterrupt`.
    Raises `StorageError` where results cannot be stored.
    """
    store.remove_leftovers()
    drive = _Drive(source, store, placement, watcher)
    engine = engine or engine_for(placement.engine, placement.address)(placement, store.path, drive)
    try:
        with _noticing_interrupts() as interrupts:
            drive.go(engine, interrupts)
    finally:
        engine.close()
    if interrupts.count:  # pressed after the last look
        raise KeyboardInterrupt


class _Drive(Listener):
    """The loop's state: runs to be tried again or held by others, how often and since when each was tried."""

    def __init__(self, source: Source, store: Store, placement: Placement, watcher: Watcher) -> None:
        self._source, self._store, self._placement, self._watcher = source, store, placement, watcher
        self._again: deque[Run] = deque()
        self._elsewhere: deque[tuple[float, Run]] = deque()  # when to ask again
        self._waiting_for = 0  # so many of these, as far as was told
        self._attempts: dict[str, int] = {}
        self._alone: set[str] = set()  # runs that were together when their worker died
        self._since: dict[str, float] = {}
        self._memory_kills = out_of_memory_kills()

    def go(self, engine: Engine, interrupts: _Interrupts) -> None:
        busy, under_way, asked = 0, 0, False
        while True:
            while not interrupts.count and busy < engine.slots and (runs := self._take(engine.slots, busy)):
                self._since.update(dict.fromkeys((run.run_id for run in runs), time.monotonic()))
                engine.submit(Shard(runs=tuple(runs), study=self._store.path, placement=self._placement))
                busy, under_way = busy + 1, under_way + len(runs)
            if interrupts.count and not asked:
                asked = True
                self._watcher.stopping(under_way)
                engine.stop()
            if interrupts.count > 1 or (asked and not busy):
                raise KeyboardInterrupt
            if not busy and not self._elsewhere:
                return
            if not busy and self._waiting_for != len(self._elsewhere):
                self._waiting_for = len(self._elsewhere)
                self._watcher.waiting(self._waiting_for)
            for done in engine.wait(timeout=0.2):
                busy, under_way = busy - 1, under_way - len(done.shard.runs)
                self._settle(done)

    def _take(self, workers: int, busy: int) -> list[Run]:
        """Runs for one of the workers that have nothing to do: one, or several that may go together.

        As many as every worker would get, and no fewer than half of what may go together where no other waits for any:
        the fewer they are, the longer each of them takes.
        """
        if (first := self._next()) is None:
            return []
        most = 1 if first.run_id in self._alone else runs_at_once(first, self._placement)
        found = [first]
        while most > 1 and len(found) < most * workers and (run := self._next()):
            together = run.protocol == first.protocol and run.run_id not in self._alone
            if not together or runs_at_once(run, self._placement) == 1:
                self._again.append(run)
                break
            found.append(run)
        waiting = max(1, workers - busy)  # nodes of a cluster may just have been lost
        own = max(math.ceil(len(found) / workers), min(math.ceil(most / 2), math.ceil(len(found) / waiting)))
        self._again.extendleft(reversed(found[own:]))
        return found[:own]

    def _next(self) -> Run | None:
        """A run to try again, else a new one, else one that another process held a while ago."""
        if self._again:
            return self._again.popleft()
        run = self._source.take()
        if run is None and self._elsewhere and self._elsewhere[0][0] <= time.monotonic():
            run = self._elsewhere.popleft()[1]
        return run

    def run_started(self, started: Started) -> None:
        self._since[started.run_id] = time.monotonic()
        self._watcher.run_started(started)

    def epoch_done(self, progress: Progress) -> None:
        self._watcher.epoch_done(progress)

    def set_aside(self, run_id: str, reason: str) -> None:
        self._watcher.set_aside(run_id, reason)

    def _settle(self, done: Done) -> None:
        """Runs of an ended shard that have to run again are kept; the others are told."""
        blamed = done.run_id
        if done.crashed is not None and len(left := self._left(done)) > 1:  # whichever it was: each shows it alone
            self._alone.update(left)
            blamed = None
        for run in done.shard.runs:
            if run.run_id in done.stopped:
                continue
            if run.run_id in done.busy:
                self._elsewhere.append((time.monotonic() + ASK_AGAIN_SECONDS, run))
                continue
            record = self._record(run)
            if record is None and run.run_id == blamed and done.crashed is not None:
                record = self._crashed(run, done.crashed)
            if record is None:
                self._again.append(run)
            else:
                self._source.ended(record)
                self._watcher.run_done(record)

    def _left(self, done: Done) -> list[str]:
        """The runs of a crashed shard that were under way."""
        ended = done.stopped | done.busy
        return [run.run_id for run in done.shard.runs if run.run_id not in ended and self._record(run) is None]

    def _record(self, run: Run) -> RunRecord | None:
        """A run's record; None also where it cannot be read, and whoever tries the run again sets it aside."""
        try:
            return self._store.read_record(run.run_id)
        except BadRecordError:
            return None

    def _crashed(self, run: Run, how: str) -> RunRecord | None:
        """The record of a run whose worker died; None where it is to be asked for once more."""
        attempts = self._attempts[run.run_id] = self._attempts.get(run.run_id, 0) + 1
        limit = self._placement.time_limit
        if limit is not None and time.monotonic() - self._since[run.run_id] > limit:
            failure = Failure(reason=f"over the time limit of {limit:g} s; the study's logs/ say where it hung")
            return self._give_up(run, Outcome.TIMEOUT, failure)
        if attempts < ATTEMPTS:
            self._watcher.retried(run, how)
            return None
        kills, self._memory_kills = self._memory_kills, out_of_memory_kills()
        full = self._memory_kills > kills or "OUT_OF_MEMORY" in how
        outcome = Outcome.OUT_OF_MEMORY if full else Outcome.ERROR
        return self._give_up(run, outcome, _crash(how))

    def _give_up(self, run: Run, outcome: Outcome, failure: Failure) -> RunRecord | None:
        """Store the record of a run that failed; None where another process has begun it meanwhile."""
        with self._store.claim(run.run_id) as mine:
            if not mine:
                return None
            if (record := self._record(run)) is None:
                record = ended(run, outcome, failure, self._placement.command)
                self._store.write_record(record)
            return record


def _crash(how: str) -> Failure:
    """Why a run has failed whose worker died every time."""
    text = f"the worker process died {ATTEMPTS} times on this run, last by {how}; the study's logs/ may say why"
    return Failure(reason=text)


class _Interrupts:
    """How often Ctrl-C was pressed."""

    count = 0


@contextmanager
def _noticing_interrupts() -> Iterator[_Interrupts]:
    """A count of Ctrl-C.

    An exception out of a signal handler can be lost inside a library that was just at work; a count cannot.
    """
    interrupts = _Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return

    def note(number: int, frame: object) -> None:
        interrupts.count += 1

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)
