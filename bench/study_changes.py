"""What is not the same in two studies: protocol, data, blocks, settings, source, environment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from bench.record import Fingerprints, RunRecord
from bench.study import Study

MISSING = "–"
Runs = Mapping[str, Mapping[int, RunRecord]]  # by name and seed


@dataclass(frozen=True, slots=True)
class Change:
    """Something that is not the same in A and B; `–` stands for a key that one of them does not have."""

    what: str
    a: Any
    b: Any


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Change, ...]:
    """Keys whose values differ."""
    return tuple(
        Change(key, a.get(key, MISSING), b.get(key, MISSING))
        for key in dict.fromkeys(chain(a, b))
        if a.get(key, MISSING) != b.get(key, MISSING)
    )


def protocol_changes(a: Study, b: Study) -> tuple[Change, ...]:
    """Keys of the protocol, nested ones with dots; none where the hash is one."""
    return _changes(*(_flat(json.loads(study.protocol.canonical_json())) for study in (a, b)))


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables under dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def configuration_changes(a: Sequence[RunRecord], b: Sequence[RunRecord]) -> tuple[Change, ...]:
    """Settings, revision and source; of the run that names most settings: one that could not be set up names few."""
    first, second = (max(runs, key=lambda r: len(r.hyperparameters)) for runs in (a, b))
    settings = _changes(dict(sorted(first.hyperparameters.items())), dict(sorted(second.hyperparameters.items())))
    return (*settings, *_changes(_code(first), _code(second)))


def _code(record: RunRecord) -> dict[str, Any]:
    return {"revision": record.revision, "source": (record.source_digest or MISSING)[:12]}


def data_changes(a: Runs, b: Runs, names: Sequence[str]) -> tuple[Change, ...]:
    """Other data under one protocol: a user's files."""
    first, second = _data(a, names), _data(b, names)
    return (Change("data", first, second),) if first and second and first != second else ()


def _data(runs: Runs, names: Sequence[str]) -> str:
    prints = [record.fingerprints for name in names for record in runs[name].values()]
    return ", ".join(sorted({found.data[:12] for found in prints if found and found.data}))


def other_blocks(a: Runs, b: Runs, names: Sequence[str]) -> tuple[int, ...]:
    """Shared seeds on which the initial weights or the batches are not the same."""
    found = set()
    for name in names:
        for seed in set(a[name]) & set(b[name]):
            first, second = a[name][seed].fingerprints, b[name][seed].fingerprints
            if first and second and _start(first) != _start(second):
                found.add(seed)
    return tuple(sorted(found))


def _start(prints: Fingerprints) -> tuple[str, str]:
    return prints.initial_weights, prints.batch_order


def environment_changes(a: Runs, b: Runs, names: Sequence[str]) -> tuple[Change, ...]:
    """Versions, hardware, threads and commit, all values that the runs have."""
    return _changes(*(_environment([r for name in names for r in runs[name].values()]) for runs in (a, b)))


def _environment(records: Sequence[RunRecord]) -> dict[str, str]:
    """Where the runs ran: every value that occurs."""
    values: dict[str, set[str]] = {}
    for record in records:
        if record.environment is not None:
            content = record.environment.model_dump(mode="json")
            commit, dirty = content.pop("git_commit"), content.pop("git_dirty")
            content["commit"] = f"{commit[:12]}{' with changes' if dirty else ''}" if commit else MISSING
            for key, value in {**content.pop("versions"), **content}.items():
                values.setdefault(key, set()).add(MISSING if value is None else str(value))
    return {key: ", ".join(sorted(found)) for key, found in values.items()}
