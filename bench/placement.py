"""Where and how runs are carried out: devices, workers, limits. Nothing here changes a result."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from pydantic import BaseModel, ConfigDict

from bench.engines import engine_for
from bench.environment import usable_cores
from bench.errors import UsageError
from bench.wording import counted

CHECKPOINT_SECONDS = 60.0
MOST_SECONDS = 1e9  # 30 years; the clock that ends hanging runs counts no further than ten times as long
BATCH_RUNS = 8  # with fewer the operators' overhead weighs, with more the caches are too small; 1.4 GB for `mini`
PARALLEL = ("runs", "ddp")
ALL_OF_A_CLUSTER = 10_000  # workers at most: as many as its nodes have room for


class Placement(BaseModel):
    """The same for all runs of a command; plain data, so that it travels with the runs.

    `engine` is one of `bench.engines.ENGINES`, `address` that of its cluster. `device` is "cpu", "cuda" (every GPU in
    sight, one a worker) or "cuda:N". `command` is what the user asked, for the records. `retry_failed` does runs again
    whose record is a failure, `repeat` all. A run is given up after `time_limit` seconds; its state is kept at the
    first epoch's end that comes `checkpoint_seconds` after the last time, and, where given, every `checkpoint_steps`
    steps. A worker takes up to `batch_runs` runs at once where they may share passes; no result depends on how many.
    `save_best` and `save_last` keep weights of each run, as `bench.weights` has it.
    `parallel` is "runs" (a worker has runs for itself) or "ddp": `workers` processes share each batch of one run, as
    `bench.ddp` has it.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    device: str
    data_dir: Path | None = None
    engine: str = "local"
    address: str | None = None
    parallel: str = "runs"
    workers: int = 1
    threads: int = 1
    command: str | None = None
    retry_failed: bool = False
    repeat: bool = False
    time_limit: float | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    checkpoint_steps: int | None = None
    batch_runs: int = BATCH_RUNS
    save_best: bool = False
    save_last: bool = False

    def __str__(self) -> str:
        if self.parallel == "ddp":
            return f"runs of {self.workers} processes of {counted(self.threads, 'thread')} on {self.device}"
        most = "at most " if self.engine == "ray" else ""
        return f"{most}{counted(self.workers, 'worker')} of {counted(self.threads, 'thread')} on {self.device}"


class PlacementOptions(TypedDict, total=False):
    """What `placed` takes; the fields of `Placement`, each left out where its default will do."""

    device: str | None
    data_dir: str | Path | None
    engine: str | None
    address: str | None
    parallel: str | None
    workers: int | None
    threads: int | None
    command: str | None
    retry_failed: bool
    repeat: bool
    time_limit: float | None
    checkpoint_seconds: float | None
    checkpoint_steps: int | None
    batch_runs: int | None
    save_best: bool
    save_last: bool


def placed(**options: Unpack[PlacementOptions]) -> Placement:
    """Where to run: what is given, else the best device and a worker a GPU, or a worker of one thread a core.

    One thread, also with fewer workers: sums over several threads round otherwise, so that a result would depend on the
    number of workers. Raises `UsageError` where a value is not allowed.
    """
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name in ("workers", "threads", "checkpoint_steps", "batch_runs"):
        if given.get(name, 1) < 1:
            raise UsageError(f"{_option(name)} {given[name]}: allowed is a count >= 1")
    for name, least in (("time_limit", 1e-3), ("checkpoint_seconds", 0.0)):
        if not least <= given.get(name, least) <= MOST_SECONDS:
            raise UsageError(f"{_option(name)} {given[name]:g}: allowed are {least:g} to {MOST_SECONDS:g} seconds")
    engine = given.setdefault("engine", "local")
    if (parallel := given.get("parallel", "runs")) not in PARALLEL:
        raise UsageError(f"--parallel {parallel!r}: allowed are {', '.join(PARALLEL)}")
    if parallel == "ddp" and engine != "local":
        raise UsageError(f"--parallel ddp: with --engine {engine} allowed is --parallel runs")
    engine_for(engine, given.get("address"))
    if engine == "local" or "device" not in given:  # whether a cluster has GPUs is for its engine to see
        given["device"] = usable_device(given.get("device"))
    data = given.pop("data_dir", None) or os.environ.get("BENCH_DATA")
    if "time_limit" in given:  # of a run that has its worker for itself
        given.setdefault("batch_runs", 1)
    given.setdefault("workers", ALL_OF_A_CLUSTER if engine == "ray" else _default_workers(given["device"]))
    if given.setdefault("parallel", "runs") == "ddp":
        _require_room(given["device"], given["workers"])
    return Placement(data_dir=None if data is None else Path(data), **given)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def usable_device(name: str | None) -> str:
    """`name` checked, or the best there is: "cuda" where there is a GPU, else "cpu".

    Raises `UsageError` where there is no such device.
    """
    gpus = torch.cuda.device_count()
    if name is None:
        return "cuda" if gpus else "cpu"
    present = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{i}" for i in range(gpus))]
    if name not in present:
        raise UsageError(f"--device {name!r}: allowed here are {', '.join(present)}")
    return name


def _require_room(device: str, processes: int) -> None:
    """Raise `UsageError` where two processes of a run would have one GPU."""
    gpus = torch.cuda.device_count() if device == "cuda" else 1
    if device != "cpu" and processes > gpus:
        raise UsageError(f"--parallel ddp: --workers {processes} on {device}; allowed is at most one a GPU, so {gpus}")


def _default_workers(device: str) -> int:
    if device == "cuda":
        return torch.cuda.device_count()
    return usable_cores() if device == "cpu" else 1
