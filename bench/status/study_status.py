"""How a study stands: of what was asked for, what is done, failed, running, stopped, missing or unreadable.

Asked for are the runs of the requests that still stand (`bench.requests`) and the trials of the searches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import BadRecordError, UsageError
from bench.plan import TUNING_SEEDS
from bench.protocol import Protocol
from bench.races import Race, read_race
from bench.record import ProtocolName
from bench.requests import StudyRequest, read_requests, standing
from bench.search.plan import SearchPlan
from bench.status.pace import Pace, Work, pace_of
from bench.status.run_state import ENDED, Identity, RunState, State, read_run
from bench.status.search_status import SearchStatus, search_status
from bench.store import Store
from bench.stored import read_each


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerStatus:
    """The runs of one optimizer under one protocol, those of searches left out."""

    optimizer: str
    counts: Mapping[State, int]

    def to_json(self) -> dict[str, Any]:
        """The optimizer with a count of every state."""
        return {"optimizer": self.optimizer, **{str(state): self.counts.get(state, 0) for state in State}}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolStatus:
    """The runs and searches of one protocol; `epochs` is None where its file cannot be read."""

    name: str
    hash: str
    epochs: int | None
    optimizers: tuple[OptimizerStatus, ...]
    searches: tuple[SearchStatus, ...]

    def to_json(self) -> dict[str, Any]:
        """The protocol as plain data."""
        return {
            "name": self.name, "hash": self.hash, "epochs": self.epochs,
            "optimizers": [one.to_json() for one in self.optimizers],
            "searches": [one.to_json() for one in self.searches],
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyStatus:
    """How a study stands.

    totals: runs by state, those of searches included. begun: runs that are under way or stopped. unplaced: how many of
    them belong to no request. faults: one line a file that cannot be read. commands: what goes on with the rest, the
    command asked last first.
    """

    name: str
    path: Path
    protocols: tuple[ProtocolStatus, ...]
    totals: Mapping[State, int]
    begun: tuple[RunState, ...]
    unplaced: int
    faults: tuple[str, ...]
    set_aside: int
    pace: Pace
    commands: tuple[str, ...]

    def epochs_of(self, run: RunState) -> int | None:
        """How many epochs the run's protocol has."""
        wanted = run.identity.protocol.hash if run.identity and run.identity.protocol else None
        return next((protocol.epochs for protocol in self.protocols if protocol.hash == wanted), None)

    def to_json(self) -> dict[str, Any]:
        """The status as plain data; times in seconds."""
        return {
            "study": self.name, "path": str(self.path),
            "totals": {str(state): self.totals.get(state, 0) for state in State},
            "protocols": [protocol.to_json() for protocol in self.protocols],
            "running": [run.to_json() for run in self.begun if run.state is State.RUNNING],
            "stopped": [run.to_json() for run in self.begun if run.state is State.STOPPED],
            "unplaced": self.unplaced, "unreadable": list(self.faults), "set_aside": self.set_aside,
            **self.pace.to_json(), "commands": list(self.commands),
        }  # fmt: skip


@dataclass(slots=True)
class _Found:
    """What a study's folder holds, and the faults met on the way."""

    store: Store
    faults: list[str] = field(default_factory=list)
    requests: list[StudyRequest] = field(default_factory=list)
    plans: list[SearchPlan] = field(default_factory=list)
    races: dict[str, Race] = field(default_factory=dict)
    raced: set[str] = field(default_factory=set)  # runs that only races asked for
    runs: dict[str, RunState] = field(default_factory=dict)

    def note(self, bad: Iterable[BadRecordError]) -> None:
        self.faults.extend(str(error) for error in bad)


