"""W&B's run folders in offline mode, read back."""

import getpass
import json
import math
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.plan import Run
from bench.runner import Plan
from bench.trackers.selection import trackers
from bench.trackers.tracker import Tracker

BLOCK, HEADER = 32768, 7  # of the log format of LevelDB, in which W&B keeps a run


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The library, offline, without the settings of the machine's user."""
    library = pytest.importorskip("wandb", reason="needs the extra wandb")
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    library.teardown()  # its settings are read once a process
    yield library
    library.teardown()


def payloads(path: Path) -> Iterator[bytes]:
    """The log's entries."""
    content, position, parts = path.read_bytes(), HEADER, []
    while position < len(content):
        if BLOCK - position % BLOCK < HEADER:
            position += BLOCK - position % BLOCK
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        position += HEADER
        parts.append(content[position : position + length])
        position += length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def records(study: Path, run: Run) -> list[Any]:
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

    (path,) = (study / "wandb").glob(f"offline-run-*-{run.run_id}/run-{run.run_id}.wandb")
    return [Record.FromString(payload) for payload in payloads(path)]


def history(found: list[Any], name: str) -> list[tuple[int, float]]:
    """Step and value."""
    rows = [{item.key or item.nested_key[0]: item.value_json for item in record.history.item}
            for record in found if record.WhichOneof("record_type") == "history"]  # fmt: skip
    return [(int(row["_step"]), float(json.loads(row[name]))) for row in rows if name in row]


def summary(found: list[Any]) -> dict[str, Any]:
    """The last value of everything."""
    updates = [record.summary.update for record in found if record.WhichOneof("record_type") == "summary"]
    return {item.key or item.nested_key[0]: json.loads(item.value_json) for update in updates for item in update}


def test_runs_are_kept_apart(plan: Plan, wandb: Any, tell: Callable[[Tracker, Sequence[Run]], None]):
    (tracker,) = trackers(["wandb"], plan.store.path)
    tell(tracker, plan.runs)
    tracker.close()
    wandb.teardown()  # its process writes the rest
    fine, diverged = (records(plan.store.path, run) for run in plan.runs)
    assert history(fine, "loss") == [(1, 1.0), (2, 0.5)]
    assert history(fine, "metrics/avg_r1") == [(1, 10.0), (2, 20.0)]
    (first, (step, second)) = history(diverged, "loss")
    assert (first, step) == ((1, 3.0), 2)
    assert math.isnan(second)
    (begun,) = (record.run for record in fine if record.WhichOneof("record_type") == "run")
    assert (begun.project, begun.run_id, begun.run_group) == ("tiny", plan.runs[0].run_id, "sgd")
    assert {item.key: item.value_json for item in begun.config.update}["hyperparameters.lr"] == "0.25"
    assert summary(diverged)["outcome"] == "diverged"
    assert summary(fine)["final/avg_r1"] == 20.0


def test_nothing_tells_who_and_where(
    plan: Plan, wandb: Any, tell: Callable[[Tracker, Sequence[Run]], None], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SECRET_OF_SOMEBODY", "a-secret-value")
    (tracker,) = trackers(["wandb=somebody/project"], plan.store.path)
    tell(tracker, plan.runs)
    tracker.close()
    wandb.teardown()  # its process writes the rest
    sent = records(plan.store.path, plan.runs[0])
    text = str(sent)
    for private in (socket.gethostname(), getpass.getuser(), "a-secret-value", sys.executable):
        assert f'"{private}"' not in text
    assert str(Path.cwd()) not in text
    assert str(plan.store.path) not in text
    assert {record.WhichOneof("record_type") for record in sent}.isdisjoint({"environment", "output_raw", "stats"})
    folders = [path for path in (plan.store.path / "wandb").glob("offline-run-*") if path.is_dir()]
    assert [path.name for folder in folders for path in (folder / "files").rglob("*")] == []


def test_interrupted_runs_are_closed(plan: Plan, wandb: Any):
    (tracker,) = trackers(["wandb"], plan.store.path)
    tracker.on_run_start(plan.runs[0])
    tracker.on_run_start(plan.runs[0])
    tracker.close()
    wandb.teardown()
    (ending,) = (r.exit for r in records(plan.store.path, plan.runs[0]) if r.WhichOneof("record_type") == "exit")
    assert ending.exit_code == 130


def test_without_a_key_nothing_is_asked(plan: Plan, wandb: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    wandb.teardown()
    (tracker,) = trackers(["wandb"], plan.store.path)
    with pytest.raises(PermissionError, match="no API key; `wandb login`"):
        tracker.on_run_start(plan.runs[0])
