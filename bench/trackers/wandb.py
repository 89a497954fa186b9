"""Weights & Biases: a run of its own for every run, also several at once.

WANDB_MODE=offline (or `wandb offline`) keeps everything in the study's folder `wandb`, for `wandb sync`. Switched off
are what W&B collects by itself: host, user, program, arguments, Python executable, git state, requirements, code,
machine, system metrics, console output and error reports. It keeps the versions of Python and of itself, the kind of
system, and on its server the account that the runs belong to. Its logs beside the runs (`logs/`) name local folders;
they are not sent.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bench.plan import Run
from bench.record import FAILURES, CurvePoint, RunRecord
from bench.trackers.content import ending, results, scalars, settings
from bench.trackers.tracker import Tracker, library

# The names with x_ are W&B's own and not promised to stay; a test reads what is written.
PRIVACY: dict[str, Any] = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "email": "",
    "host": "",
    "program": "bench",
    "save_code": False,
    "username": "",
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_executable": "python",
    "x_save_requirements": False,
}
LOCAL_MODES = ("offline", "dryrun", "disabled")
UPLOAD_SECONDS = 30.0  # at a run's end; what is not sent then is on disk, for `wandb sync`
INTERRUPTED = 130  # exit code of a run that may go on another time


class WandbTracker(Tracker):
    """`target` is PROJECT or ENTITY/PROJECT, by default the study's name."""

    def __init__(self, target: str | None, study: Path) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when it is imported
        self._wandb = library("wandb", "wandb")
        entity, _, project = (target or study.name).rpartition("/")
        self._place = {"entity": entity or None, "project": project, "dir": study}
        self._study = study
        self._runs: dict[str, Any] = {}
        self._mode = self._wandb.setup(self._wandb.Settings(silent=True)).settings.mode
        self._logged_in = self._mode in LOCAL_MODES

    def on_run_start(self, run: Run) -> None:
        if run.run_id in self._runs:
            return  # tried again: epochs that W&B knows already are the same
        self._log_in()
        self._study.mkdir(parents=True, exist_ok=True)  # W&B goes elsewhere where there is no such folder
        options = {} if self._mode in LOCAL_MODES else {"resume": "allow"}
        self._runs[run.run_id] = self._wandb.init(
            **self._place, id=run.run_id, name=run.run_id, group=run.optimizer, config=settings(run),
            reinit="create_new", **options,
            # W&B stops a run with an interrupt of the whole process, and waits for the network without end.
            settings=self._wandb.Settings(silent=True, stop_fn=_go_on, finish_timeout=UPLOAD_SECONDS, **PRIVACY),
        )  # fmt: skip

    def on_epoch(self, run: Run, point: CurvePoint) -> None:
        self._runs[run.run_id].log(scalars(point), step=point.epoch)

    def on_run_end(self, run: Run, record: RunRecord) -> None:
        ended = self._runs.pop(run.run_id)
        ended.summary.update({**results(record), **ending(record)})
        ended.finish(exit_code=int(record.outcome in FAILURES))

    def close(self) -> None:
        while self._runs:
            self._runs.popitem()[1].finish(exit_code=INTERRUPTED)

    def _log_in(self) -> None:
        """Once, and without W&B's question for a key, which would wait unseen."""
        if not (self._logged_in or self._wandb.login(prompt=False)):
            raise PermissionError("no API key; `wandb login` or WANDB_API_KEY give one, WANDB_MODE=offline needs none")
        self._logged_in = True


def _go_on() -> None:
    """What the button Stop of W&B's page does: nothing."""
