"""Plan a study, carry out what is missing, and hand back the study: what `bench run` and `bench.run` do."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.environment import usable_cores
from bench.errors import BadRecordError, UsageError
from bench.executor import Done, Engine, LocalEngine, Progress, Shard
from bench.metrics import metric_names
from bench.plan import Run, ended
from bench.protocol import Protocol, changed, default_protocol, load_protocol
from bench.record import Failure, Outcome, RunRecord
from bench.registry import Rates, Selected, matrix_warnings, require_precision, select
from bench.spec import OptimizerSpec
from bench.store import Store, study_name
from bench.study import Study, load_study
from bench.suggestions import unknown

MAX_SEEDS = 10_000
ATTEMPTS = 2  # a run whose worker dies is tried once more


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a study will run: all of its runs, and those without a record yet."""

    store: Store
    protocol: Protocol
    runs: tuple[Run, ...]
    missing: tuple[Run, ...]
    device: str
    data_dir: Path | None
    workers: int
    threads: int
    command: str | None = None
    warnings: tuple[str, ...] = ()


class Watcher:
    """What a study tells while it runs; every method may be left as it is."""

    def run_done(self, record: RunRecord) -> None:
        """A run has ended and its record is stored."""

    def epoch_done(self, progress: Progress) -> None:
        """An epoch has ended on a worker."""

    def retried(self, run: Run, how: str) -> None:
        """A worker died on `run`, which is tried again."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """`5` means seeds 0 … 4; `0-9`, `7`, lists `0,3,8-11` mean what they say where a comma or dash is in them.

    Raises `UsageError` where the text is none of these.
    """
    try:
        if "," not in text and "-" not in text:
            seeds: Sequence[int] = range(min(int(text), MAX_SEEDS + 1))
        else:
            parts = [part.partition("-") for part in text.split(",") if part.strip()]
            ranges = [range(int(low), int(high if dash else low) + 1) for low, dash, high in parts]
            listed = itertools.islice(itertools.chain.from_iterable(ranges), MAX_SEEDS + 1)
            seeds = tuple(dict.fromkeys(listed))
    except ValueError:
        seeds = ()
    if not seeds or len(seeds) > MAX_SEEDS:
        raise UsageError(
            f"--seeds {text!r}: allowed are a count >= 1 (5 = seeds 0 to 4), a range (0-9) or a list (0,3,7)"
        )
    return tuple(seeds)


def make_plan(
    *,
    protocol: Protocol,
    selected: Sequence[Selected],
    seeds: Sequence[int],
    folder: Path,
    device: str,
    data_dir: Path | None,
    workers: int,
    threads: int,
    retry_failed: bool = False,
    command: str | None = None,
) -> Plan:
    """The runs of protocol × optimizers × seeds, seed by seed, so that an interrupted study has whole blocks.

    Reads a real dataset's files first: a missing or broken one raises `UsageError` before anything is written.
    """
    for chosen in selected:
        require_precision(chosen.spec, protocol.precision)
    data_digest = _checked(protocol, data_dir)
    runs = tuple(
        Run(
            protocol=protocol,
            optimizer=chosen.spec.name,
            reference=chosen.reference,
            hyperparameters=dict(chosen.hyperparameters),
            seed=seed,
            revision=chosen.spec.revision,
            source_digest=chosen.spec.source_digest,
            data_digest=data_digest,
        )
        for seed in seeds
        for chosen in selected
    )
    store = Store(folder)
    missing = tuple(run for run in runs if _is_missing(store, run, retry_failed))
    return Plan(
        store=store, protocol=protocol, runs=runs, missing=missing, device=device, data_dir=data_dir,
        workers=min(workers, max(1, len(missing))), threads=threads, command=command,
        warnings=tuple(_matrix_warnings(protocol, [chosen.spec for chosen in selected])),
    )  # fmt: skip


def _matrix_warnings(protocol: Protocol, specs: Sequence[OptimizerSpec]) -> Iterator[str]:
    """What `matrix_warnings` says of the entries on the protocol's network."""
    if any(spec.matrix_algorithm for spec in specs):
        roled = protocol.workload.roled_parameters()
        for spec in specs:
            yield from matrix_warnings(spec, roled)


def _checked(protocol: Protocol, data_dir: Path | None) -> str | None:
    """The digest of the data's files, after everything that can be wrong before training has been looked at."""
    metrics = [name for name in metric_names(protocol.workload.modalities) if not name.endswith("_rank")]
    if protocol.primary_metric not in metrics:
        raise UsageError(f"protocol {protocol.name!r}: {unknown('primary_metric', protocol.primary_metric, metrics)}")
    dataset = protocol.workload.check(data_dir)
    if protocol.drop_last and dataset.training_size < protocol.batch_size:
        raise UsageError(f"protocol {protocol.name!r}: batch_size is {protocol.batch_size}; allowed is at most the "
                         f"{dataset.training_size} training samples, or drop_last = false")  # fmt: skip
    return dataset.digest


def _is_missing(store: Store, run: Run, retry_failed: bool) -> bool:
    """Whether the run has no record, or one that cannot be read."""
    try:
        record = store.read_record(run.run_id)
    except BadRecordError:
        return True
    if record is None:
        return True
    return retry_failed and record.outcome in (Outcome.ERROR, Outcome.TIMEOUT, Outcome.OUT_OF_MEMORY)


def carry_out(plan: Plan, watcher: Watcher, engine: Engine | None = None) -> Study:
    """Run what is missing and return the study with all its records of the plan's protocol.

    Raises `UsageError` where another process is at work on the study.
    """
    with plan.store.locked():
        return _carry_out(plan, watcher, engine)


