"""A study's log file: one line an event, `logs/study.log`; and one watcher in place of several."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.driver import Watcher
from bench.executor import Progress, Started
from bench.paths import without_folders
from bench.plan import Run
from bench.record import Outcome, RunRecord
from bench.reporting.printable import printable
from bench.store import open_own
from bench.wording import counted


class StudyLog(Watcher):
    """Adds lines `<UTC time> <run id, or -> <what>` to the log of the study in the folder `study`.

    Processes that work on one study share the file. A line that cannot be written, as on a full disk, is left out.
    """

    def __init__(self, study: Path, primary_metric: str) -> None:
        self._path, self._primary_metric = study / "logs" / "study.log", primary_metric

    def note(self, what: str, run_id: str = "-") -> None:
        """Add a line; never raises for the disk's sake."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = f"{now} {run_id} {printable(without_folders(' '.join(what.split())))}\n".encode(errors="replace")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = open_own(self._path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(file, line)  # one call, so that lines of several processes stay whole
            finally:
                os.close(file)

    def run_started(self, started: Started) -> None:
        how = f"goes on after epoch {started.epoch}" if started.epoch else "started"
        self.note(f"{how} on worker {started.worker}", started.run_id)

    def run_done(self, record: RunRecord) -> None:
        text = f"ended {record.outcome} after {record.seconds.total:.1f} s"
        if record.outcome is Outcome.OK:
            text += f", {self._primary_metric} {record.metrics[self._primary_metric]:.2f} %"
        elif record.failure is not None:
            text += f": {record.failure.reason}"
        self.note(text, record.run_id)

    def retried(self, run: Run, how: str) -> None:
        self.note(f"its worker died ({how}), tried once more", run.run_id)

    def waiting(self, runs: int) -> None:
        self.note(f"waiting for {counted(runs, 'run')} of another process")

    def stopping(self, runs: int) -> None:
        self.note(f"stopping, {counted(runs, 'run')} under way")

    def set_aside(self, run_id: str, reason: str) -> None:
        self.note(f"set aside, runs again: {reason}", run_id)


class Watchers(Watcher):
    """Tells every event to several watchers, in their order."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._watchers = tuple(watchers)

    def run_started(self, started: Started) -> None:
        for watcher in self._watchers:
            watcher.run_started(started)

    def epoch_done(self, progress: Progress) -> None:
        for watcher in self._watchers:
            watcher.epoch_done(progress)

    def run_done(self, record: RunRecord) -> None:
        for watcher in self._watchers:
            watcher.run_done(record)

    def set_aside(self, run_id: str, reason: str) -> None:
        for watcher in self._watchers:
            watcher.set_aside(run_id, reason)

    def retried(self, run: Run, how: str) -> None:
        for watcher in self._watchers:
            watcher.retried(run, how)

    def waiting(self, runs: int) -> None:
        for watcher in self._watchers:
            watcher.waiting(runs)

    def stopping(self, runs: int) -> None:
        for watcher in self._watchers:
            watcher.stopping(runs)