def study_status(path: Path) -> StudyStatus:
    """How the study in a folder stands; writes nothing.

    Raises `UsageError` where the folder cannot be read.
    """
    try:
        found = _read(path)
    except OSError as error:
        raise UsageError(f"study {path}: {error.strerror or error}") from None
    names = _protocol_names(found)
    protocols = _protocols(found, names)
    runs = list(found.runs.values())
    searches = search_status(found.plans, [r for r in runs if r.identity and r.identity.is_trial], protocols)
    return StudyStatus(
        name=path.resolve().name, path=path, protocols=_shown(found, names, protocols, searches),
        totals=_totals(runs, searches), begun=tuple(r for r in runs if r.state in (State.RUNNING, State.STOPPED)),
        unplaced=sum(1 for r in runs if r.head is None and not (r.identity and r.identity.protocol)),
        faults=tuple(found.faults), set_aside=sum(run.set_aside for run in runs),
        pace=pace_of(runs, _work(runs, searches, protocols)), commands=tuple(_commands(found, searches)),
    )  # fmt: skip


def _read(path: Path) -> _Found:
    found = _Found(Store(path))
    requests, bad = read_requests(path)
    found.requests = standing(requests)
    found.note(bad)
    plans, bad = read_each(path.glob("searches/*/*.json"), SearchPlan)
    found.plans = list(plans.values())
    found.note(bad)
    asked = _asked(found)
    for run_id in _run_ids(path):
        run = read_run(found.store, run_id, asked)
        if run is None:
            continue
        found.runs[run_id] = run
        if run.fault:
            found.faults.append(run.fault)
    for run_id, known in asked.items():
        if run_id not in found.runs and not known.is_trial:  # trials are counted by their search
            found.runs[run_id] = RunState(run_id=run_id, identity=known, state=_unbegun(run_id, known, found))
    return found


def _run_ids(path: Path) -> list[str]:
    runs = path / "runs"
    return sorted(entry.name for entry in runs.iterdir() if entry.is_dir()) if runs.is_dir() else []


def _asked(found: _Found) -> dict[str, Identity]:
    """Every run that was asked for by its id; the races of those requests that race are read on the way."""
    asked: dict[str, Identity] = {}
    plain = {run.run_id for request in found.requests if not request.race for run in request.runs}
    for request in found.requests:
        for run in request.runs:
            asked[run.run_id] = Identity(optimizer=run.optimizer, seed=run.seed, protocol=request.protocol)
        if request.race and request.protocol.hash not in found.races:
            try:
                race = read_race(found.store.path, request.protocol.hash)
            except BadRecordError as error:
                found.note([error])
                continue
            if race is not None:
                found.races[request.protocol.hash] = race
    found.raced = set(asked) - plain
    return asked


def _unbegun(run_id: str, known: Identity, found: _Found) -> State:
    """Missing; not needed where only races asked for it, in which its optimizer had fallen."""
    assert known.protocol is not None
    race = found.races.get(known.protocol.hash)
    if run_id in found.raced and race and not race.needs(known.optimizer, known.seed):
        return State.NOT_NEEDED
    return State.MISSING


def _protocol_names(found: _Found) -> dict[str, str]:
    """Hash to name of every protocol that runs, requests and searches are of."""
    known: list[ProtocolName] = [request.protocol for request in found.requests]
    known += [run.identity.protocol for run in found.runs.values() if run.identity and run.identity.protocol]
    names = {plan.protocol_hash: "" for plan in found.plans}
    for protocol in known:
        names[protocol.hash] = names.get(protocol.hash) or protocol.name
    return names


def _protocols(found: _Found, names: dict[str, str]) -> dict[str, Protocol]:
    """The protocols by hash; what cannot be read is a fault. Names that only a protocol's file knows are filled in."""
    protocols = {}
    for key, name in names.items():
        try:
            protocols[key] = found.store.read_protocol(key)
        except BadRecordError as error:
            found.note([error])
            continue
        names[key] = name or protocols[key].name
    return protocols


