"""Gate 0, whether two snapshots can be compared at all, and what differs between them besides results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from bench.check.gates import LEAST_SEEDS
from bench.check.result import Case, Gate, Status, worst
from bench.check.sides import RunPair, platform
from bench.check.snapshot import Snapshot, matches
from bench.record import Environment, Outcome
from bench.study_changes import (
    configuration_changes,
    data_changes,
    environment_changes,
    other_blocks,
    protocol_changes,
)
from bench.wording import counted, seeds_text

UNFINISHED = (Outcome.ERROR, Outcome.TIMEOUT)  # says nothing about an optimizer's score
OWN_CODE = ("commit", "optimizer-bench")  # what a check is for


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
    for change in protocol_changes(baseline.protocol, candidate.protocol):
        yield Case(name=f"protocol {change.what}", status=Status.INCOMPATIBLE,
                   text=f"{change.a} in the baseline, {change.b} now")  # fmt: skip


def _data_cases(pairs: Sequence[RunPair]) -> Iterator[Case]:
    if data_changes((p.baseline.fingerprints for p in pairs), (p.candidate.fingerprints for p in pairs)):
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
            found = configuration_changes(entry, candidate.entry(entry.optimizer))
            if found:
                yield f"{entry.optimizer} has other settings: {', '.join(map(str, found))}"
    yield from _environment_notes(baseline, candidate)
    if moved := other_blocks((p.baseline.seed, p.baseline.fingerprints, p.candidate.fingerprints) for p in pairs):
        yield f"{seeds_text(moved)}: not the initial weights or batches of the baseline, so the seeds pair less"


def _environment_notes(baseline: Snapshot, candidate: Snapshot) -> Iterator[str]:
    found = environment_changes(baseline.environments, candidate.environments)
    if differing := [str(change) for change in found if change.what not in OWN_CODE]:
        yield f"another environment than the baseline's: {', '.join(differing)}"
    for name, snap in (("baseline", baseline), ("candidate", candidate)):
        places = [platform(place) for place in snap.environments]
        if any(place != places[0] for place in places):
            yield f"the {name}'s runs come from different machines or versions"


def commit(environments: Iterable[Environment]) -> str | None:
    """The commits that runs were made at, `+` where files had been changed; None where none is known."""
    found = {f"{place.git_commit[:12]}{'+' if place.git_dirty else ''}" for place in environments if place.git_commit}
    return ", ".join(sorted(found)) or None
