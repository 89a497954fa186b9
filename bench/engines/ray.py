"""The Ray engine: one actor a worker, on whatever nodes a Ray cluster has. Needs the extra `ray`."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import logging
import os
import re
import socket
import time
import uuid
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.engines.local import worker_environment
from bench.engines.ray_actor import Actor, Event, code_digest
from bench.engines.ray_worker import RayWorker, run_ids
from bench.environment import usable_cores
from bench.errors import EngineError, StorageError, UsageError
from bench.executor import Done, Listener, Shard, pass_on
from bench.placement import Placement
from bench.store import Store, write_atomic

NODE_DEATHS = 5  # how often a run may lose its node before that counts against the run
FALSE_STARTS = 5  # how many actors in a row may die before they are ready
LOOK_SECONDS = 2.0  # how often to look which nodes there are
EMPTY_SECONDS = 300.0  # how long the cluster may have no node for a worker
NODE_SECONDS = 2.0  # how much later than its actor a node may be reported dead
CONNECT_SECONDS = 10.0


def require_ray(address: str | None = None) -> None:
    """Raises `UsageError` where Ray is not installed, or `address` is none that the engine can use."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--engine ray: needs the extra: pip install 'optimizer-bench[ray]'")
    if address is not None and not re.fullmatch(r"auto|local|(?!.*://).+:\d{1,5}", address):
        raise UsageError(f"--address {address!r}: allowed are auto and HOST:PORT; where a cluster is only reached by a "
                         "URL, submit bench to it as a job")  # fmt: skip


def _ray() -> Any:
    """The package, imported with its usage reports off."""
    require_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its future default; the old one warns
    return importlib.import_module("ray")


