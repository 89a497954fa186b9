"""What a search was asked to do, as it is stored beside the runs; the trials follow from it and from their records.

results/<study>/searches/<protocol hash>/<optimizer>.json
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from bench.errors import BadRecordError, UsageError
from bench.plan import slug
from bench.protocol import Protocol
from bench.spec import OptimizerSpec, SearchRange
from bench.store import write_atomic
from bench.summary import lower_is_better
from bench.wording import counted

if TYPE_CHECKING:  # brings Optuna and SciPy, which reading a plan needs not wait for
    from bench.search.search import Search

RATE = "lr"  # what every search looks for
Sampler = Literal["sobol", "grid", "tpe", "gp", "cmaes"]
SCHEMA_VERSION = 1
TRIALS = 8  # of a search that is asked for without a number


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to search: `trials` settings of each optimizer on `seeds` tuning seeds, by name of hyper-parameter.

    `trials` None stands for the searches that are there, whatever they were asked for (see `settled`).
    """

    trials: int | None = None
    seeds: int = 2
    sampler: Sampler = "sobol"
    names: tuple[str, ...] = (RATE,)
    rung_epochs: int | None = None

    def __str__(self) -> str:
        rung = f", a first rung of {counted(self.rung_epochs, 'epoch')}" if self.rung_epochs else ""
        trials, seeds = counted(self.trials or TRIALS, "trial"), counted(self.seeds, "tuning seed")
        return f"{trials} of {', '.join(self.names)} on {seeds} ({self.sampler}{rung})"


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Range(_Stored):
    """A hyper-parameter's range."""

    low: float
    high: float
    log: bool

    @model_validator(mode="after")
    def _has_a_width(self) -> Range:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"low {self.low:g}, high {self.high:g}: allowed is low < high, above 0 where log is true")
        return self


class Tuned(_Stored):
    """What a finished search found: the settings of the best trial (None: every trial diverged or failed).

    `trials` ran the full schedule; `extra_trials` of them were added where the optimum lay at an edge.
    """

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

    schema_version: Annotated[int, Field(le=SCHEMA_VERSION)] = SCHEMA_VERSION
    protocol_hash: str
    optimizer: str
    revision: int = 1
    source_digest: str | None = None
    defaults: dict[str, JsonValue]
    ranges: dict[str, Range]
    trials: int = Field(ge=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    sampler: Sampler
    sampler_seed: int = 0
    rung_epochs: int | None = Field(default=None, ge=1)
    rung_hash: str | None = None
    tuned: Tuned | None = None

    @model_validator(mode="after")
    def _has_a_rate(self) -> SearchPlan:
        rate = self.defaults.get(RATE)
        if RATE not in self.ranges or isinstance(rate, bool) or not isinstance(rate, int | float):
            raise ValueError(f"{RATE} must have a range, and a number among the defaults")
        return self

    @property
    def request(self) -> Request:
        """What was asked for."""
        return Request(trials=self.trials, seeds=len(self.seeds), sampler=self.sampler, names=tuple(self.ranges),
                       rung_epochs=self.rung_epochs)  # fmt: skip

    def search(self, protocol: Protocol) -> Search:
        """The search at its beginning."""
        from bench.search.search import Search
        from bench.search.space import Space

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
    found, faults = readable_plans(study, protocol_hash)
    if faults:
        raise faults[0]
    return found


def readable_plans(study: Path, protocol_hash: str) -> tuple[dict[str, SearchPlan], list[BadRecordError]]:
    """The searches of a protocol by optimizer, and the faults of the files that are none."""
    found: dict[str, SearchPlan] = {}
    faults: list[BadRecordError] = []
    for path in sorted(_folder(study, protocol_hash).glob("*.json")):
        try:
            plan = SearchPlan.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            faults.append(BadRecordError(f"{path}: {_fault(error)}; `bench tune` writes it anew, and loses no run"))
        else:
            found[plan.optimizer] = plan
    return found, faults


def _fault(error: OSError | ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    if isinstance(error, OSError):
        return str(error.strerror)
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'content'}: {first['msg']}"


def described(plans: Iterable[SearchPlan]) -> str:
    """Who was searched how: `adamw, sgd: 8 trials of lr on 2 tuning seeds (sobol)`, a part each that differs."""
    by_request: dict[Request, list[str]] = {}
    for plan in plans:
        by_request.setdefault(plan.request, []).append(plan.optimizer)
    return "; ".join(f"{', '.join(names)}: {request}" for request, names in by_request.items())


def different(plans: Sequence[SearchPlan]) -> str | None:
    """Who was searched how, where not all were searched alike; None where they were."""
    return described(plans) if len({plan.request for plan in plans}) > 1 else None


def settled(request: Request, plans: Sequence[SearchPlan]) -> Request:
    """The request; without a number of trials, what the searches that are there were asked for.

    Raises `UsageError` where those were not asked for the same.
    """
    if request.trials is not None:
        return request
    if said := different(plans):
        raise UsageError(f"--lr search: the searches differ ({said}); `bench tune` makes them alike")
    return plans[0].request if plans else Request(trials=TRIALS)


def tuned_settings(study: Path, protocol: Protocol, specs: Sequence[OptimizerSpec]) -> dict[str, dict[str, Any]]:
    """The settings that finished searches found, by optimizer; the default ones where no trial ended well.

    Raises `UsageError` where one of the optimizers has no finished search of its present code, or they were not
    searched alike.
    """
    plans = read_plans(study, protocol.hash)
    for spec in specs:
        plan = plans.get(spec.name)
        if plan is None or plan.tuned is None:
            raise UsageError(f"--lr tuned: no finished search of {spec.name} under protocol {protocol.name} "
                             f"({protocol.hash}) in {study}; `bench tune` makes one")  # fmt: skip
        if (plan.revision, plan.source_digest) != (spec.revision, spec.source_digest):
            raise UsageError(f"--lr tuned: {spec.name} has changed since it was searched in {study}; `bench tune` "
                             "searches it anew")  # fmt: skip
    if said := different([plans[spec.name] for spec in specs]):
        raise UsageError(f"--lr tuned: the searches differ, and a larger one has an advantage ({said}); allowed are "
                         "equal ones, as one `bench tune` of all makes them")  # fmt: skip
    return {spec.name: plans[spec.name].best_settings for spec in specs}
