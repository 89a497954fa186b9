"""What a check finds: gates with a status and cases, and the verdict over all of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

RESULT_VERSION = 1


class Status(StrEnum):
    """How a gate or a case ended, from the harmless to the worst."""

    SKIPPED = "skipped"
    PASS = "pass"
    NOTE = "note"
    WARN = "warn"
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"
    INCOMPATIBLE = "incompatible"


SEVERITY = {status: rank for rank, status in enumerate(Status)}


def worst(statuses: Iterable[Status], default: Status = Status.PASS) -> Status:
    """The gravest of some statuses."""
    return max(statuses, key=SEVERITY.__getitem__, default=default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One optimizer or pair at one gate; `figures` are in the metric's own direction."""

    name: str
    status: Status
    text: str
    figures: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A gate, its answer in one line, and its share of the false alarms where it tests at all."""

    name: str
    status: Status
    text: str
    alpha: float | None = None
    cases: tuple[Case, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Where one side's runs come from; `commit` ends in + where files had been changed."""

    source: str
    commit: str | None
    optimizers: int
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """A check of one candidate; `alpha` is the rate of false alarms of the whole check."""

    protocol: str
    protocol_hash: str
    metric: str
    lower_is_better: bool
    unit: str
    alpha: float
    margin: float
    tolerance: float
    baseline: Side
    candidate: Side
    gates: tuple[Gate, ...]
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Status:
        """pass, inconclusive, fail or incompatible: the gravest gate; a warning passes."""
        found = worst(gate.status for gate in self.gates)
        return found if SEVERITY[found] >= SEVERITY[Status.INCONCLUSIVE] else Status.PASS

    def gate(self, name: str) -> Gate | None:
        """The gate of that name, None where the check did not come to it."""
        return next((gate for gate in self.gates if gate.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Plain data; what is not finite is None. Keys are only added while `result_version` stays."""
        content = _plain(dataclasses.asdict(self))
        return {"result_version": RESULT_VERSION, "verdict": str(self.verdict), **content}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Status):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def printable(text: str) -> str:
    """`text` in one line, every control sign a space: names and reasons come from files."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def cleaned(value: Any) -> Any:
    """A result with every text in it `printable`."""
    if isinstance(value, Status):
        return value
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, tuple):
        return tuple(cleaned(item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {field.name: cleaned(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **changes)
    return value
