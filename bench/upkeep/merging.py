"""Bringing the studies of several machines together in one folder.

Nothing that is there is overwritten. A run is written curve first and record last, under its lock, each file whole or
not at all: after a crash the same command goes on, and finds what it has done already equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bench.errors import BadRecordError, UsageError
from bench.protocol import Protocol
from bench.races import Race
from bench.record import RunRecord, read_record
from bench.requests import StudyRequest
from bench.search.plan import SearchPlan
from bench.store import Store, require_own, write_atomic
from bench.stored import read_stored
from bench.upkeep.agreement import differences, ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A run or file of which two studies say different things; nothing of it was written."""

    name: str
    one: str
    other: str
    differences: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The conflict as plain data."""
        return {"name": self.name, "one": self.one, "other": self.other, "differences": list(self.differences)}


@dataclass(slots=True)
class Merged:
    """What a merge has done.

    copied, same: how many runs came new, and how many were there already. replaced: failed runs for which another study
    has a result; their records are set aside. files: protocols, searches, races and requests that came new.
    unfinished: runs without a record, which stay where they are. left_out: a line each of what could not be read, or
    was not to be written.
    """

    into: Path
    copied: int = 0
    same: int = 0
    replaced: int = 0
    files: int = 0
    unfinished: int = 0
    conflicts: list[Conflict] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether everything could be brought together."""
        return not self.conflicts and not self.left_out

    def to_json(self) -> dict[str, Any]:
        """The outcome as plain data."""
        return {
            "into": str(self.into), "copied": self.copied, "same": self.same, "replaced": self.replaced,
            "files": self.files, "unfinished": self.unfinished,
            "conflicts": [conflict.to_json() for conflict in self.conflicts], "left_out": self.left_out,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    """One study's record of a run; `curve` is None where there is none, or not the one that the record knows."""

    study: Path
    content: bytes
    record: RunRecord
    curve: bytes | None


def merge(sources: Sequence[Path], into: Path, on_run: Callable[[int, int], None] = lambda done, of: None) -> Merged:
    """Copy what the sources hold, that the study `into` does not, into it; `on_run` hears of every run.

    Raises `UsageError` where a source is nothing to copy from, `StorageError` where something cannot be written.
    """
    sources = _distinct(sources, into)
    merged = Merged(into)
    Store(into).remove_leftovers()
    for kind, pattern in ((Protocol, "protocols/*.json"), (SearchPlan, "searches/*/*.json"), (Race, "races/*.json"),
                          (StudyRequest, "requests/*.json")):  # fmt: skip
        _merge_files(kind, pattern, sources, merged)
    run_ids = sorted({run_id for source in sources for run_id in _run_ids(source)})
    for done, run_id in enumerate(run_ids, 1):
        _merge_run(run_id, sources, merged)
        on_run(done, len(run_ids))
    _keep_last_used(sources, into)
    return merged


def _distinct(sources: Sequence[Path], into: Path) -> list[Path]:
    """Every source once, and not the folder that is written to."""
    distinct = {source.resolve(): source for source in reversed(sources) if source.resolve() != into.resolve()}
    if not distinct:
        raise UsageError(f"{', '.join(map(str, sources))} into {into}: there is no other study to copy from")
    return list(reversed(distinct.values()))


def _run_ids(study: Path) -> Iterator[str]:
    runs = study / "runs"
    if runs.is_dir():
        yield from (entry.name for entry in runs.iterdir() if entry.is_dir())


def _merge_run(run_id: str, sources: Sequence[Path], merged: Merged) -> None:
    """Write a run that the studies agree on, or note why not."""
    folder = Store(merged.into).run_dir(run_id)
    if not _is_inside(folder, merged.into):
        merged.left_out.append(f"{folder}: leads out of the study; nothing was written there")
        return
    there = _copies(run_id, [merged.into], merged)
    if not there and (folder / "run.json").exists():  # unreadable, as was noted; it is not ours to replace
        return
    copies = there + _copies(run_id, sources, merged)
    if not copies:
        merged.unfinished += not any((Store(source).run_dir(run_id) / "run.json").exists() for source in sources)
        return
    conflict = _conflict(run_id, copies)
    if conflict is not None:
        merged.conflicts.append(conflict)
        return
    best = max(copies, key=lambda copy: (ended(copy.record), copy in there, copy.curve is not None))
    if best in there:
        merged.same += 1
        _mend_curve(best, copies, merged)
        return
    _write(run_id, best, merged, failed=there[0] if there else None)


def _copies(run_id: str, studies: Sequence[Path], merged: Merged) -> list[_Copy]:
    """The run's readable records; the others are noted."""
    copies = []
    for study in studies:
        try:
            copy = _read_copy(run_id, study)
        except BadRecordError as error:
            merged.left_out.append(str(error))
            continue
        if copy is None:
            continue
        if copy.curve is None and copy.record.curve_sha256 is not None and study != merged.into:
            merged.left_out.append(f"{study / 'runs' / run_id / 'curve.jsonl'}: not what its record says it is")
        copies.append(copy)
    return copies


def _read_copy(run_id: str, study: Path) -> _Copy | None:
    """A study's record of a run and its curve; None without a record.

    Raises `BadRecordError` where the record cannot be read or is of another run.
    """
    folder = Store(study).run_dir(run_id)
    path = folder / "run.json"
    try:
        content = path.read_bytes()
        record = read_record(content, str(path))
        curve = _read_curve(folder / "curve.jsonl", record.curve_sha256)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadRecordError(f"{path}: {error.strerror or error}") from None
    require_own(record.run_id, run_id, str(path))
    return _Copy(study=study, content=content, record=record, curve=curve)


def _read_curve(path: Path, digest: str | None) -> bytes | None:
    """A curve as its record knows it; a record of the first schema knows no digest."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return content if digest is None or hashlib.sha256(content).hexdigest() == digest else None


def _conflict(run_id: str, copies: Sequence[_Copy]) -> Conflict | None:
    """The first two records that disagree."""
    for i, one in enumerate(copies):
        for other in copies[i + 1 :]:
            if found := differences(one.record, other.record):
                return Conflict(name=run_id, one=str(one.study), other=str(other.study), differences=tuple(found))
    return None


def _mend_curve(there: _Copy, copies: Sequence[_Copy], merged: Merged) -> None:
    """Give a record that has lost its curve the same curve from another study."""
    if there.curve is not None or there.record.curve_sha256 is None:
        return
    store, run_id = Store(merged.into), there.record.run_id
    same = [copy.curve for copy in copies if copy.curve and copy.record.curve_sha256 == there.record.curve_sha256]
    if not same:
        merged.left_out.append(f"{store.run_dir(run_id) / 'curve.jsonl'}: not what its record says it is")
        return
    with store.claim(run_id) as mine:
        if mine:
            write_atomic(store.run_dir(run_id) / "curve.jsonl", same[0])


def _write(run_id: str, copy: _Copy, merged: Merged, *, failed: _Copy | None) -> None:
    """The curve, then the record; what a process here is at work on is left to it.

    `failed` is the record that is there, of a run that did not come to its end; it is set aside under another name.
    """
    store = Store(merged.into)
    folder = store.run_dir(run_id)
    with store.claim(run_id) as mine:
        if not mine:
            merged.left_out.append(f"{folder}: a process is at work on this run; merge again when it has ended")
            return
        if _content(folder / "run.json") != (failed.content if failed else None):
            merged.left_out.append(f"{folder}: it has ended while this went on; merge again")
            return
        store.set_aside(run_id)
        if copy.curve is not None:
            write_atomic(folder / "curve.jsonl", copy.curve)
        write_atomic(folder / "run.json", copy.content)
    merged.replaced += failed is not None
    merged.copied += failed is None


def _content(path: Path) -> bytes | None:
    """What a file holds; None where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _merge_files(kind: type[BaseModel], pattern: str, sources: Sequence[Path], merged: Merged) -> None:
    """Bring the files of one kind together by their names."""
    names = sorted({path.relative_to(source) for source in sources for path in source.glob(pattern)})
    for name in names:
        _merge_file(kind, name, sources, merged)


def _merge_file(kind: type[BaseModel], name: Path, sources: Sequence[Path], merged: Merged) -> None:
    """Write a file that the studies agree on; of two searches one of which has ended, that one."""
    target = merged.into / name
    if not _is_inside(target, merged.into):
        merged.left_out.append(f"{target}: leads out of the study; nothing was written there")
        return
    found: list[tuple[Path, BaseModel]] = []
    for study in (merged.into, *sources):
        try:
            if (study / name).exists():
                found.append((study, read_stored(study / name, kind)))
        except BadRecordError as error:
            merged.left_out.append(str(error))
            if study == merged.into:
                return
    if not found:
        return
    for study, content in found[1:]:
        if said := _disagreement(found[0][1], content):
            merged.conflicts.append(
                Conflict(name=str(name), one=str(found[0][0]), other=str(study), differences=(said,)))  # fmt: skip
            return
    study, _ = max(found, key=lambda item: isinstance(item[1], SearchPlan) and item[1].tuned is not None)
    if study == merged.into:  # the first of those that are as good
        return
    write_atomic(target, (study / name).read_bytes())
    merged.files += 1


def _disagreement(one: BaseModel, other: BaseModel) -> str | None:
    """What two files of one name disagree on; None where they agree."""
    if isinstance(one, Protocol) and isinstance(other, Protocol):
        return None if one.canonical_json() == other.canonical_json() else "two protocols of one hash"
    if isinstance(one, StudyRequest):  # its name says which runs it asks for
        return None
    if isinstance(one, SearchPlan) and isinstance(other, SearchPlan):
        if one.tuned is None or other.tuned is None:
            one, other = one.model_copy(update={"tuned": None}), other.model_copy(update={"tuned": None})
        return None if one == other else "two searches of one optimizer"
    return None if one == other else "two races of one protocol"


def _is_inside(path: Path, study: Path) -> bool:
    """Whether a path, its symbolic links followed, stays in the study's folder."""
    return path.resolve().is_relative_to(study.resolve())


def _keep_last_used(sources: Sequence[Path], into: Path) -> None:
    """A study without a protocol that was asked for last takes that of its first source."""
    for source in sources:
        if (last := Store(source).last_used()) and not (into / "last_used").exists():
            write_atomic(into / "last_used", last + "\n")
