"""Carries a study's events to its trackers, so that no tracker holds up or ends a study."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

from bench.driver import Watcher
from bench.executor import Progress, Started
from bench.plan import Run
from bench.record import RunRecord
from bench.trackers.tracker import Tracker
from bench.wording import counted

MOST_WAITING = 10_000  # events of one tracker: an hour of ten runs with three epochs a second each, some 30 MB
PATIENCE = 15.0  # seconds at the end without any event done, after which a tracker is given up
LONGEST_WAIT = 60.0  # seconds at the end, for all trackers together
SILENT_WAIT = 3.0  # seconds at the end before a line says what is waited for
# What somebody else's code may raise, or call to end the process.
TRACKER_FAULTS = (Exception, SystemExit)

Event = Callable[[], None]


class Planned(Protocol):
    """What is carried out: a study's plan, or a search, whose list of runs grows."""

    @property
    def missing(self) -> Sequence[Run]: ...


class Tracking(Watcher, AbstractContextManager["Tracking"]):
    """Tells trackers, each in a thread of its own, what happens to the runs of `planned`.

    A tracker that raises, or lets too many events wait, is one line through `warn` and gets no more events. `warn` is
    called from several threads.
    """

    def __init__(
        self, trackers: Sequence[Tracker], planned: Planned, warn: Callable[[str], None], *,
        patience: float = PATIENCE, longest_wait: float = LONGEST_WAIT, most_waiting: int = MOST_WAITING,
    ) -> None:  # fmt: skip
        self._lanes = [_Lane(tracker, warn, most_waiting) for tracker in trackers]
        self._warn, self._patience, self._longest_wait = warn, patience, longest_wait
        self._planned, self._known, self._seen = planned, dict[str, Run](), 0
        self._under_way: dict[str, Run] = {}

    def __exit__(self, *exception: object) -> None:
        self.close()

    def run_started(self, started: Started) -> None:
        run = self._run(started.run_id)
        if run is not None:
            self._under_way[started.run_id] = run
            self._tell(lambda tracker: partial(tracker.on_run_start, run))

    def epoch_done(self, progress: Progress) -> None:
        run = self._under_way.get(progress.run_id)
        if run is not None:
            self._tell(lambda tracker: partial(tracker.on_epoch, run, progress.point))

    def run_done(self, record: RunRecord) -> None:
        run = self._under_way.pop(record.run_id, None)
        if run is None and record.steps == 0 and (run := self._run(record.run_id)):
            self._tell(lambda tracker: partial(tracker.on_run_start, run))  # it failed before it could begin
        if run is not None:  # else another process has done it, and told its own trackers
            self._tell(lambda tracker: partial(tracker.on_run_end, run, record))

    def close(self) -> None:
        """Wait for the trackers to take what is left, for a while; a second call does nothing."""
        lanes, self._lanes = self._lanes, []
        for lane in lanes:
            lane.finish()
        try:
            self._wait(lanes)
        except KeyboardInterrupt:  # ends the waiting, not what comes after the study
            for lane in lanes:
                lane.give_up()

    def _wait(self, lanes: Sequence[_Lane]) -> None:
        """Until every tracker has closed, failed, or was given up."""
        begun, told = time.monotonic(), False
        while waiting := [lane for lane in lanes if lane.is_busy()]:
            now = time.monotonic()
            if not told and now - begun >= SILENT_WAIT:
                labels, told = ", ".join(lane.tracker.label for lane in waiting), True
                self._warn(f"waiting for {labels} to take what is left; Ctrl-C goes on without")
            for lane in waiting:
                if now - lane.since >= self._patience or now - begun >= self._longest_wait:
                    lane.give_up()
            time.sleep(0.02)

    def _tell(self, event: Callable[[Tracker], Event]) -> None:
        for lane in self._lanes:
            lane.put(event(lane.tracker))

    def _run(self, run_id: str) -> Run | None:
        """The planned run of that id; reads on in the list of runs, which only grows."""
        planned = self._planned.missing
        while run_id not in self._known and self._seen < len(planned):
            run = planned[self._seen]
            self._known[run.run_id] = run
            self._seen += 1
        return self._known.get(run_id)


class _Lane:
    """One tracker, the events that wait for it, and the thread that tells it."""

    def __init__(self, tracker: Tracker, warn: Callable[[str], None], most_waiting: int) -> None:
        self.tracker, self._warn, self._most_waiting = tracker, warn, most_waiting
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._off = threading.Event()
        self._switching = threading.Lock()
        self.since = time.monotonic()  # it ended an event, or the study
        self._thread = threading.Thread(target=self._work, name=f"tracker {tracker.label}", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Let the tracker be told; never waits."""
        if self._off.is_set():
            return
        if self._events.qsize() >= self._most_waiting:
            self._switch_off(f"{counted(self._most_waiting, 'event')} wait for it")
            self.finish()
        else:
            self._events.put(event)

    def finish(self) -> None:
        """No more events follow."""
        self.since = time.monotonic()
        self._events.put(None)

    def is_busy(self) -> bool:
        """Whether it has not closed yet, and is still wanted."""
        return self._thread.is_alive() and not self._off.is_set()

    def give_up(self) -> None:
        """Leave the tracker alone, whatever it is at."""
        if self.is_busy():
            self._switch_off(f"not done yet, {counted(self._events.qsize(), 'event')} not sent")

    def _work(self) -> None:
        """Tell events until the last; closes the tracker at the end, and at once when it fails."""
        while not self._off.is_set() and (event := self._events.get()) is not None:
            self._try(event)
            self.since = time.monotonic()
        if self._off.is_set():
            with contextlib.suppress(*TRACKER_FAULTS):  # its failure has been told
                self.tracker.close()
        else:
            self._try(self.tracker.close)

    def _try(self, event: Event) -> None:
        try:
            event()
        except TRACKER_FAULTS as error:
            self._switch_off(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")

    def _switch_off(self, reason: str) -> None:
        with self._switching:
            if not self._off.is_set():
                self._off.set()
                self._warn(f"{self.tracker.label}: {reason}; switched off, the study goes on without it")
