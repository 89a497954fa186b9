"""What can be removed from a study without losing a result, and removing it.

temporary    what crashed writers left, an hour old or more
checkpoints  of runs that have a record and will not go on
set-aside    records of runs that were made again
logs         of a study that no process is at work on
stopped      checkpoints and curves of runs without a record, and checkpoints of those that ran out of time or whose
             record cannot be read: they begin anew then

A record is never removed, nor its curve, nor weights (`bench.weights`); neither is anything of a run that a process is
at work on. Symbolic links are not followed.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from bench.errors import BadRecordError
from bench.record import Outcome
from bench.store import STALE_SECONDS, Store

Kind = Literal["temporary", "checkpoints", "set-aside", "logs", "stopped"]
KINDS: tuple[Kind, ...] = get_args(Kind)
COSTLY: Kind = "stopped"  # the time that was spent on the runs
_TEMPORARY = re.compile(r"\..*\.tmp")
_CHECKPOINT = re.compile(r"checkpoint-\d+\.pt(\.sha256)?")
_SET_ASIDE = re.compile(r"run\.set-aside-\d+\.json")
_LOG = re.compile(r"(?!study\.log$).+\.log(\.\d+)?")  # what happened in the study stays


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A file that could go; `run_id` is None where it is of no run."""

    kind: Kind
    path: Path
    bytes: int
    run_id: str | None = None


@dataclass(slots=True)
class Cleaned:
    """What could be removed, or was; `held` are the runs that processes are at work on, which were left alone."""

    study: Path
    removed: bool
    items: list[Item] = field(default_factory=list)
    held: list[str] = field(default_factory=list)

    def counts(self) -> dict[Kind, tuple[int, int]]:
        """Files and bytes of every kind that there is."""
        files, sizes = Counter(item.kind for item in self.items), Counter[Kind]()
        for item in self.items:
            sizes[item.kind] += item.bytes
        return {kind: (files[kind], sizes[kind]) for kind in KINDS if files[kind]}

    def to_json(self) -> dict[str, Any]:
        """The outcome as plain data."""
        return {
            "study": str(self.study), "removed": self.removed,
            "bytes": sum(item.bytes for item in self.items),
            "kinds": {kind: {"files": files, "bytes": size} for kind, (files, size) in self.counts().items()},
            "files": [{"kind": item.kind, "path": item.path.relative_to(self.study).as_posix(), "bytes": item.bytes}
                      for item in self.items],
            "held": self.held,
        }  # fmt: skip


def removable(study: Path, kinds: Sequence[Kind]) -> Cleaned:
    """What of these kinds could be removed; nothing is."""
    store, found = Store(study), Cleaned(study, removed=False)
    for run_id in _run_ids(study):
        items = _of_run(store, run_id, kinds)
        if items and store.is_claimed(run_id):
            found.held.append(run_id)
        else:
            found.items.extend(items)
    found.items.extend(_of_study(store, kinds))
    return found


def remove(study: Path, kinds: Sequence[Kind]) -> Cleaned:
    """Remove what of these kinds there is, every run under its lock.

    Raises `OSError` where a file cannot be removed.
    """
    store, gone = Store(study), Cleaned(study, removed=True)
    for run_id in _run_ids(study):
        listed = _of_run(store, run_id, kinds)
        if not listed:
            continue
        with store.claim(run_id) as mine:
            if not mine:
                gone.held.append(run_id)
                continue
            now = _of_run(store, run_id, kinds)
            gone.items.extend(item for item in listed if item.kind == "temporary" and item not in now)  # by `claim`
            _unlink(now, gone)
    _unlink(_of_study(store, kinds), gone)
    return gone


def _unlink(items: Sequence[Item], gone: Cleaned) -> None:
    for item in items:
        try:
            item.path.unlink()
        except FileNotFoundError:  # another process was quicker
            continue
        gone.items.append(item)


def _run_ids(study: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(study / "runs") if entry.is_dir(follow_symlinks=False))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder; nothing where it is a link or is not there."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _items(folder: Path, run_id: str | None, kind_of: Callable[[os.DirEntry[str]], Kind | None]) -> Iterator[Item]:
    """The plain files of a folder that are of some kind."""
    for entry in _entries(folder):
        if entry.is_file(follow_symlinks=False) and (kind := kind_of(entry)):
            size = entry.stat(follow_symlinks=False).st_size
            yield Item(kind=kind, path=folder / entry.name, bytes=size, run_id=run_id)


def _of_run(store: Store, run_id: str, kinds: Sequence[Kind]) -> list[Item]:
    """What could go of a run, as long as no process is at work on it."""
    record = _Record(store, run_id)

    def kind_of(entry: os.DirEntry[str]) -> Kind | None:
        if _CHECKPOINT.fullmatch(entry.name):
            return "checkpoints" if record.state == "final" else "stopped"
        if _SET_ASIDE.fullmatch(entry.name):
            return "set-aside" if record.state in ("final", "may go on") else None
        if entry.name == "curve.jsonl":
            return "stopped" if record.state == "none" else None
        return "temporary" if _is_stale(entry) else None

    return [item for item in _items(store.run_dir(run_id), run_id, kind_of) if item.kind in kinds]


class _Record:
    """What is known of a run's record, read when it is asked for."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store, self._run_id = store, run_id

    @cached_property
    def state(self) -> Literal["none", "unreadable", "may go on", "final"]:
        """Whether there is one, and whether the run is through: with more time, one that timed out goes on."""
        try:
            record = self._store.read_record(self._run_id)
        except (BadRecordError, OSError):
            return "unreadable"
        if record is None:
            return "none"
        return "may go on" if record.outcome is Outcome.TIMEOUT else "final"


def _of_study(store: Store, kinds: Sequence[Kind]) -> list[Item]:
    """What could go that is of no run; no logs while a process is at work."""
    places = [store.path, *(store.path / name for name in ("protocols", "requests", "races", "logs", "searches"))]
    places += [store.path / "searches" / e.name for e in _entries(store.path / "searches") if e.is_dir()]
    found = [item for place in places for item in _items(place, None, lambda e: "temporary" if _is_stale(e) else None)]
    found += _items(store.path / "logs", None, lambda entry: "logs" if _LOG.fullmatch(entry.name) else None)
    if "logs" in kinds and any(store.is_claimed(run_id) for run_id in _run_ids(store.path)):
        found = [item for item in found if item.kind != "logs"]
    return [item for item in found if item.kind in kinds]


def _is_stale(entry: os.DirEntry[str]) -> bool:
    """Whether it is a temporary file that nobody can still be writing."""
    if not _TEMPORARY.fullmatch(entry.name):
        return False
    return time.time() - entry.stat(follow_symlinks=False).st_mtime > STALE_SECONDS
