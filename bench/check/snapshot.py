"""What of a study a later one is compared with: settings, raw results a run, short curves, where it ran."""

from __future__ import annotations

import fnmatch
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from bench.errors import UsageError
from bench.plan import TUNING_SEEDS
from bench.protocol import Protocol
from bench.ranking import recall_grain, require_scores, study_scores
from bench.record import Environment, Fingerprints, Number, Outcome, RunRecord
from bench.score_table import LARGEST
from bench.study import Study
from bench.study_changes import fullest
from bench.summary import lower_is_better

SCHEMA_VERSION = 1


def _printable(name: str) -> str:
    """`name`; control signs in it would reach terminals, logs and XML."""
    if not name or not name.isprintable():
        raise ValueError("allowed are printable characters, one at least")
    return name


Name: TypeAlias = Annotated[str, AfterValidator(_printable), Field(max_length=200)]
Evaluation: TypeAlias = tuple[int, Number, Number]


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Metric(_Kept):
    """The score that is compared: `grain` is its step, `chance` what a run scores that failed by its optimizer."""

    name: str
    lower_is_better: bool
    grain: float = Field(ge=0, allow_inf_nan=False)
    chance: float | None = Field(allow_inf_nan=False)


class Entry(_Kept):
    """An optimizer as it was run; the name is looked up in the registry, and no code is named here."""

    optimizer: Name
    configuration: str
    revision: int
    source_digest: str | None
    hyperparameters: dict[str, JsonValue]


class KeptRun(_Kept):
    """One run's raw result; `evaluations` are (step, seconds of training, primary metric), `environment` an index."""

    optimizer: Name
    seed: int = Field(ge=0, lt=TUNING_SEEDS)
    outcome: Outcome
    reason: str | None
    metrics: dict[str, Number]
    loss: Number | None
    steps: int = Field(ge=0)
    training_seconds: float = Field(ge=0, allow_inf_nan=False)
    optimizer_seconds: float = Field(ge=0, allow_inf_nan=False)
    evaluations: tuple[Evaluation, ...]
    fingerprints: Fingerprints | None
    environment: int | None = Field(ge=0)


class Snapshot(_Kept):
    """One protocol's runs, every optimizer with one configuration; what is derived from them is no part of it."""

    schema_version: int = SCHEMA_VERSION
    protocol_hash: str
    protocol: Protocol
    metric: Metric
    environments: tuple[Environment, ...]
    entries: tuple[Entry, ...]
    runs: tuple[KeptRun, ...]

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Snapshot:
        names = [entry.optimizer for entry in self.entries]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"entries: {twice[0]!r} is there twice")
        if self.metric.name != self.protocol.primary_metric:
            raise ValueError(f"metric.name is {self.metric.name!r}; the protocol's is {self.protocol.primary_metric!r}")
        kind = ("lower_is_better", lower_is_better(self.metric.name)), ("grain", recall_grain(self.protocol))
        for key, own in kind:  # either would turn the gates round or blind them
            if (found := getattr(self.metric, key)) != own:
                raise ValueError(f"metric.{key} is {found}; the protocol's is {own}")
        if not self.runs:
            raise ValueError("runs: there is none")
        seen: set[tuple[str, int]] = set()
        for i, run in enumerate(self.runs):
            if (run.optimizer, run.seed) in seen:
                raise ValueError(f"runs.{i}: {run.optimizer!r} has seed {run.seed} already")
            seen.add((run.optimizer, run.seed))
            _check_run(run, f"runs.{i}", names, len(self.environments), self.metric.name)
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The optimizers, in the order of the entries."""
        return tuple(entry.optimizer for entry in self.entries)

    def entry(self, name: str) -> Entry:
        """The entry of that name."""
        return next(entry for entry in self.entries if entry.optimizer == name)

    def place(self, run: KeptRun) -> Environment | None:
        """Where a run ran."""
        return None if run.environment is None else self.environments[run.environment]

    def only(self, patterns: Sequence[str]) -> Snapshot:
        """The part whose names match one of the patterns (all of it without patterns)."""
        kept = [name for name in self.names if matches(name, patterns)]
        if len(kept) == len(self.entries):
            return self
        changes = {
            "entries": tuple(entry for entry in self.entries if entry.optimizer in kept),
            "runs": tuple(run for run in self.runs if run.optimizer in kept),
        }
        return self.model_copy(update=changes)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name is one of the patterns, matches one as a glob, or there are none; `all` matches everything."""
    return not patterns or any(name == p or p == "all" or fnmatch.fnmatchcase(name, p) for p in patterns)