def _carry_out(plan: Plan, watcher: Watcher, engine: Engine | None) -> Study:
    plan.store.write_protocol(plan.protocol)
    if plan.missing:
        engine = engine or LocalEngine(
            workers=plan.workers, threads=plan.threads, logs=plan.store.path / "logs", on_progress=watcher.epoch_done
        )
        try:
            with _noticing_interrupts() as interrupted:
                _drive(plan, engine, watcher, interrupted)
        finally:
            engine.close()
    plan.store.mark_used(plan.protocol)
    study, _ = load_study(plan.store.path, plan.protocol.hash)
    return study


@contextmanager
def _noticing_interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets.

    An exception out of a signal handler can be lost inside a library that was just at work; an event cannot.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _drive(plan: Plan, engine: Engine, watcher: Watcher, interrupted: threading.Event) -> None:
    """Keep every slot busy until nothing is left; raises `KeyboardInterrupt` soon after Ctrl-C."""
    waiting = list(reversed(plan.missing))
    attempts: dict[str, int] = {}
    busy = 0
    while waiting or busy:
        while waiting and busy < engine.slots:
            run = waiting.pop()
            attempts[run.run_id] = attempts.get(run.run_id, 0) + 1
            engine.submit(
                Shard(
                    runs=(run,), study=plan.store.path, device=plan.device, data_dir=plan.data_dir, command=plan.command
                )
            )
            busy += 1
        if interrupted.is_set():
            raise KeyboardInterrupt
        for done in engine.wait(timeout=0.2):
            busy -= 1
            waiting += _unfinished(plan, done, attempts, watcher)


def _unfinished(plan: Plan, done: Done, attempts: Mapping[str, int], watcher: Watcher) -> list[Run]:
    """The runs of an ended shard that have to run again; the others are told to the watcher."""
    again = []
    for run in done.shard.runs:
        record = plan.store.read_record(run.run_id)
        if done.crashed is not None and run.run_id == done.run_id:
            if attempts[run.run_id] < ATTEMPTS:
                watcher.retried(run, done.crashed)
                again.append(run)
                continue
            record = ended(run, Outcome.ERROR, _crash(done.crashed), plan.command)
            plan.store.write_record(record)
        if record is None:
            again.append(run)
        else:
            watcher.run_done(record)
    return again


def _crash(how: str) -> Failure:
    """Why a run has failed whose worker died every time."""
    text = f"the worker process died {ATTEMPTS} times on this run, last by {how}; the study's logs/ may say why"
    return Failure(reason=text)


def run(
    optimizers: str | Sequence[str] = "all",
    *,
    protocol: str | Protocol | None = None,
    epochs: int | None = None,
    seeds: int | str | None = None,
    rates: Rates | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    results: str | Path = "results",
    study: str | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
    watcher: Watcher | None = None,
) -> Study:
    """Run a study, or what is missing of it, and return it; the same as `bench run`.

    `optimizers` are names, groups, globs or references; `overrides` maps an entry to settings, as
    `{"adamw": {"lr": 3e-4}}`; `rates` chooses default or documents' settings (the protocol's own choice if None).
    Raises `UsageError` where a value is not allowed; nothing is written then.
    """
    plan = prepare(
        optimizers, protocol=protocol, epochs=epochs, seeds=seeds, rates=rates, overrides=overrides, results=results,
        study=study, data_dir=data_dir, device=device, workers=workers, retry_failed=retry_failed,
    )  # fmt: skip
    return carry_out(plan, watcher or Watcher())


def prepare(
    optimizers: str | Sequence[str] = "all",
    *,
    protocol: str | Protocol | None = None,
    epochs: int | None = None,
    seeds: int | str | None = None,
    rates: Rates | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    results: str | Path = "results",
    study: str | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
    command: str | None = None,
) -> Plan:
    """The plan of `run` with the same arguments; writes nothing."""
    if protocol is None:
        protocol, _ = default_protocol()
    chosen = load_protocol(protocol) if isinstance(protocol, str) else protocol
    if epochs is not None:
        chosen = changed(chosen, {"epochs": epochs}, f"--epochs {epochs}")
    numbers = parse_seeds(str(chosen.seeds if seeds is None else seeds))
    patterns = [optimizers] if isinstance(optimizers, str) else optimizers
    selected = select(patterns, overrides or {}, rates or chosen.rates)
    folder = Path(results) / study_name(study or chosen.name)
    place = usable_device(device)
    slots = workers if workers is not None else 1 if place.startswith("cuda") else usable_cores()
    if slots < 1:
        raise UsageError(f"--workers {slots}: allowed is a count >= 1")
    data = data_dir or os.environ.get("BENCH_DATA")
    return make_plan(
        protocol=chosen, selected=selected, seeds=numbers, folder=folder, device=place,
        data_dir=None if data is None else Path(data), workers=slots, threads=max(1, usable_cores() // slots),
        retry_failed=retry_failed, command=command,
    )  # fmt: skip


def usable_device(name: str | None) -> str:
    """`name` checked, or the best there is: a CUDA device, else the CPU.

    Raises `UsageError` where there is no such device.
    """
    present = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if name is None:
        return "cuda:0" if len(present) > 1 else "cpu"
    device = "cuda:0" if name == "cuda" else name
    if device not in present:
        raise UsageError(f"--device {name!r}: allowed here are {', '.join(present)}")
    return device
