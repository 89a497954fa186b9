"""MLflow: by its client and run ids, on a server or in a database file.

The client adds no user, host or source to a run (`mlflow.start_run` would), and its usage reports are switched off. A
new database file notes the current folder as the place of artifacts of its experiment "Default", which stays empty; a
server may note what it knows of its clients by itself.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.plan import Run
from bench.record import FAILURES, CurvePoint, RunRecord
from bench.trackers.content import ending, results, scalars, settings
from bench.trackers.tracker import Tracker, library

RUN_ID = "bench.run_id"  # the tag by which a run is found again
NO_FOLDER = "mlflow-artifacts:/"  # where artifacts would go, of which there are none: to a server, in no local folder
LONGEST_TAG = 5000  # characters that every version and store takes


class MlflowTracker(Tracker):
    """`target` is the tracking URI, by default MLFLOW_TRACKING_URI, or else `mlflow.db` in the study's folder.

    The experiment has the study's name.
    """

    def __init__(self, target: str | None, study: Path) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported
        library("mlflow", "mlflow")
        self._tracking = library("mlflow.tracking", "mlflow")
        self._entities = library("mlflow.entities", "mlflow")
        for name in ("mlflow.store.db.utils", "alembic"):  # they tell how they make a database
            logging.getLogger(name).setLevel(logging.WARNING)
        self._uri = target or os.environ.get("MLFLOW_TRACKING_URI")
        if target is not None and ":" not in target and target != "databricks":
            raise UsageError(f"--tracker mlflow={target}: allowed is a tracking URI, as http://host:5000 or "
                             "sqlite:///mlflow.db; MLflow keeps nothing in plain folders any more")  # fmt: skip
        self._study = study
        self._connection: tuple[Any, str] | None = None
        self._ids: dict[str, str] = {}

    def on_run_start(self, run: Run) -> None:
        client, experiment = self._connected()
        known = client.search_runs([experiment], filter_string=f"tags.`{RUN_ID}` = '{run.run_id}'", max_results=1)
        if known:
            self._ids[run.run_id] = known[0].info.run_id
            client.update_run(known[0].info.run_id, status="RUNNING")
            return
        made = client.create_run(experiment, run_name=run.run_id, tags={RUN_ID: run.run_id})
        self._ids[run.run_id] = made.info.run_id
        parameters = [self._entities.Param(_key(name), str(value)) for name, value in settings(run).items()]
        client.log_batch(made.info.run_id, params=parameters)

    def on_epoch(self, run: Run, point: CurvePoint) -> None:
        self._log(run, scalars(point), point.epoch)

    def on_run_end(self, run: Run, record: RunRecord) -> None:
        client, _ = self._connected()
        tags = [self._entities.RunTag(name, text[:LONGEST_TAG]) for name, text in ending(record).items()]
        self._log(run, results(record), record.epochs, tags)
        status = "FAILED" if record.outcome in FAILURES else "FINISHED"
        client.set_terminated(self._ids.pop(run.run_id), status)

    def close(self) -> None:
        while self._ids:
            self._connected()[0].set_terminated(self._ids.popitem()[1], "KILLED")

    def _log(self, run: Run, numbers: Mapping[str, float], step: int, tags: list[Any] | None = None) -> None:
        now = int(1000 * time.time())
        metrics = [self._entities.Metric(_key(name), float(x), now, step) for name, x in numbers.items()]
        self._connected()[0].log_batch(self._ids[run.run_id], metrics=metrics, tags=tags or ())

    def _connected(self) -> tuple[Any, str]:
        """The client and the experiment's id; made on first use, which may wait for a server or make a database."""
        if self._connection is None:
            uri, place, name = self._uri, None, self._study.name
            if uri is None:
                self._study.mkdir(parents=True, exist_ok=True)
                uri = f"sqlite:///{self._study.absolute()}/mlflow.db"
            if uri.startswith("sqlite:"):
                place = NO_FOLDER
            client = self._tracking.MlflowClient(tracking_uri=uri)
            found = client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else client.create_experiment(name, artifact_location=place)
            self._connection = client, experiment
        return self._connection


def _key(name: str) -> str:
    """A name with only the signs that MLflow allows."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)
