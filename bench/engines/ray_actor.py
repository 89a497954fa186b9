"""What the Ray engine runs on a cluster's nodes: an actor that carries out shards on a thread of its own.

The driver asks it for events again and again, and acknowledges those it has. Where the node sees the study's folder,
runs are carried out in it. Elsewhere they are carried out in a folder of the node that goes with the shard, and the
files of an ended run travel with the event of its end.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import queue
import re
import shutil
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench.checkpoint import KEPT
from bench.errors import StorageError
from bench.executor import Shard
from bench.store import Store, open_own, write_atomic
from bench.worker import carry_out, prepare_process

Files = dict[str, bytes]  # a run's files by name
Event = tuple[str, Files]  # an event of `bench.worker` as JSON, and the files that belong to it
SCRATCH = "bench-ray-"
_RECORD = ("curve.jsonl", "run.json")
_WEIGHTS = tuple(f"{kind}.pt{ending}" for kind in ("best", "last") for ending in ("", ".sha256"))
_CHECKPOINT = re.compile(r"checkpoint-\d{9}\.pt(\.sha256)?")


class Actor:
    """One worker of the engine; calls come on several threads at once.

    `token_file` holds `token` where this node sees the same folder as the driver. `folder` is the driver's, for paths
    that are relative to it.
    """

    def __init__(self, number: int, threads: int, token_file: str, token: str, folder: str) -> None:
        with contextlib.suppress(OSError):
            os.chdir(folder)
        study = Path(token_file).parent
        self._study = study if _content(Path(token_file)) == token else None
        if self._study:
            _print_to(self._study / "logs" / f"worker-{number}.log")
        prepare_process(threads)
        _remove_leftovers()
        self._shards: queue.Queue[tuple[Shard, Mapping[str, Files]]] = queue.Queue()
        self._stopping = threading.Event()
        self._news = threading.Condition()
        self._events: list[Event] = []
        self._acknowledged = 0
        threading.Thread(target=self._serve, args=(threads,), daemon=True).start()

    def hello(self) -> tuple[str, bool, str]:
        """The node's id, whether it sees the driver's study folder, and the digest of its code."""
        ray = importlib.import_module("ray")
        return ray.get_runtime_context().get_node_id(), self._study is not None, code_digest()

    def take(self, shard: str, files: Mapping[str, Files]) -> None:
        """Begin a shard, which is JSON; `files` are what there is of its runs, by run id."""
        self._shards.put((Shard.model_validate_json(shard), files))

    def events(self, acknowledged: int, seconds: float) -> list[Event]:
        """The events after the first `acknowledged`, which are forgotten; waits for one up to `seconds`."""
        with self._news:
            del self._events[: acknowledged - self._acknowledged]
            self._acknowledged = acknowledged
            self._news.wait_for(lambda: self._events, timeout=seconds)
            return list(self._events)

    def stop(self) -> None:
        """Let all runs end at their next epoch's end."""
        self._stopping.set()

    def _tell(self, files: Files, **event: Any) -> None:
        with self._news:
            self._events.append((json.dumps(event), files))
            self._news.notify_all()

    def _serve(self, threads: int) -> None:
        """Carry out shards for ever; what must not happen ends the process, as it ends a worker process."""
        try:
            torch.set_num_threads(threads)  # OpenMP counts threads by thread
            while True:
                shard, files = self._shards.get()
                try:
                    self._carry_out(shard, files)
                except StorageError as error:
                    self._tell({}, event="storage", reason=str(error))
        finally:
            traceback.print_exc()
            os._exit(1)

    def _carry_out(self, shard: Shard, files: Mapping[str, Files]) -> None:
        device = torch.device(shard.placement.device)
        if self._study:
            here = shard.model_copy(update={"study": self._study})
            carry_out(here, lambda **event: self._tell({}, **event), self._stopping, device)
            return
        with _scratch() as folder:
            store = Store(folder)
            for run_id, content in files.items():
                write_files(store.run_dir(run_id), content)

            def send(**event: Any) -> None:
                ended = event["event"] in ("done", "stopped")
                self._tell(read_files(store.run_dir(event["run_id"])) if ended else {}, **event)

            carry_out(shard.model_copy(update={"study": folder}), send, self._stopping, device)


def read_files(folder: Path) -> Files:
    """What there is of a run: its record, curve, weights and whole checkpoints."""
    checkpoints = sorted(path.name for path in folder.glob("checkpoint-*") if _CHECKPOINT.fullmatch(path.name))
    found = {}
    for name in (*_RECORD, *_WEIGHTS, *checkpoints[-2 * KEPT :]):
        with contextlib.suppress(FileNotFoundError):
            found[name] = (folder / name).read_bytes()
    return found


def write_files(folder: Path, files: Files) -> None:
    """Keep what `read_files` found elsewhere, the record last; checkpoints that were not found there are removed.

    Raises `StorageError` where it cannot be written.
    """
    for name in sorted(files):  # best.pt…, checkpoint…, curve.jsonl, last.pt…, run.json
        if name in (*_RECORD, *_WEIGHTS) or _CHECKPOINT.fullmatch(name):
            write_atomic(folder / name, files[name])
    for path in folder.glob("checkpoint-*"):
        if path.name not in files:
            path.unlink(missing_ok=True)


def code_digest() -> str:
    """Equal where this package's sources are; nodes with other code would give other results under the same names."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    sources = sorted(Path(folder, file).relative_to(package).as_posix()
                     for folder, _, files in os.walk(package, followlinks=True)
                     for file in files if file.endswith(".py"))  # fmt: skip
    for name in sources:
        digest.update(name.encode() + b"\0" + (package / name).read_bytes() + b"\0")
    return digest.hexdigest()


def _content(path: Path) -> str | None:
    """A file's text; None where this machine does not see it."""
    try:
        return path.read_text()
    except OSError:
        return None


def _print_to(log: Path) -> None:
    """Send what this process prints from here on to the end of `log`, where a local worker's goes."""
    log.parent.mkdir(parents=True, exist_ok=True)
    file = open_own(log, os.O_WRONLY | os.O_APPEND)
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
    finally:
        os.close(file)
    # Ray's own go elsewhere, and faulthandler follows sys.stderr.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder of this node for as long as the block lasts."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-"))
    except OSError as error:
        raise StorageError(f"{tempfile.gettempdir()}: {error.strerror or error}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers() -> None:
    """Remove the folders of this user's actors that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError, ValueError):
            if folder.lstat().st_uid == os.getuid() and not _lives(int(folder.name.split("-")[2])):
                shutil.rmtree(folder, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
