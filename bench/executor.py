"""What an engine is: something that carries shards of runs to workers. The truth is in the records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from bench.placement import Placement
from bench.plan import Run
from bench.record import CurvePoint


class Shard(BaseModel):
    """Runs for one worker as plain data; `study` is the folder their records go to."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    runs: tuple[Run, ...]
    study: Path
    placement: Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A shard has left its worker.

    busy: runs that another process holds. stopped: runs that ended early because they were asked to, their state kept.
    crashed: how the worker's process ended where it died, and `run_id` the run it was on.
    """

    shard: Shard
    busy: frozenset[str] = frozenset()
    stopped: frozenset[str] = frozenset()
    crashed: str | None = None
    run_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """Worker number `worker` has begun a run, or goes on with it after `epoch` epochs."""

    worker: int
    run_id: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A run's epoch has ended on worker number `worker`."""

    worker: int
    run_id: str
    point: CurvePoint


class Listener:
    """What an engine tells while it works; every method may be left as it is."""

    def run_started(self, started: Started) -> None:
        """A worker has begun a run."""

    def epoch_done(self, progress: Progress) -> None:
        """An epoch has ended on a worker."""

    def set_aside(self, run_id: str, reason: str) -> None:
        """A run's record got another name because of `reason`, and the run is done again."""


def pass_on(event: Mapping[str, Any], worker: int, listener: Listener) -> None:
    """Tell what `bench.worker.carry_out` says of a run under way; how runs end is the engine's to know."""
    kind, run_id = event["event"], event.get("run_id", "")
    if kind == "started":
        listener.run_started(Started(worker=worker, run_id=run_id, epoch=event["epoch"]))
    elif kind == "epoch":
        point = CurvePoint.model_validate_json(json.dumps(event["point"]))
        listener.epoch_done(Progress(worker=worker, run_id=run_id, point=point))
    elif kind == "set_aside":
        listener.set_aside(run_id, event["reason"])


class Engine(Protocol):
    """What carries shards to workers; disposable.

    A worker that cannot store what it found ends the study: `wait` then raises `StorageError`.
    """

    @property
    def slots(self) -> int:
        """How many shards it works on at once."""
        ...

    def submit(self, shard: Shard) -> None:
        """Hand over a shard; at most `slots` at a time."""
        ...

    def wait(self, timeout: float) -> Sequence[Done]:
        """The shards that ended, after at most `timeout` seconds."""
        ...

    def stop(self) -> None:
        """Ask all runs to end at their next epoch's end, their state kept."""
        ...

    def close(self) -> None:
        """End all workers now."""
        ...
