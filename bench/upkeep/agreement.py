"""Whether two records of one run say the same: a run has one result, wherever it was carried out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.record import FAILURES, Outcome, RunRecord

# What differs from machine to machine and from time to time, and says nothing of the result.
ASIDE = frozenset(
    {"schema_version", "seconds", "memory", "environment", "finished", "command", "curve_sha256", "device_use"}
)
_NAMED = 6  # differences that are told one by one


def ended(record: RunRecord) -> bool:
    """Whether the run came to an end of its own; what failed can end differently when it is run again."""
    return record.outcome not in FAILURES


def differences(one: RunRecord, other: RunRecord) -> list[str]:
    """What two records of a run disagree on, as `metrics.avg_r1 8.5 and 8.25`; empty where they agree.

    Two that failed, or one that failed and one that came to its end, do not disagree in their results.
    """
    first, second = _result(one), _result(other)
    if not (ended(one) and ended(other)):
        kept = ("run_id", "protocol", "optimizer", "configuration", "hyperparameters", "seed")
        first, second = {key: first[key] for key in kept}, {key: second[key] for key in kept}
    found = [f"{place} {a} and {b}" for place, a, b in _differing(first, second)]
    more = f"{len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return found[:_NAMED] + ([more] if more else [])


def _result(record: RunRecord) -> dict[str, Any]:
    """The record as JSON, where NaN equals NaN, without what is set aside.

    A protocol's name is no part of the run, and a failure's words are not what it is.
    """
    content = record.model_dump(mode="json", exclude=set(ASIDE))
    content["protocol"] = record.protocol.hash
    if record.failure is not None and record.outcome is Outcome.DIVERGED:
        content["failure"] = {"epoch": record.failure.epoch, "step": record.failure.step}
    return content


def _differing(one: Any, other: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted({*one, *other}):
            yield from _differing(one.get(key, "none"), other.get(key, "none"), f"{place}.{key}" if place else key)
    elif one != other or type(one) is not type(other):
        yield place, one, other
