"""Carrying out the runs of a shard: in a process of its own (`python -m bench.worker`), or inside another engine's.

The process reads shards on standard input and tells events on standard output, one JSON object a line, both ways. In:
{"runs": [...], "study": ..., "placement": {...}}, or {"stop": true}. Out: the events of `carry_out`, and
{"event": "ready"} before them. It ends with its standard input, so that it dies with its parent. Whatever code it runs
prints goes to standard error, never between the events.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import IO, TYPE_CHECKING, Any

import torch

from bench.checkpoint import Checkpoints, Keeper, StoppedError
from bench.errors import LostProcessError, StorageError
from bench.execution import execute
from bench.executor import Shard
from bench.plan import Run
from bench.record import FAILURES, CurvePoint, RunRecord
from bench.store import Store
from bench.together import Member, Together
from bench.weight_keeping import WeightKeeper

if TYPE_CHECKING:
    from bench.ddp import Ranks

Send = Callable[..., None]
HANG_SECONDS = 30.0  # how long after its time limit a run that does not end by itself is killed, at most


def carry_out(
    shard: Shard, send: Send, stopping: threading.Event, device: torch.device, ranks: Ranks | None = None
) -> None:
    """Carry out the runs of a shard and write their records; with `ranks` as the first of several processes.

    Tells `send` what happens, by run: set_aside (its record, for some reason), started (after so many epochs), epoch
    (its curve point), and one of done, busy (another process holds the run) and stopped (asked to end early, its state
    kept, or before it began). A record that was there already counts as done. Raises `StorageError` where something
    cannot be stored; the run then has no record.
    """
    store = Store(shard.study)

    def job(run: Run, member: Member) -> None:
        if stopping.is_set():
            send(event="stopped", run_id=run.run_id)
            return
        with store.claim(run.run_id) as mine:
            if not mine:
                send(event="busy", run_id=run.run_id)
            elif reason := store.why_missing(run.run_id, shard.placement):
                if path := store.set_aside(run.run_id):
                    send(event="set_aside", run_id=run.run_id, reason=f"{reason}; kept as {path.name}")
                _carry_out(run, shard, store, send, stopping, device, member, ranks)
            else:
                send(event="done", run_id=run.run_id)

    limit = shard.placement.time_limit
    with _killed_when_it_hangs(None if limit is None else limit * len(shard.runs)):
        Together().run([partial(job, run) for run in shard.runs])


def _carry_out(
    run: Run,
    shard: Shard,
    store: Store,
    send: Send,
    stopping: threading.Event,
    device: torch.device,
    member: Member,
    ranks: Ranks | None,
) -> None:
    placement, checkpoints = shard.placement, Checkpoints(store.run_dir(run.run_id))
    limit = placement.time_limit
    if limit is not None:
        limit *= len(shard.runs)  # of a clock that all of them share
    begun = threading.Event()

    def on_start(behind: Sequence[CurvePoint]) -> None:
        begun.set()
        store.start_curve(run.run_id, behind)
        send(event="started", run_id=run.run_id, epoch=len(behind))

    def on_epoch(point: CurvePoint) -> None:
        store.append_curve(run.run_id, point)
        send(event="epoch", run_id=run.run_id, point=point.model_dump(mode="json"))

    keeper = Keeper(
        checkpoints, seconds=placement.checkpoint_seconds, steps=placement.checkpoint_steps,
        time_limit=limit, stopping=stopping.is_set, ranks=ranks,
    )  # fmt: skip
    weights = WeightKeeper(checkpoints.folder, best=placement.save_best, last=placement.save_last)
    if ranks is not None:
        ranks.told(shard.model_dump_json())
    try:
        record = execute(run, device=device, data_dir=placement.data_dir, on_start=on_start, on_epoch=on_epoch,
                         command=placement.command, keeper=keeper, member=member, ranks=ranks, weights=weights,
                         study=store.path)  # fmt: skip
    except StoppedError:
        send(event="stopped", run_id=run.run_id)
        return
    if not begun.is_set():
        store.start_curve(run.run_id)  # the one that is there is an earlier attempt's
    _finish(store, record, checkpoints)
    if ranks is not None and not ranks.settled(failed=record.outcome in FAILURES):
        raise LostProcessError(f"{run.run_id} has failed in its first process alone, for which the others wait")
    send(event="done", run_id=run.run_id)


def _finish(store: Store, record: RunRecord, checkpoints: Checkpoints) -> None:
    """Store the record; the state of a run that can end differently is kept, so that another try goes on from there."""
    store.write_record(record)
    if record.outcome not in FAILURES:
        checkpoints.clear()


@contextmanager
def _killed_when_it_hangs(time_limit: float | None) -> Iterator[None]:
    """End the process where the block holds on long after the limit, whatever it is at; the log then says where."""
    if time_limit is None:
        yield
        return
    faulthandler.dump_traceback_later(time_limit + min(HANG_SECONDS, time_limit), exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def prepare_process(threads: int) -> None:
    """Settings of a process that carries out runs, before it does anything else."""
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Filling fresh memory costs time and only helps to find bugs.
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
        torch.backends.cudnn.allow_tf32 = False


def main() -> None:
    """Serve until standard input ends; the one argument is the number of threads."""
    events = opened_events()
    prepare_process(int(sys.argv[1]))
    serve(events)


def opened_events() -> IO[str]:
    """Standard output for events alone, and signals as the driver expects them; before anything else is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the engine held it back until here
    events = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    return events


def serve(events: IO[str], ranks: Ranks | None = None) -> None:
    """Carry out the shards that come on standard input."""

    def send(**event: Any) -> None:
        events.write(json.dumps(event) + "\n")

    stopping = threading.Event()
    send(event="ready")
    for line in _shards_until_the_parent_dies(stopping):
        shard = Shard.model_validate_json(line)
        try:
            carry_out(shard, send, stopping, torch.device(shard.placement.device), ranks)
        except StorageError as error:
            send(event="storage", reason=str(error))
            if ranks is not None:
                raise  # the others wait for this process in the middle of the run


def _shards_until_the_parent_dies(stopping: threading.Event) -> Iterator[str]:
    """Shards from standard input, read by a thread that ends the process when the input ends, also in mid-run."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            if line.startswith('{"stop"'):
                stopping.set()
            else:
                lines.put(line)
        os._exit(1)  # a fault to torchrun, which then ends the other processes of a run

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield lines.get()


if __name__ == "__main__":
    main()
