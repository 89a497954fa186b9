"""trackio: a local store (TRACKIO_DIR), a server (TRACKIO_SERVER_URL) or a Space (TRACKIO_SPACE_ID), as it is set up.

trackio notes the account of Hugging Face that the machine is logged in with; that is removed before anything is
written. To find it out it may ask Hugging Face's server. It reports its own trouble as Python warnings.
"""

from __future__ import annotations

from contextvars import Context
from pathlib import Path
from typing import Any

from bench.plan import Run
from bench.record import CurvePoint, RunRecord
from bench.trackers.content import ending, results, scalars, settings
from bench.trackers.tracker import Tracker, library


class TrackioTracker(Tracker):
    """`target` is the project, by default the study's name."""

    def __init__(self, target: str | None, study: Path) -> None:
        self._trackio = library("trackio", "trackio")
        for name in ("trackio", "trackio.run", "trackio.utils"):
            # It has no quiet mode, and standard output carries results.
            library(name, "trackio").print = _say_nothing
        self._project = target or study.name
        self._runs: dict[str, Any] = {}

    def on_run_start(self, run: Run) -> None:
        if run.run_id in self._runs:
            return
        # trackio ends the run of the current context when another begins; each has a context of its own.
        begun = Context().run(
            self._trackio.init, project=self._project, name=run.run_id, group=run.optimizer, config=settings(run),
            resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        begun.config["_Username"] = None
        self._runs[run.run_id] = begun

    def on_epoch(self, run: Run, point: CurvePoint) -> None:
        self._runs[run.run_id].log(scalars(point), step=point.epoch)

    def on_run_end(self, run: Run, record: RunRecord) -> None:
        ended = self._runs.pop(run.run_id)
        ended.log({**results(record), **ending(record)}, step=record.epochs)
        ended.finish()

    def close(self) -> None:
        while self._runs:
            self._runs.popitem()[1].finish()


def _say_nothing(*texts: object, **options: object) -> None:
    """In place of `print`."""
