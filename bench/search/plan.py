"""What a search was asked to do, as it is stored beside the runs; the trials follow from it and from their records.

results/<study>/searches/<protocol hash>/<optimizer>.json
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from bench.errors import BadRecordError, UsageError
from bench.plan import slug
from bench.protocol import Protocol
from bench.search.search import Sampler, Search
from bench.search.space import Space
from bench.spec import SearchRange
from bench.store import write_atomic
from bench.summary import lower_is_better

SCHEMA_VERSION = 1


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Range(_Stored):
    """A hyper-parameter's range."""

    low: float
    high: float
    log: bool


class Tuned(_Stored):
    """What a finished search found: the settings of the best trial (None: every trial diverged or failed)."""

    hyperparameters: dict[str, JsonValue] | None
    values: dict[str, float] | None
    validation: float | None
    unresolved: bool
    trials: int
    extra_trials: int


class SearchPlan(_Stored):
    """One optimizer's search; `defaults` are the complete settings that the searched values replace.

    `tuned` is there once the search has ended.
    """

    schema_version: int = SCHEMA_VERSION
    protocol_hash: str
    optimizer: str
    revision: int = 1
    source_digest: str | None = None
    defaults: dict[str, JsonValue]
    ranges: dict[str, Range]
    trials: int = Field(ge=1)
    seeds: tuple[int, ...]
    sampler: Sampler
    sampler_seed: int = 0
    rung_epochs: int | None = None
    rung_hash: str | None = None
    tuned: Tuned | None = None

    def search(self, protocol: Protocol) -> Search:
        """The search at its beginning."""
        ranges = {name: SearchRange(low=r.low, high=r.high, log=r.log) for name, r in self.ranges.items()}
        return Search(
            space=Space(ranges), budget=self.trials, sampler=self.sampler, seed=self.sampler_seed,
            lower_is_better=lower_is_better(protocol.primary_metric), rung=self.rung_epochs is not None,
        )  # fmt: skip

    @property
    def best_settings(self) -> dict[str, Any]:
        """The best trial's settings, or the default ones where no trial ended well; of a search that has ended."""
        found = self.tuned.hyperparameters if self.tuned else None
        return dict(self.defaults if found is None else found)


def _folder(study: Path, protocol_hash: str) -> Path:
    return study / "searches" / protocol_hash


def write_plan(study: Path, plan: SearchPlan) -> None:
    """Store a search, in place of an earlier one of the same optimizer."""
    path = _folder(study, plan.protocol_hash) / f"{slug(plan.optimizer)}.json"
    write_atomic(path, plan.model_dump_json(indent=2) + "\n")


def read_plans(study: Path, protocol_hash: str) -> dict[str, SearchPlan]:
    """The searches of a protocol by optimizer.

    Raises `BadRecordError` naming a file that is none.
    """
    found = {}
    for path in sorted(_folder(study, protocol_hash).glob("*.json")):
        try:
            plan = SearchPlan.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise BadRecordError(f"{path}: {error}") from None
        found[plan.optimizer] = plan
    return found


def tuned_settings(study: Path, protocol: Protocol, optimizers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The settings that finished searches found, by optimizer; the default ones where no trial ended well.

    Raises `UsageError` where one of the optimizers has no finished search.
    """
    plans = read_plans(study, protocol.hash)
    settings = {}
    for name in optimizers:
        tuned = plans[name].tuned if name in plans else None
        if tuned is None:
            raise UsageError(f"--lr tuned: no finished search of {name} under protocol {protocol.name} "
                             f"({protocol.hash}) in {study}; `bench tune` makes one")  # fmt: skip
        settings[name] = plans[name].best_settings
    return settings
