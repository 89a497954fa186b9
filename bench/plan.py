"""A run and its identity: protocol × optimizer × hyper-parameters × seed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue

from bench.protocol import Protocol
from bench.record import Failure, Outcome, ProtocolName, RunRecord

# Blocks from here on are for searches alone: no rate is chosen on a seed that ranks.
TUNING_SEEDS = 1_000_000


class Run(BaseModel):
    """One training run as plain data, so that any engine can carry it to a worker.

    `optimizer` is the entry's name in records; a worker finds the entry by `reference`, which may hold a path and is no
    part of the identity. `source_digest` is the SHA-256 of a user's optimizer file, `data_digest` of a dataset's files.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    protocol: Protocol
    optimizer: str
    reference: str
    hyperparameters: dict[str, JsonValue]
    seed: int
    revision: int = 1
    source_digest: str | None = None
    data_digest: str | None = None

    @property
    def configuration(self) -> str:
        """8 digits over what two runs of one optimizer must share to be averaged: settings, code and data."""
        return _digest(self.hyperparameters, self.revision, self.source_digest, self.data_digest)[:8]

    @property
    def run_id(self) -> str:
        """`<optimizer>-s<seed>-<hash>`: a readable beginning and 12 digits over all that can change the result."""
        digest = _digest(self.protocol.canonical_json(), self.optimizer, self.seed, self.configuration)
        return f"{slug(self.optimizer)}-s{self.seed}-{digest[:12]}"


def ended(run: Run, outcome: Outcome, failure: Failure | None, command: str | None) -> RunRecord:
    """The record of a run that has ended now, without anything measured."""
    return RunRecord(
        run_id=run.run_id,
        protocol=ProtocolName(name=run.protocol.name, hash=run.protocol.hash),
        optimizer=run.optimizer,
        configuration=run.configuration,
        revision=run.revision,
        source_digest=run.source_digest,
        hyperparameters=run.hyperparameters,
        seed=run.seed,
        outcome=outcome,
        failure=failure,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
    )


def settings_key(hyperparameters: Mapping[str, Any]) -> str:
    """Equal for equal settings."""
    return _digest(dict(hyperparameters))


def _digest(*parts: Any) -> str:
    """SHA-256 of the parts as canonical JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def slug(name: str) -> str:
    """`name` as part of a file name: letters, digits, `_` and `.`, everything else a dash; at most 60 characters."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")[-60:].lstrip("-.") or "optimizer"
