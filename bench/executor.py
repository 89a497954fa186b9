"""The local engine: persistent worker processes, so that importing torch is paid once a worker and not once a run."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from bench.errors import EngineError
from bench.plan import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Runs for one worker as plain data; `study` is the folder their records go to."""

    runs: tuple[Run, ...]
    study: Path
    device: str
    data_dir: Path | None
    command: str | None

    def to_json(self) -> str:
        """One line."""
        return json.dumps(
            {
                "runs": [run.model_dump(mode="json") for run in self.runs],
                "study": str(self.study),
                "device": self.device,
                "data_dir": None if self.data_dir is None else str(self.data_dir),
                "command": self.command,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A shard has left its worker; `crashed` says how the process ended where it died, and which run it was on."""

    shard: Shard
    crashed: str | None = None
    run_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A run's epoch has ended on worker number `worker`."""

    worker: int
    run_id: str
    epoch: int
    loss: float | None
    avg_r1: float | None


class Engine(Protocol):
    """What carries shards to workers. The truth is in the records; an engine is disposable."""

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

    def close(self) -> None:
        """End all workers now."""
        ...


class LocalEngine:
    """`workers` processes of `threads` threads each on this machine; what they print goes to `logs`."""

    def __init__(
        self, *, workers: int, threads: int, logs: Path, on_progress: Callable[[Progress], None] = lambda progress: None
    ) -> None:
        self._threads, self._logs, self._on_progress = threads, logs, on_progress
        self._events: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        logs.mkdir(parents=True, exist_ok=True)
        self._workers = [_Worker(number, self._events, logs, threads) for number in range(workers)]

    @property
    def slots(self) -> int:
        return len(self._workers)

    def submit(self, shard: Shard) -> None:
        worker = next((w for w in self._workers if w.shard is None), None)
        assert worker is not None, "submit: every worker is busy"
        worker.start(shard)

    def wait(self, timeout: float) -> Sequence[Done]:
        done: list[Done] = []
        try:
            done += self._handle(*self._events.get(timeout=timeout))
            while True:
                done += self._handle(*self._events.get_nowait())
        except queue.Empty:
            return done

    def close(self) -> None:
        for worker in self._workers:
            worker.end()

    def _handle(self, worker: _Worker, event: dict[str, Any] | None) -> list[Done]:
        if event is None:
            return self._replace(worker)
        if event["event"] == "ready":
            worker.ready = True
        elif event["event"] == "epoch":
            del event["event"]
            worker.run_id = event["run_id"]
            self._on_progress(Progress(worker=worker.number, **event))
        elif event["event"] == "done" and worker.shard is not None:
            worker.finished += 1
            if worker.finished == len(worker.shard.runs):
                shard, worker.shard = worker.shard, None
                return [Done(shard=shard)]
        return []

    def _replace(self, worker: _Worker) -> list[Done]:
        """A worker died: start another in its place and say which shard it took with it."""
        code = worker.end()
        if not worker.ready:
            log = self._logs / f"worker-{worker.number}.log"
            raise EngineError(f"a worker process cannot start (exit code {code}); {log} says why")
        shard, run_id = worker.shard, worker.current_run()
        self._workers[worker.number] = _Worker(worker.number, self._events, self._logs, self._threads)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return [] if shard is None else [Done(shard=shard, crashed=how, run_id=run_id)]


class _Worker:
    """One process, the shard it has, and a thread that reads its events."""

    def __init__(self, number: int, events: queue.Queue[Any], logs: Path, threads: int) -> None:
        self.number, self.shard, self.finished, self.run_id, self.ready = number, None, 0, None, False
        self.shard: Shard | None
        self.run_id: str | None
        self._log = (logs / f"worker-{number}.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.worker", str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=_environment(threads),
        )  # fmt: skip
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout, events), daemon=True)
        self._reader.start()

    def start(self, shard: Shard) -> None:
        self.shard, self.finished, self.run_id = shard, 0, None
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: its end of file is on the way and hands the shard back
            self.process.stdin.write(shard.to_json().encode() + b"\n")
            self.process.stdin.flush()

    def current_run(self) -> str | None:
        """The run it is on: runs of a shard are carried out in order."""
        if self.shard is None or self.finished >= len(self.shard.runs):
            return None
        return self.shard.runs[self.finished].run_id

    def end(self) -> int:
        """Kill the process where it still lives and close its files; returns its exit code."""
        self.process.kill()
        code = self.process.wait()
        self._reader.join()
        for file in (self.process.stdin, self.process.stdout, self._log):
            assert file is not None
            with contextlib.suppress(BrokenPipeError):
                file.close()
        return code

    def _read(self, stdout: IO[bytes], events: queue.Queue[Any]) -> None:
        """Pass events on until the process ends; a line that is none (a torn one, a library's print) is left out."""
        try:
            for line in stdout:
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if isinstance(event, dict) and "event" in event:
                        events.put((self, event))
        finally:
            events.put((self, None))


def _environment(threads: int) -> Mapping[str, str]:
    """The parent's environment with thread counts pinned before any library reads them."""
    pinned = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return {**os.environ, **pinned, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # cuBLAS repeats its bits only with it