class RayEngine:
    """As many actors as the nodes have room for, at most the placement's workers; nodes may come and go.

    Without an `address`, and without `RAY_ADDRESS`, it starts Ray on this machine alone. Raises `UsageError` where Ray
    is not installed or what is asked for cannot be, and `EngineError` where the cluster cannot be used.
    """

    def __init__(
        self, placement: Placement, study: Path, listener: Listener | None = None, *, address: str | None = None
    ) -> None:
        if placement.device not in ("cpu", "cuda"):
            raise UsageError(f"--device {placement.device!r}: allowed with --engine ray are cpu, cuda")
        self._ray, self._listener = _ray(), listener or Listener()
        self._placement, self._store = placement, Store(study.resolve())
        self._needs = {"CPU": placement.threads} | ({"GPU": 1} if placement.device == "cuda" else {})
        self._token, self._token_file = uuid.uuid4().hex, self._store.path / f".shared-{uuid.uuid4().hex[:12]}.tmp"
        self._workers: dict[int, RayWorker] = {}
        self._waiting: deque[Shard] = deque()
        self._stopping = False
        self._code = code_digest()
        self._node_deaths: Counter[str] = Counter()
        self._false_starts = 0
        self._look_at = 0.0
        self._room_since = time.monotonic()
        self._own = not self._ray.is_initialized()
        if self._own:
            _connect(self._ray, address)
        try:
            if not self._room():
                raise EngineError(f"--engine ray: no node of the cluster has what a worker needs, {self._needs}")
            self._staff()
        except BaseException:
            self.close()
            raise

    @property
    def slots(self) -> int:
        """Workers that are ready; at least one, so that a shard can wait for the first of them."""
        return max(1, sum(worker.ready for worker in self._workers.values()))

    def submit(self, shard: Shard) -> None:
        self._waiting.append(shard)

    def wait(self, timeout: float) -> Sequence[Done]:
        self._staff()
        done = self._hand_out()
        if done:
            return done
        calls = {call: worker for worker in self._workers.values() for call in worker.calls}
        if not calls:
            time.sleep(timeout)
            return []
        ready, _ = self._ray.wait(list(calls), timeout=timeout)
        return [ended for call in ready for ended in self._handle(calls[call], call)]

    def stop(self) -> None:
        self._stopping = True
        for worker in self._workers.values():
            worker.actor.stop.remote()

    def close(self) -> None:
        for worker in self._workers.values():
            self._end(worker)
        self._workers.clear()
        self._token_file.unlink(missing_ok=True)
        if self._own:
            self._ray.shutdown()

    def _room(self) -> int:
        """How many workers the nodes that are alive have room for, whatever else runs on them."""
        return sum(
            min(int(node["Resources"].get(name, 0) // amount) for name, amount in self._needs.items())
            for node in self._ray.nodes()
            if node["Alive"]
        )

    def _staff(self) -> None:
        """Now and then: an actor for every place there is, and none waiting for one that has gone.

        Raises `EngineError` where there has been no place for long.
        """
        if (now := time.monotonic()) < self._look_at:
            return
        self._look_at, room = now + LOOK_SECONDS, self._room()
        if room:
            self._room_since = now
        elif now - self._room_since > EMPTY_SECONDS:
            raise EngineError(f"the cluster has had no node for a worker for {EMPTY_SECONDS:g} s; the same command "
                              "goes on from here when it has")  # fmt: skip
        wanted = min(self._placement.workers, room)
        if len(self._workers) < wanted:  # a node that joins late is to see it too, and old temporary files are removed
            write_atomic(self._token_file, self._token)
        for number in [number for number in range(wanted) if number not in self._workers]:
            self._workers[number] = self._start(number)
        pending = [worker for worker in self._workers.values() if not worker.ready]
        for worker in pending[: max(0, len(self._workers) - wanted)]:
            self._end(self._workers.pop(worker.number))

    def _start(self, number: int) -> RayWorker:
        threads = self._placement.threads
        actor = self._ray.remote(Actor).options(
            num_cpus=threads, num_gpus=self._needs.get("GPU", 0), max_concurrency=4, scheduling_strategy="SPREAD",
            runtime_env={"env_vars": worker_environment({}, threads)},
        )  # fmt: skip
        started = actor.remote(number, threads, str(self._token_file), self._token, str(Path.cwd()))
        return RayWorker(number, started, self._store, self._listener)

    def _hand_out(self) -> list[Done]:
        """Waiting shards to idle workers; all of them back where runs are to stop."""
        done = []
        if self._stopping:
            done = [Done(shard=shard, stopped=run_ids(shard)) for shard in self._waiting]
            self._waiting.clear()
        idle = [worker for worker in self._workers.values() if worker.ready and worker.shard is None]
        for worker, _ in zip(idle, list(self._waiting), strict=False):
            done += worker.take(self._waiting.popleft())
        return done

    def _handle(self, worker: RayWorker, call: Any) -> list[Done]:
        """What a call of a worker has brought."""
        try:
            answer = self._ray.get(call)
        except self._ray.exceptions.RayActorError as error:
            return self._lost(worker, error)
        except self._ray.exceptions.RayError as error:
            raise EngineError(f"a Ray worker has failed: {_last_line(error)}") from error
        worker.calls.remove(call)
        if not worker.ready:
            self._false_starts = 0
            worker.welcome(self._code, *answer)
            if self._stopping:
                worker.actor.stop.remote()
        elif answer is not None:
            done = [ended for event in answer for ended in self._note(worker, event)]
            worker.ask(len(answer))
            return done
        return []

    def _note(self, worker: RayWorker, told: Event) -> list[Done]:
        """An event of a worker."""
        event, files = json.loads(told[0]), told[1]
        kind, run_id = event["event"], event.get("run_id", "")
        if kind == "storage":
            raise StorageError(event["reason"])
        if kind in ("done", "busy", "stopped"):
            return worker.note(kind, run_id, files)
        pass_on(event, worker.number, self._listener)
        return []

    def _lost(self, worker: RayWorker, error: Exception) -> list[Done]:
        """A worker's actor is dead or out of reach: end it, have it replaced, and hand back its shard."""
        del self._workers[worker.number]
        self._end(worker)
        self._look_at = 0.0
        if not worker.ready:
            self._false_starts += 1
            if getattr(error, "actor_init_failed", False) or self._false_starts >= FALSE_STARTS:
                raise EngineError(f"a worker cannot start on the cluster, whose nodes need the same packages as this "
                                  f"machine: {_last_line(error)}") from error  # fmt: skip
            return []
        current = worker.current
        if current is None:
            return []
        if self._fault_of_its_node(worker, error):
            self._node_deaths[current] += 1
            if (times := self._node_deaths[current]) <= NODE_DEATHS:
                return [worker.hand_back()]
            return [worker.hand_back(crashed=f"the death of its node (number {times})", run_id=current)]
        return [worker.hand_back(crashed=_how(error), run_id=current)]

    def _fault_of_its_node(self, worker: RayWorker, error: Exception) -> bool:
        """Whether an actor was lost with its node, or with the way to it, and not by what it did."""
        if isinstance(error, self._ray.exceptions.ActorUnavailableError) or getattr(error, "preempted", False):
            return True
        deadline = time.monotonic() + NODE_SECONDS
        while time.monotonic() < deadline:
            if worker.node not in {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}:
                return True
            time.sleep(0.2)
        return False

    def _end(self, worker: RayWorker) -> None:
        """Kill an actor, and let go of its runs."""
        worker.release()
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(worker.actor)


def _connect(ray: Any, address: str | None) -> None:
    """Connect to the cluster at `address`, or start one on this machine."""
    address = address or os.environ.get("RAY_ADDRESS") or None
    require_ray(address)
    own: Mapping[str, Any] = {"num_cpus": usable_cores(), "include_dashboard": False}
    try:
        if address and ":" in address:
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()  # Ray tries for minutes
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR,
                 **({} if address else own))  # fmt: skip
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:  # no cluster, another version of Ray
        hint = "" if address in (None, "local") else "; one that asks for a token needs RAY_AUTH_MODE=token here"
        raise EngineError(f"--engine ray, --address {address or 'local'}: {_last_line(error)}{hint}") from error
    # It prints what it notices of nodes on standard output, which is for data.
    ray._private.worker._worker_logs_enabled = False


def _how(error: Exception) -> str:
    """How an actor died, without addresses."""
    kind = re.search(r"Worker exit type: (\w+)", str(error))
    return f"Ray's {kind[1]}" if kind else "an end that Ray does not explain"


def _last_line(error: Exception) -> str:
    """What an error of Ray, many lines long, ends with."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__
