"""Gate 0, whether two snapshots can be compared at all, and what differs between them besides results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bench.check.gates import LEAST_SEEDS
from bench.check.result import Case, Gate, Status, worst
from bench.check.sides import RunPair, platform
from bench.check.snapshot import Entry, Snapshot, matches
from bench.record import Environment, Outcome

UNFINISHED = (Outcome.ERROR, Outcome.TIMEOUT)  # says nothing about an optimizer's score
ABSENT = "–"


def compatibility(
    baseline: Snapshot, candidate: Snapshot, pairs: Sequence[RunPair], allow_removed: Sequence[str]
) -> Gate:
    """The gate: protocol, data, seeds and the set of optimizers."""
    cases = [
        *_protocol_cases(baseline, candidate),
        *_data_cases(pairs),
        *_removed_cases(baseline, candidate, allow_removed),
        *(Case(name=name, status=Status.NOTE, text="new; the baseline has no such optimizer")
          for name in candidate.names if name not in baseline.names),
    ]  # fmt: skip
    if not any(case.status is Status.INCOMPATIBLE for case in cases):
        cases += _seed_cases(baseline, candidate, pairs)
    status = worst(case.status for case in cases)
    same = f"protocol {baseline.protocol.name} ({baseline.protocol_hash}) on both sides"
    shared, seeds = sum(name in candidate.names for name in baseline.names), len({p.baseline.seed for p in pairs})
    said = [f"{case.name}: {case.text}" for case in cases if case.status is status and status is not Status.PASS]
    text = "; ".join(said) or f"{same}, {counted(shared, 'optimizer')}, {counted(seeds, 'seed')}"
    return Gate(name="compatibility", status=status, text=text, cases=tuple(cases))


def _protocol_cases(baseline: Snapshot, candidate: Snapshot) -> Iterator[Case]:
    """Every key of the protocol that is not the same."""
    if baseline.protocol_hash == candidate.protocol_hash:
        return
    before, after = (dict(flat(json.loads(s.protocol.canonical_json()))) for s in (baseline, candidate))
    for key, old, new in changes(before, after):
        yield Case(name=f"protocol {key}", status=Status.INCOMPATIBLE, text=f"{old} in the baseline, {new} now")


def _data_cases(pairs: Sequence[RunPair]) -> Iterator[Case]:
    digests = [{run.fingerprints.data for run in side if run.fingerprints} for side in
               ([p.baseline for p in pairs], [p.candidate for p in pairs])]  # fmt: skip
    if all(digests) and digests[0] != digests[1]:
        yield Case(name="data", status=Status.INCOMPATIBLE, text="the data's files are not those of the baseline")


def _removed_cases(baseline: Snapshot, candidate: Snapshot, allow_removed: Sequence[str]) -> Iterator[Case]:
    for name in baseline.names:
        if name not in candidate.names:
            allowed = bool(allow_removed) and matches(name, allow_removed)
            text = "removed, as allowed" if allowed else f"removed; if that is meant, --allow-removed {name}"
            yield Case(name=name, status=Status.NOTE if allowed else Status.FAIL, text=text)


def _seed_cases(baseline: Snapshot, candidate: Snapshot, pairs: Sequence[RunPair]) -> Iterator[Case]:
    """Optimizers with seeds of the baseline that the candidate has not run; incompatible where nothing is testable."""
    shared = {name: {p.baseline.seed for p in pairs if p.baseline.optimizer == name} for name in baseline.names}
    common = [name for name in baseline.names if name in candidate.names]
    if not any(len(shared[name]) >= LEAST_SEEDS for name in common):
        yield Case(name="seeds", status=Status.INCOMPATIBLE,
                   text=f"no optimizer has {LEAST_SEEDS} seeds on both sides; run the baseline's seeds")  # fmt: skip
        return
    for name in common:
        if missing := {run.seed for run in baseline.runs if run.optimizer == name} - shared[name]:
            yield Case(name=name, status=Status.NOTE, text=f"not run: {seeds_text(missing)}; compared on the others")


def notes(baseline: Snapshot, candidate: Snapshot, pairs: Sequence[RunPair]) -> Iterator[str]:
    """Differences that do not decide anything and may explain everything."""
    for entry in baseline.entries:
        if entry.optimizer in candidate.names:
            found = setting_changes(entry, candidate.entry(entry.optimizer))
            if found:
                yield f"{entry.optimizer} has other settings: {', '.join(found)}"
    yield from _environment_notes(baseline, candidate)
    moved = {p.baseline.seed for p in pairs if _start(p.baseline) != _start(p.candidate)}
    if moved:
        yield (f"{seeds_text(moved)}: not the initial weights, batches or first loss of the baseline, so the seeds "
               "pair less")  # fmt: skip


def _start(run: Any) -> tuple[str, str] | None:
    return run.fingerprints and (run.fingerprints.initial_weights, run.fingerprints.batch_order)


def setting_changes(before: Entry, after: Entry) -> list[str]:
    """`lr 0.001 → 0.0003`, and whether code of the optimizer's own is known to differ."""
    found = [f"{key} {old} → {new}" for key, old, new in changes(before.hyperparameters, after.hyperparameters)]
    if before.revision != after.revision:
        found.append(f"revision {before.revision} → {after.revision}")
    if before.source_digest != after.source_digest:
        found.append("other source")
    return found


def _environment_notes(baseline: Snapshot, candidate: Snapshot) -> Iterator[str]:
    before, after = ([platform(place) for place in snap.environments] for snap in (baseline, candidate))
    if before and after and any(place not in before for place in after):
        differing = [f"{key} {old} → {new}" for key, old, new in changes(before[0], after[0])]
        yield f"another environment than the baseline's: {', '.join(differing) or 'several on one side'}"
    for name, places in (("baseline", before), ("candidate", after)):
        if len(places) > 1 and any(place != places[0] for place in places):
            yield f"the {name}'s runs come from different machines or versions"


def commit(environments: Iterable[Environment]) -> str | None:
    """The commits that runs were made at, `+` where files had been changed; None where none is known."""
    found = {f"{place.git_commit[:12]}{'+' if place.git_dirty else ''}" for place in environments if place.git_commit}
    return ", ".join(sorted(found)) or None


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables as `a.b.c` and value."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, old, new) of every key whose value differs, as JSON text."""
    keys = sorted(before.keys() | after.keys())
    shown = [(key, *(json.dumps(side[key]) if key in side else ABSENT for side in (before, after))) for key in keys]
    return [(key, old, new) for key, old, new in shown if old != new]


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def seeds_text(seeds: Iterable[int]) -> str:
    """`seed 3` or `seeds 0, 1, 2`."""
    found = sorted(set(seeds))
    return f"{'seed' if len(found) == 1 else 'seeds'} {', '.join(map(str, found))}"
