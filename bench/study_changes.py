"""What is not the same on two sides: protocol, data, blocks, settings, source, environment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from bench.record import Environment, Fingerprints

if TYPE_CHECKING:
    from bench.protocol import Protocol as BenchProtocol

MISSING = "–"


class Configured(Protocol):
    """A run's record, or the entry of a baseline."""

    @property
    def hyperparameters(self) -> dict[str, Any]: ...
    @property
    def revision(self) -> int: ...
    @property
    def source_digest(self) -> str | None: ...


Kind = TypeVar("Kind", bound=Configured)


@dataclass(frozen=True, slots=True)
class Change:
    """Something that is not the same in A and B; `–` stands for a key that one of them does not have."""

    what: str
    a: Any
    b: Any

    def __str__(self) -> str:
        return f"{self.what} {self.a} → {self.b}"


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Change, ...]:
    """Keys whose values differ."""
    return tuple(
        Change(key, a.get(key, MISSING), b.get(key, MISSING))
        for key in dict.fromkeys(chain(a, b))
        if a.get(key, MISSING) != b.get(key, MISSING)
    )


def protocol_changes(a: BenchProtocol, b: BenchProtocol) -> tuple[Change, ...]:
    """Keys, nested ones with dots; none where the hash is one."""
    return _changes(*(_flat(json.loads(protocol.canonical_json())) for protocol in (a, b)))


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables under dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def configuration_changes(a: Configured, b: Configured) -> tuple[Change, ...]:
    """Settings, revision and source."""
    settings = _changes(dict(sorted(a.hyperparameters.items())), dict(sorted(b.hyperparameters.items())))
    return (*settings, *_changes(_code(a), _code(b)))


def _code(side: Configured) -> dict[str, Any]:
    return {"revision": side.revision, "source": (side.source_digest or MISSING)[:12]}


def fullest(runs: Iterable[Kind]) -> Kind:
    """Of runs of one configuration the one that names most settings: one that could not be set up names few."""
    return max(runs, key=lambda run: len(run.hyperparameters))


def data_changes(a: Iterable[Fingerprints | None], b: Iterable[Fingerprints | None]) -> tuple[Change, ...]:
    """Other data under one protocol: a user's files."""
    first, second = _data(a), _data(b)
    return (Change("data", first, second),) if first and second and first != second else ()


def _data(prints: Iterable[Fingerprints | None]) -> str:
    return ", ".join(sorted({found.data[:12] for found in prints if found and found.data}))


def other_blocks(starts: Iterable[tuple[int, Fingerprints | None, Fingerprints | None]]) -> tuple[int, ...]:
    """Of (seed, A's, B's) the seeds on which the initial weights or the batches are not the same."""
    return tuple(sorted({seed for seed, a, b in starts if a and b and _start(a) != _start(b)}))


def _start(prints: Fingerprints) -> tuple[str, str]:
    return prints.initial_weights, prints.batch_order


def environment_changes(a: Sequence[Environment], b: Sequence[Environment]) -> tuple[Change, ...]:
    """Versions, hardware, threads and commit, all values that occur; nothing where a side has none."""
    return _changes(_environment(a), _environment(b)) if a and b else ()


def _environment(places: Iterable[Environment]) -> dict[str, str]:
    values: dict[str, set[str]] = {}
    for place in places:
        content = place.model_dump(mode="json")
        commit, dirty = content.pop("git_commit"), content.pop("git_dirty")
        content["commit"] = f"{commit[:12]}{' with changes' if dirty else ''}" if commit else MISSING
        for key, value in {**content.pop("versions"), **content}.items():
            values.setdefault(key, set()).add(MISSING if value is None else str(value))
    return {key: ", ".join(sorted(found)) for key, found in values.items()}
