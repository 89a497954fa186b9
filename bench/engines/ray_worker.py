"""The driver's end of an actor of the Ray engine: what it was asked, and how its runs ended."""

from __future__ import annotations

import contextlib
from typing import Any

from bench.engines.ray_actor import Files, read_files, write_files
from bench.errors import BadRecordError, EngineError
from bench.executor import Done, Listener, Shard
from bench.plan import Run
from bench.record import read_record
from bench.store import Store

CALL_SECONDS = 20.0  # how long a call waits for events


class RayWorker:
    """An actor, the shard it has and how its runs ended, and the calls that it has not answered."""

    def __init__(self, number: int, actor: Any, store: Store, listener: Listener) -> None:
        self.number, self.actor, self.ready, self.node = number, actor, False, ""
        self._listener = listener
        self.shard: Shard | None = None
        self.calls: list[Any] = [actor.hello.remote()]
        self._store, self._shared, self._known = store, False, 0
        self._endings: dict[str, str] = {}
        self._claims = contextlib.ExitStack()

    def welcome(self, code: str, node: str, shared: bool, digest: str) -> None:
        """The actor is there, on that node, which sees the study's folder or does not, and has sources of that digest.

        Raises `EngineError` where it is not that of `code`.
        """
        if digest != code:
            raise EngineError(f"node {node[:8]} has another version of bench than this machine; records of two "
                              "versions cannot be compared, so install the same one on every node")  # fmt: skip
        self.ready, self.node, self._shared = True, node, shared
        self.ask(0)

    def ask(self, known: int) -> None:
        """Ask for the events that follow the `known` last ones."""
        self._known += known
        self.calls.append(self.actor.events.remote(self._known, CALL_SECONDS))

    def take(self, shard: Shard) -> list[Done]:
        """Begin a shard; it is handed back where there is nothing to do of it.

        An actor that works elsewhere cannot hold the runs' locks, so this process does.
        """
        self.shard, self._endings = shard, {}
        runs = list(shard.runs) if self._shared else [run for run in shard.runs if self._claim(run)]
        if not runs:
            return [self.hand_back()]
        files = {} if self._shared else {run.run_id: self._state(run.run_id) for run in runs}
        text = shard.model_copy(update={"runs": tuple(runs)}).model_dump_json()
        self.calls.append(self.actor.take.remote(text, files))
        return []

    def _claim(self, run: Run) -> bool:
        """Be the run's only writer until the shard ends; False where another process is, or has done it."""
        assert self.shard is not None
        if not self._claims.enter_context(self._store.claim(run.run_id)):
            self._endings[run.run_id] = "busy"
        elif not (reason := self._store.why_missing(run.run_id, self.shard.placement)):
            self._endings[run.run_id] = "done"
        else:
            if path := self._store.set_aside(run.run_id):
                self._listener.set_aside(run.run_id, f"{reason}; kept as {path.name}")
            return True
        return False

    def _state(self, run_id: str) -> Files:
        """The checkpoints and best weights of a run that was stopped."""
        files = read_files(self._store.run_dir(run_id))
        return {name: content for name, content in files.items() if name.startswith(("checkpoint-", "best."))}

    def note(self, ending: str, run_id: str, files: Files) -> list[Done]:
        """A run of the shard has ended so; the shard, where it was the last."""
        if self.shard is None or run_id not in run_ids(self.shard):
            return []
        if not self._shared and ending in ("done", "stopped"):
            self._keep(ending, run_id, files)
        self._endings[run_id] = ending
        return [] if self.current else [self.hand_back()]

    def _keep(self, ending: str, run_id: str, files: Files) -> None:
        """Store what a node that does not see the study's folder has found.

        Raises `EngineError` where it is no record of the run.
        """
        if ending == "done":
            try:
                found = read_record(files.get("run.json", b""), f"the record of {run_id} from node {self.node[:8]}")
            except BadRecordError as error:
                raise EngineError(str(error)) from error
            if found.run_id != run_id:
                raise EngineError(f"node {self.node[:8]} sent the record of {found.run_id!r} for {run_id!r}")
        write_files(self._store.run_dir(run_id), files)

    @property
    def current(self) -> str | None:
        """The run it is on: runs go in order, so the first that has not ended."""
        runs = self.shard.runs if self.shard else ()
        return next((run.run_id for run in runs if run.run_id not in self._endings), None)

    def hand_back(self, **how: Any) -> Done:
        """The shard, and this worker is free."""
        assert self.shard is not None
        shard, self.shard = self.shard, None
        self.release()
        of = {kind: frozenset(i for i, ending in self._endings.items() if ending == kind)
              for kind in ("busy", "stopped")}  # fmt: skip
        return Done(shard=shard, **of, **how)

    def release(self) -> None:
        """Let go of the runs' locks."""
        self._claims.close()


def run_ids(shard: Shard) -> frozenset[str]:
    """The runs of a shard."""
    return frozenset(run.run_id for run in shard.runs)
