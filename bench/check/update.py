"""What a new baseline changes against the old one, for the people who review it."""

from __future__ import annotations

from collections.abc import Iterator

from bench.check.check import check
from bench.check.compatibility import UNFINISHED, commit
from bench.check.result import Status, printable
from bench.check.snapshot import Snapshot
from bench.check.text import cells
from bench.study_changes import configuration_changes
from bench.wording import counted, seeds_text


def update_lines(old: Snapshot | None, new: Snapshot) -> list[str]:
    """A line for every entry that was added, removed, set otherwise, or moved; then what a reviewer should know."""
    lines = list(_changes(old, new)) if old is not None else [f"new: {size(new)}"]
    return [printable(line) for line in (*(lines or ["no optimizer has changed"]), *_warnings(new))]


def size(snap: Snapshot) -> str:
    """`4 optimizers, 20 runs`."""
    return f"{counted(len(snap.entries), 'optimizer')}, {counted(len(snap.runs), 'run')}"


def _changes(old: Snapshot, new: Snapshot) -> Iterator[str]:
    yield from (f"added: {name}" for name in new.names if name not in old.names)
    yield from (f"removed: {name}" for name in old.names if name not in new.names)
    for entry in old.entries:
        if entry.optimizer in new.names and (found := configuration_changes(entry, new.entry(entry.optimizer))):
            yield f"changed: {entry.optimizer}: {', '.join(map(str, found))}"
    result = check(old, new)
    if result.verdict is Status.INCOMPATIBLE:
        yield from (f"changed: {case.name}: {case.text}" for case in result.gates[0].cases
                    if case.status is Status.INCOMPATIBLE)  # fmt: skip
        return
    level = result.gate("level")
    for case in level.cases if level else ():
        if case.figures["difference"]:
            _, before, after, change, interval, p = cells(case)
            yield f"level: {case.name} {before} → {after} ({change}, 95 % {interval}, p of a loss {p})"


def _warnings(new: Snapshot) -> Iterator[str]:
    unfinished = [run for run in new.runs if run.outcome in UNFINISHED]
    if unfinished:
        runs = ", ".join(f"{run.optimizer} seed {run.seed}" for run in unfinished)
        yield f"warning: {counted(len(unfinished), 'run')} did not finish, and a check leaves them out: {runs}"
    seeds = {run.seed for run in new.runs}
    for name in new.names:
        if missing := seeds - {run.seed for run in new.runs if run.optimizer == name}:
            yield f"warning: {name} has not run {seeds_text(missing)}"
    if any(place.git_dirty for place in new.environments):
        yield f"warning: the runs were made with changed files (commit {commit(new.environments)})"
