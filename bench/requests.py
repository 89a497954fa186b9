"""What was asked for, kept beside the runs, so that `bench status` can say what is missing.

results/<study>/requests/<digest>.json   one a command and protocol; the same runs asked for again replace it

A search's request is its plan; what is kept of it here is its command and the runs known in advance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bench.errors import BadRecordError
from bench.plan import Run
from bench.record import ProtocolName
from bench.store import Store, write_atomic
from bench.stored import read_each

SCHEMA_VERSION = 1


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class RequestedRun(_Stored):
    """One run that was asked for."""

    run_id: str
    optimizer: str
    seed: int


class StudyRequest(_Stored):
    """Runs of one protocol that a command asked for at the UTC time `requested` (ISO 8601).

    With `race`, an optimizer that falls needs no further seeds.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    protocol: ProtocolName
    command: str | None
    requested: str
    race: bool = False
    runs: tuple[RequestedRun, ...]


def write_request(store: Store, runs: Sequence[Run], command: str | None, *, race: bool = False) -> None:
    """Keep what was asked for: all of its runs, those that have a record included; a file a protocol.

    Where the command asked for the same the last time, nothing is written. Raises `StorageError` where it cannot be.
    """
    earlier, _ = read_requests(store.path)
    by_protocol: dict[str, list[Run]] = {}
    for run in runs:
        by_protocol.setdefault(run.protocol.hash, []).append(run)
    requested = datetime.now(UTC).isoformat(timespec="microseconds")
    for protocol_hash, own in by_protocol.items():
        request = StudyRequest(
            protocol=ProtocolName(name=own[0].protocol.name, hash=protocol_hash), command=command, requested=requested,
            race=race, runs=tuple(RequestedRun(run_id=r.run_id, optimizer=r.optimizer, seed=r.seed) for r in own),
        )  # fmt: skip
        last = next((old for old in earlier if (old.command, old.protocol.hash) == (command, protocol_hash)), None)
        if last is None or _digest(last) != _digest(request):
            write_atomic(folder_of(store.path) / f"{_digest(request)}.json", request.model_dump_json() + "\n")


def _digest(request: StudyRequest) -> str:
    """12 digits over the protocol, the runs in any order, and whether they race."""
    content = [request.protocol.hash, request.race, sorted(run.run_id for run in request.runs)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def folder_of(study: Path) -> Path:
    """Where a study's requests are."""
    return study / "requests"


def read_requests(study: Path) -> tuple[list[StudyRequest], list[BadRecordError]]:
    """A study's requests, the last first, and the faults of those that cannot be read."""
    good, bad = read_each(folder_of(study).glob("*.json"), StudyRequest)
    return sorted(good.values(), key=lambda request: request.requested, reverse=True), bad


def standing(requests: Iterable[StudyRequest]) -> list[StudyRequest]:
    """Of requests, the last first, those that still stand.

    The same command again asks for other runs where an optimizer's code or the number of seeds in its protocol has
    changed; the earlier ones are wanted no more.
    """
    found: list[StudyRequest] = []
    seen: set[tuple[str, str]] = set()
    for request in requests:
        key = (request.command or "", request.protocol.hash)
        if request.command is None or key not in seen:
            found.append(request)
        seen.add(key)
    return found