def _shown(
    found: _Found, names: Mapping[str, str], protocols: Mapping[str, Protocol], searches: Sequence[SearchStatus]
) -> tuple[ProtocolStatus, ...]:
    """The protocols that runs are asked for or searches made of, the one asked for last first."""
    ranked, last_used = _ranked(found), found.store.last_used()
    shown = [
        ProtocolStatus(
            name=name, hash=key, epochs=protocols[key].epochs if key in protocols else None,
            optimizers=_optimizers(ranked.get(key, {})),
            searches=tuple(search for search in searches if search.protocol_hash == key),
        )
        for key, name in names.items()
    ]  # fmt: skip
    used = [one for one in shown if one.optimizers or one.searches]
    return tuple(sorted(used, key=lambda one: (one.hash != last_used, one.name, one.hash)))


def _ranked(found: _Found) -> dict[str, dict[str, Counter[State]]]:
    """Counts of the runs that rank, by protocol hash and optimizer."""
    counts: dict[str, dict[str, Counter[State]]] = {}
    for run in found.runs.values():
        if run.identity and run.identity.protocol and not run.identity.is_trial:
            own = counts.setdefault(run.identity.protocol.hash, {})
            own.setdefault(run.identity.optimizer, Counter())[run.state] += 1
    return counts


def _optimizers(counts: Mapping[str, Counter[State]]) -> tuple[OptimizerStatus, ...]:
    return tuple(OptimizerStatus(optimizer=name, counts=counts[name]) for name in sorted(counts))


def _totals(runs: Sequence[RunState], searches: Sequence[SearchStatus]) -> Counter[State]:
    totals = Counter(run.state for run in runs)
    totals[State.MISSING] += sum(search.missing + search.missing_short for search in searches)
    return totals


def _work(runs: Sequence[RunState], searches: Sequence[SearchStatus], protocols: Mapping[str, Protocol]) -> list[Work]:
    """What is left to do, in runs and parts of runs."""
    work = []
    for run in runs:
        known = run.identity
        if run.state in ENDED or run.state is State.NOT_NEEDED or known is None:
            continue
        key = known.protocol.hash if known.protocol else None
        behind = run.epoch if run.state is State.RUNNING else run.resumes_from
        share = 1 - (behind or 0) / protocols[key].epochs if key and key in protocols else 1.0
        work.append(Work(protocol_hash=key, optimizer=known.optimizer, runs=max(0.0, share)))
    for one in searches:
        work.append(Work(protocol_hash=one.protocol_hash, optimizer=one.optimizer, runs=one.missing))
        work.append(Work(protocol_hash=one.rung_hash, optimizer=one.optimizer, runs=one.missing_short))
    return [item for item in work if item.runs]


def _commands(found: _Found, searches: Iterable[SearchStatus]) -> list[str]:
    """The commands whose runs have not all ended, that of the last request first."""
    commands = [request.command for request in found.requests if request.command and _is_open(request, found)]
    unfinished = {(one.protocol_hash, one.optimizer) for one in searches if not one.finished and one.trials is not None}
    if unfinished:
        commands += _search_commands(found, unfinished)
    return list(dict.fromkeys(commands))


def _is_open(request: StudyRequest, found: _Found) -> bool:
    """Whether a run of the request that ranks has not ended; how far a search is, its plan says."""
    states = (found.runs[run.run_id].state for run in request.runs if run.seed < TUNING_SEEDS)
    return any(state not in ENDED and state is not State.NOT_NEEDED for state in states)


def _search_commands(found: _Found, searches: Collection[tuple[str, str]]) -> list[str]:
    """What asked for the searches: the last requests with runs of theirs, else what their last runs recorded."""
    asking = [
        request.command for request in found.requests
        if request.command and any(r.seed >= TUNING_SEEDS and (request.protocol.hash, r.optimizer) in searches
                                   for r in request.runs)
    ]  # fmt: skip
    heads = [run.head for run in found.runs.values() if run.head and run.identity and run.identity.is_trial]
    own = [head for head in heads if head.command and (head.protocol.hash, head.optimizer) in searches]
    last = max(own, key=lambda head: (head.finished, head.run_id), default=None)
    return asking or ([last.command] if last and last.command else [])
