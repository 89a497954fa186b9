"""TensorBoard: an event file a run, in a folder of the run's own.

Written with TensorBoard's own record format and torch's summaries, and not by torch's `SummaryWriter`, which puts the
machine's host name into every file's name.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from bench.plan import Run
from bench.record import CurvePoint, RunRecord
from bench.trackers.content import ending, results, scalars, settings
from bench.trackers.tracker import Tracker, library


class TensorBoardTracker(Tracker):
    """`target` is the folder, by default `tensorboard` in the study's."""

    def __init__(self, target: str | None, study: Path) -> None:
        library("tensorboard", "tensorboard")
        self._summaries = library("torch.utils.tensorboard.summary", "tensorboard")
        self._folder = Path(target) if target else study / "tensorboard"
        self._files: dict[str, _EventFile] = {}

    def on_run_start(self, run: Run) -> None:
        """Nothing is written yet: the first epoch says where the run goes on."""
        if file := self._files.pop(run.run_id, None):
            file.close()

    def on_epoch(self, run: Run, point: CurvePoint) -> None:
        file = self._file(run, point.epoch)
        for name, value in scalars(point).items():
            file.add(self._summaries.scalar(name, float(value)), point.epoch)
        file.flush()

    def on_run_end(self, run: Run, record: RunRecord) -> None:
        file = self._file(run, record.epochs + 1)
        found = results(record)
        for name, value in found.items():
            file.add(self._summaries.scalar(name, float(value)), record.epochs)
        for name, text in ending(record).items():
            file.add(self._summaries.text(name, text), record.epochs)
        for summary in self._summaries.hparams(settings(run), found):
            file.add(summary)
        file.close()
        del self._files[run.run_id]

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _file(self, run: Run, epoch: int) -> _EventFile:
        """The run's file; a new one begins at `epoch` and hides what an earlier one has from there on."""
        if run.run_id not in self._files:
            self._files[run.run_id] = _EventFile(self._folder / run.run_id, epoch)
        return self._files[run.run_id]


class _EventFile:
    """An event file that is written by this thread."""

    def __init__(self, folder: Path, first_step: int) -> None:
        self._events = library("tensorboard.compat.proto.event_pb2", "tensorboard")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"events.out.tfevents.{time.time():017.6f}.{os.getpid()}"  # read in the order of names
        self._records = library("torch.utils.tensorboard", "tensorboard").RecordWriter(path.open("xb"))
        start = self._events.SessionLog(status=self._events.SessionLog.START)
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log=start)

    def add(self, summary: Any, step: int = 0) -> None:
        """Add a summary."""
        self._write(step=step, summary=summary)

    def flush(self) -> None:
        """Let readers see what was added."""
        self._records.flush()

    def close(self) -> None:
        """Write the rest and end; a second call does nothing."""
        self._records.close()

    def _write(self, **content: Any) -> None:
        self._records.write(self._events.Event(wall_time=time.time(), **content).SerializeToString())
