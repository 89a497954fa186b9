"""The local engine: persistent worker processes, so that importing torch is paid once a worker and not once a run."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from bench.errors import EngineError, StorageError
from bench.executor import Done, Listener, Shard, pass_on
from bench.placement import Placement
from bench.store import open_own, storing

FALSE_STARTS = 5  # how many workers in a row may be killed before they are ready


class LocalEngine:
    """As many processes on this machine as the placement has workers; what they print goes to `logs`.

    Where processes share a run, all of them together are one worker.
    """

    def __init__(self, placement: Placement, logs: Path, listener: Listener | None = None) -> None:
        self._listener = listener or Listener()
        self._events: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        with storing(logs):
            logs.mkdir(parents=True, exist_ok=True)
        ddp = placement.parallel == "ddp"
        gpus = gpus_in_sight(os.environ) if placement.device == "cuda" and not ddp else []
        command = ddp_command(placement) if ddp else worker_command(placement)

        def start(number: int) -> _Worker:
            environment = worker_environment(os.environ, placement.threads, gpus[number % len(gpus)] if gpus else None)
            return _Worker(number, self._events, logs / f"worker-{number}.log", command, environment)

        self._start: Callable[[int], _Worker] = start
        self._stopping = False
        self._false_starts = 0  # in a row
        self._workers: list[_Worker] = []
        try:
            for number in range(1 if ddp else placement.workers):
                self._workers.append(start(number))
        except BaseException:
            self.close()
            raise

    @property
    def slots(self) -> int:
        return len(self._workers)

    def submit(self, shard: Shard) -> None:
        worker = next((w for w in self._workers if w.shard is None), None)
        assert worker is not None, "submit: every worker is busy"
        worker.take(shard)

    def wait(self, timeout: float) -> Sequence[Done]:
        done: list[Done] = []
        try:
            done += self._handle(*self._events.get(timeout=timeout))
            while True:
                done += self._handle(*self._events.get_nowait())
        except queue.Empty:
            return done

    def stop(self) -> None:
        self._stopping = True
        for worker in self._workers:
            worker.tell('{"stop": true}')

    def close(self) -> None:
        for worker in self._workers:
            worker.end()

    def _handle(self, worker: _Worker, event: dict[str, Any] | None) -> list[Done]:
        if event is None:
            return self._replace(worker)
        kind, run_id = event["event"], event.get("run_id", "")
        if kind == "ready":
            worker.ready, self._false_starts = True, 0
        elif kind == "storage":
            raise StorageError(event["reason"])
        elif kind in ("done", "busy", "stopped"):
            return worker.note(kind, run_id)
        else:
            pass_on(event, worker.number, self._listener)
        return []

    def _replace(self, worker: _Worker) -> list[Done]:
        """A worker died: start another in its place and say which shard it took with it.

        One that was killed before it was ready was on no run yet. Raises `EngineError` where workers cannot start.
        """
        code = worker.end()
        self._false_starts += not worker.ready
        if not worker.ready and (code >= 0 or self._false_starts >= FALSE_STARTS):
            raise EngineError(f"a worker process cannot start (exit code {code}); {worker.log} says why")
        self._workers[worker.number] = self._start(worker.number)
        if self._stopping:
            self._workers[worker.number].tell('{"stop": true}')
        if not worker.ready:
            return worker.returned()
        return worker.crashed(f"signal {-code}" if code < 0 else f"exit code {code}")


class _Worker:
    """One process, the shard it has and how its runs ended, and a thread that reads its events."""

    def __init__(
        self, number: int, events: queue.Queue[Any], log: Path, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self.number, self.log, self.ready = number, log, False
        self.shard: Shard | None = None
        self._endings: dict[str, str] = {}
        with storing(log):
            self._output = os.fdopen(open_own(log, os.O_WRONLY | os.O_APPEND), "ab")
        try:
            with _interrupts_held_back():
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._output, env=environment,
                )  # fmt: skip
        except OSError as error:
            self._output.close()
            raise EngineError(f"worker process {number + 1} cannot start: {error.strerror or error}") from error
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout, events), daemon=True)
        self._reader.start()

    def take(self, shard: Shard) -> None:
        """Begin a shard."""
        self.shard, self._endings = shard, {}
        self.tell(shard.model_dump_json())

    def tell(self, line: str) -> None:
        """Write a line to the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: its end of file is on the way and hands the shard back
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def note(self, ending: str, run_id: str) -> list[Done]:
        """A run of the shard has ended so; the shard, where it was the last."""
        if self.shard is None:
            return []
        self._endings[run_id] = ending
        if len(self._endings) < len(self.shard.runs):
            return []
        return [self._hand_back()]

    def returned(self) -> list[Done]:
        """The shard, if it has one, as it was taken."""
        return [self._hand_back()] if self.shard else []

    def crashed(self, how: str) -> list[Done]:
        """The shard that the process took with it; runs go in order, so it was on the first that has not ended."""
        if self.shard is None:
            return []
        left = [run.run_id for run in self.shard.runs if run.run_id not in self._endings]
        return [self._hand_back(crashed=how, run_id=left[0] if left else None)]

    def _hand_back(self, **how: Any) -> Done:
        assert self.shard is not None
        shard, self.shard = self.shard, None
        of = {kind: frozenset(i for i, ending in self._endings.items() if ending == kind)
              for kind in ("busy", "stopped")}  # fmt: skip
        return Done(shard=shard, **of, **how)

    def end(self) -> int:
        """Kill the process where it still lives and close its files; returns its exit code."""
        self._process.kill()
        code = self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # before its output's end: processes that share a run end with their input
        self._reader.join()
        for file in (self._process.stdout, self._output):
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


def worker_command(placement: Placement) -> list[str]:
    """What starts a worker; `-P`, as a user's folder may hold a module of any name."""
    return [sys.executable, "-P", "-m", "bench.worker", str(placement.threads)]


def ddp_command(placement: Placement) -> list[str]:
    """What starts the processes of a run that share its batches: torchrun, on this machine alone, without log files."""
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
                "--nproc-per-node", str(placement.workers), "--log-dir", os.devnull, "--no-python"]  # fmt: skip
    return [*torchrun, sys.executable, "-P", "-m", "bench.ddp_worker", str(placement.threads), placement.device]


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """A process that starts inside the block gets no Ctrl-C until it lets it through, once it knows what to do."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def gpus_in_sight(environment: Mapping[str, str]) -> list[str]:
    """What to write into CUDA_VISIBLE_DEVICES for each GPU that this process sees."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        import torch

        return [str(i) for i in range(torch.cuda.device_count())]
    return [part.strip() for part in visible.split(",") if part.strip()]


# What glibc's malloc takes lies in pages of 2 MB where the system has them: 5 % faster steps, as fewer addresses are
# looked up. Other C libraries ignore it.
LARGE_PAGES = "glibc.malloc.hugetlb=1"


def worker_environment(environment: Mapping[str, str], threads: int, gpu: str | None = None) -> dict[str, str]:
    """`environment` with thread counts pinned before any library reads them, and with one GPU where it has its own.

    How the allocator is tuned is the user's where `environment` says it.
    """
    pinned = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    own = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    tuned = {"GLIBC_TUNABLES": LARGE_PAGES} | dict(environment)
    return {**tuned, **pinned, **own, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # cuBLAS repeats bits only with it
