"""What has become of one run, read from its folder and nothing else; thousands of them in a second."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from bench.errors import BadRecordError
from bench.plan import TUNING_SEEDS
from bench.record import SCHEMA_VERSION, TRAILER, Outcome, ProtocolName, Seconds, read_record
from bench.store import Store, require_own

TRAILER_BYTES = 100  # more than the end of a record takes, with its digest
_RUN_ID = re.compile(r"(.+)-s(\d{1,18})-[0-9a-f]{12}")
_CHECKPOINT = re.compile(r"checkpoint-(\d{1,18})\.pt")
_SET_ASIDE = re.compile(r"run\.set-aside-\d+\.json")


class State(StrEnum):
    """How a run stands: the outcome of one that has ended, or how far it is."""

    OK = "ok"
    DIVERGED = "diverged"
    ERROR = "error"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    RUNNING = "running"  # a process holds its lock
    STOPPED = "stopped"  # begun, not ended, and held by none
    UNREADABLE = "unreadable"
    MISSING = "missing"  # asked for, not begun
    NOT_NEEDED = "not_needed"  # asked for, and left out by a race


ENDED = (State.OK, State.DIVERGED, State.ERROR, State.TIMEOUT, State.OUT_OF_MEMORY)


class RecordHead(BaseModel):
    """What a status needs of a record; the metrics, most of its text, are passed over."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    schema_version: int = Field(ge=1, le=SCHEMA_VERSION)
    run_id: str
    protocol: ProtocolName
    optimizer: str
    configuration: str
    hyperparameters: dict[str, JsonValue]
    seed: int
    outcome: Outcome
    validation_metrics: dict[str, float | str]  # as `Number`, without a call for each of them
    seconds: Seconds
    finished: str
    command: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a run was to be; `protocol` is None where only its folder's name is known."""

    optimizer: str
    seed: int
    protocol: ProtocolName | None = None

    @property
    def is_trial(self) -> bool:
        """Whether it is a run of a search."""
        return self.seed >= TUNING_SEEDS


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """One run: `epoch` is the last whole one and `resumes_from` the one that the same command goes on from, of a run
    that has begun and not ended; `head` is there once it has ended."""

    run_id: str
    identity: Identity | None
    state: State
    head: RecordHead | None = None
    epoch: int | None = None
    resumes_from: int | None = None
    fault: str | None = None
    set_aside: int = 0

    def to_json(self) -> dict[str, Any]:
        """The run as plain data."""
        known = self.identity
        return {
            "run_id": self.run_id,
            "optimizer": known and known.optimizer,
            "seed": known and known.seed,
            "protocol_hash": known.protocol.hash if known and known.protocol else None,
            "epoch": self.epoch,
            "resumes_from": self.resumes_from,
        }


def read_head(content: bytes, source: str) -> RecordHead:
    """What a status needs of a record that is as it was written, in a tenth of the time of `read_record`.

    Raises `BadRecordError` where, and as, `read_record` does.
    """
    trailer = TRAILER.search(content, max(0, len(content) - TRAILER_BYTES))
    if trailer and hashlib.sha256(content[: trailer.start()]).hexdigest() == trailer[1].decode():
        try:
            return RecordHead.model_validate_json(content)
        except ValidationError:
            pass  # as written, by something else: the whole reader says what is wrong
    record = read_record(content, source)
    return RecordHead.model_validate(record.model_dump(include=set(RecordHead.model_fields)))


def identity_of(run_id: str, asked: Mapping[str, Identity]) -> Identity | None:
    """What a run was to be, as it was asked for, else as far as its name says."""
    if run_id in asked:
        return asked[run_id]
    found = _RUN_ID.fullmatch(run_id)
    return Identity(optimizer=found[1], seed=int(found[2])) if found else None


def read_run(store: Store, run_id: str, asked: Mapping[str, Identity]) -> RunState | None:
    """How a run stands; None where its folder holds nothing and no process."""
    folder = store.run_dir(run_id)
    try:
        names = os.listdir(folder)  # noqa: PTH208 - a third of the time
        head = _head(folder, names)
    except (BadRecordError, OSError) as error:
        fault = str(error) if isinstance(error, BadRecordError) else f"{folder}: {error.strerror or error}"
        return RunState(run_id=run_id, identity=identity_of(run_id, asked), state=State.UNREADABLE, fault=fault)
    aside = sum(1 for name in names if _SET_ASIDE.fullmatch(name))
    if head is not None:
        identity = Identity(optimizer=head.optimizer, seed=head.seed, protocol=head.protocol)
        return RunState(run_id=run_id, identity=identity, state=State(head.outcome), head=head, set_aside=aside)
    found = _unfinished(store, run_id, names, identity_of(run_id, asked), aside)
    if found and found.state is not State.RUNNING and (folder / "run.json").exists():
        return read_run(store, run_id, asked)  # it has ended in this moment
    return found


def _head(folder: Path, names: list[str]) -> RecordHead | None:
    if "run.json" not in names:
        return None
    path = f"{folder}/run.json"
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a Path costs more than the reading
            head = read_head(file.read(), path)
    except FileNotFoundError:  # set aside in this moment
        return None
    require_own(head.run_id, folder.name, path)
    return head


def _unfinished(store: Store, run_id: str, names: list[str], known: Identity | None, aside: int) -> RunState | None:
    """A run without a record."""
    running = ".lock" in names and _is_claimed(store, run_id)
    steps = [int(found[1]) for name in names if (found := _CHECKPOINT.fullmatch(name))]
    if not running and not steps and "curve.jsonl" not in names:
        return RunState(run_id=run_id, identity=known, state=State.MISSING, set_aside=aside) if aside else None
    epoch, resumes_from, fault = None, None, None
    try:
        points = store.read_curve(run_id)
    except (BadRecordError, OSError) as error:
        fault = str(error)
    else:
        epoch = points[-1].epoch if points else 0
        resumes_from = max((p.epoch for p in points if p.step <= max(steps, default=0)), default=0)
    return RunState(
        run_id=run_id, identity=known, state=State.RUNNING if running else State.STOPPED, epoch=epoch,
        resumes_from=resumes_from, fault=fault, set_aside=aside,
    )  # fmt: skip


def _is_claimed(store: Store, run_id: str) -> bool:
    """Whether a process is at work on the run; of a lock that must not be read, nothing is known."""
    try:
        return store.is_claimed(run_id)
    except PermissionError:
        return False