def idle(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """The patterns that match none of the names: a slip of the pen, else they would silently leave something out."""
    known = set(names)
    return [pattern for pattern in patterns if not any(matches(name, [pattern]) for name in known)]


def _check_run(run: KeptRun, key: str, names: Sequence[str], environments: int, metric: str) -> None:
    if run.optimizer not in names:
        raise ValueError(f"{key}.optimizer is {run.optimizer!r}, which is none of the entries")
    if run.environment is not None and run.environment >= environments:
        raise ValueError(f"{key}.environment is {run.environment}; there are {environments}")
    if run.outcome is Outcome.OK and not abs(run.metrics.get(metric, math.nan)) <= LARGEST:
        raise ValueError(f"{key}.metrics.{metric} is {run.metrics.get(metric)}; an ok run's is a finite number")
    steps = [step for step, _, _ in run.evaluations]
    if any(later <= earlier for earlier, later in zip([0, *steps], steps, strict=False)):
        raise ValueError(f"{key}.evaluations: their steps must be positive and rise")


def snapshot(study: Study, patterns: Sequence[str] = ()) -> Snapshot:
    """The study's runs of the optimizers that match a pattern (name, glob or label `name#1a2b`).

    Raises `UsageError` where a pattern matches no run, an optimizer has several configurations, or a record
    is not usable.
    """
    records = [r for r in study.records if matches(r.optimizer, patterns) or matches(study.labels[r.run_id], patterns)]
    labels = sorted(set(study.labels.values()))
    if wrong := idle(patterns, (*labels, *(r.optimizer for r in study.records))):
        raise UsageError(f"study {study.path}: --optimizers {wrong[0]} matches none of {', '.join(labels)}")
    _require_one_configuration(study, records)
    require_scores(study)
    metric, whole = study.protocol.primary_metric, study_scores(study)
    records.sort(key=lambda r: (r.optimizer, r.seed))
    places = sorted({_as_text(r.environment) for r in records if r.environment is not None})
    try:
        return Snapshot(
            protocol_hash=study.protocol.hash,
            protocol=study.protocol,
            metric=Metric(
                name=metric, lower_is_better=whole.lower_is_better, grain=whole.grain, chance=whole.chance
            ),
            environments=tuple(Environment.model_validate_json(text) for text in places),
            entries=tuple(_entry(fullest(of)) for _, of in itertools.groupby(records, lambda r: r.optimizer)),
            runs=tuple(_kept(study, r, places) for r in records),
        )  # fmt: skip
    except ValidationError as error:
        raise UsageError(f"study {study.path}: {fault(error)}") from None


def fault(error: ValidationError) -> str:
    """The first fault in one line: key and what is wrong with it."""
    first = error.errors()[0]
    place, what = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    return f"{place}: {what}" if place else what


def _require_one_configuration(study: Study, records: Sequence[RunRecord]) -> None:
    several: dict[str, set[str]] = {}
    for record in records:
        several.setdefault(record.optimizer, set()).add(study.labels[record.run_id])
    for name, labels in sorted(several.items()):
        if len(labels) > 1:
            raise UsageError(f"study {study.path}: {name} has {len(labels)} configurations, and entries are compared "
                             f"by name; choose one with --optimizers (of a baseline, in `bench baseline update`): "
                             f"{', '.join(sorted(labels))}")  # fmt: skip


def _as_text(place: Environment | None) -> str:
    return "" if place is None else place.model_dump_json()


def _entry(record: RunRecord) -> Entry:
    return Entry(
        optimizer=record.optimizer,
        configuration=record.configuration,
        revision=record.revision,
        source_digest=record.source_digest,
        hyperparameters=record.hyperparameters,
    )


def _kept(study: Study, record: RunRecord, places: Sequence[str]) -> KeptRun:
    metric = study.protocol.primary_metric
    curve = [(p.step, p.seconds.training, p.metrics[metric]) for p in study.curves[record.run_id]
             if metric in p.metrics]  # fmt: skip
    return KeptRun(
        optimizer=record.optimizer,
        seed=record.seed,
        outcome=record.outcome,
        reason=None if record.failure is None else record.failure.reason,
        metrics=record.metrics,
        loss=record.loss,
        steps=record.steps,
        training_seconds=record.seconds.training,
        optimizer_seconds=record.seconds.optimizer_step,
        evaluations=tuple(curve),
        fingerprints=record.fingerprints,
        environment=None if record.environment is None else places.index(_as_text(record.environment)),
    )
