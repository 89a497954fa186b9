"""MLflow's database file, read back by its client."""

import getpass
import math
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UsageError
from bench.plan import Run
from bench.runner import Plan
from bench.trackers.selection import trackers
from bench.trackers.tracker import Tracker

pytestmark = [
    # MLflow 3.17 with SQLAlchemy 2.1.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.slow,  # its database takes seconds to make
]


@pytest.fixture
def read(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """The study's MLflow runs by our run ids."""
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def read() -> dict[str, Any]:
        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{plan.store.path}/mlflow.db")
        found = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
        return {
            run.data.tags["bench.run_id"]: (run, {
                name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            }) for run in found
        }  # fmt: skip

    return read


def test_runs_are_kept_apart_and_go_on(
    plan: Plan,
    read: Callable[[], dict[str, Any]],
    tell: Callable[[Tracker, Sequence[Run]], None],
    point: Callable[[int, float], Any],
):
    (interrupted,) = trackers(["mlflow"], plan.store.path)
    interrupted.on_run_start(plan.runs[0])
    interrupted.close()
    ((run, _),) = read().values()
    assert run.info.status == "KILLED"

    (tracker,) = trackers(["mlflow"], plan.store.path)
    tell(tracker, plan.runs)
    tracker.close()
    found = read()
    assert set(found) == {run.run_id for run in plan.runs}
    (fine, curves), (diverged, other) = (found[run.run_id] for run in plan.runs)
    assert curves["loss"] == [(1, 1.0), (2, 0.5)]
    assert curves["final/avg_r1"] == [(2, 20.0)]
    assert other["loss"][0] == (1, 3.0)
    assert math.isnan(other["loss"][1][1])
    assert fine.data.params["hyperparameters.lr"] == "0.25"
    assert (fine.info.status, diverged.info.status) == ("FINISHED", "FINISHED")
    assert diverged.data.tags == {
        "bench.run_id": plan.runs[1].run_id, "mlflow.runName": plan.runs[1].run_id,
        "outcome": "diverged", "reason": "loss is nan in …/mine.py",
    }  # fmt: skip
    text = str(fine.to_dictionary())
    assert f"'{socket.gethostname()}'" not in text
    assert f"'{getpass.getuser()}'" not in text
    assert str(Path.cwd()) not in text
    assert str(plan.store.path.parent) not in text


def test_a_folder_is_no_target(tmp_path: Path):
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    with pytest.raises(UsageError, match="--tracker mlflow=mlruns: allowed is a tracking URI"):
        trackers(["mlflow=mlruns"], tmp_path)
