"""How a study stands, for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.reporting.printable import printable
from bench.status.run_state import RunState, State
from bench.status.search_status import SearchStatus
from bench.status.study_status import ProtocolStatus, StudyStatus
from bench.wording import counted

NAMED = 20  # runs and files that are named one by one
_TITLES = {State.OUT_OF_MEMORY: "out of memory", State.NOT_NEEDED: "not needed"}
_IN_WORDS = {State.ERROR: "ended in error", State.TIMEOUT: "out of time", State.OUT_OF_MEMORY: "out of memory",
             State.NOT_NEEDED: "not needed"}  # fmt: skip
FAILED = (State.ERROR, State.TIMEOUT, State.OUT_OF_MEMORY)


def view(status: StudyStatus, now: datetime) -> Group:
    """The whole status; `now` is the time of the reader, with its zone."""
    parts: list[RenderableType] = [Text(f"study {_line(status.name)} in {_line(str(status.path))}", style="bold"),
                                   Text(_totals(status))]  # fmt: skip
    for protocol in status.protocols:
        parts += _protocol(protocol)
    parts += _begun(status)
    if status.faults:
        parts.append(_listed("unreadable, which the same command makes again:", status.faults))
    notes = [*_notes(status), *_pace(status, now)]
    if notes:
        parts += [Text(""), *(Text(note) for note in notes)]
    if status.commands:
        parts.append(_listed("goes on with:", status.commands))
    return Group(*parts)


def _line(text: str) -> str:
    """The text in one line of signs that a terminal only shows."""
    return " ".join(printable(text).split())


def _totals(status: StudyStatus) -> str:
    """`12 ok, 1 diverged, 3 missing`."""
    said = [f"{status.totals[state]:,} {_IN_WORDS.get(state, state)}" for state in State if status.totals.get(state)]
    return ", ".join(said) or "no runs"


def _table(headings: Iterable[str]) -> Table:
    """A table whose first column is text and the others numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("optimizer", overflow="fold", min_width=16)
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")
    return table


def _protocol(protocol: ProtocolStatus) -> list[RenderableType]:
    """The protocol's runs and searches; a state that no run is in has no column."""
    parts: list[RenderableType] = [Text(""), Text(f"protocol {_line(protocol.name)} ({_line(protocol.hash)})")]
    if protocol.optimizers:
        shown = [s for s in State if s is State.OK or any(one.counts.get(s) for one in protocol.optimizers)]
        table = _table(_TITLES.get(state, str(state)) for state in shown)
        for one in protocol.optimizers:
            table.add_row(Text(_line(one.optimizer)), *(_count(one.counts.get(state, 0), state) for state in shown))
        parts.append(table)
    if protocol.searches:
        parts += [Text(""), _searches(protocol.searches)]
    return parts


def _count(number: int, state: State) -> Text:
    style = "" if not number else "red" if state in (*FAILED, State.UNREADABLE) else ""
    return Text(f"{number:,}" if number else "·", style=style)


def _searches(searches: Sequence[SearchStatus]) -> Table:
    """A row a search: its trials, its failed and missing runs, and the best setting."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("search of", overflow="fold", min_width=16)
    for heading in ("trials", "failed runs", "missing runs"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("best on validation", overflow="fold")
    for one in searches:
        trials = f"{one.trials_done} of {one.trials}" if not one.finished and one.trials else f"{one.trials_done}"
        failed = sum(one.counts.get(state, 0) for state in FAILED)
        table.add_row(Text(_line(one.optimizer)), Text(trials), _count(failed, State.ERROR),
                      _count(one.missing + one.missing_short, State.MISSING), Text(_best(one)))  # fmt: skip
    return table


def _best(one: SearchStatus) -> str:
    """`lr 0.0017: 41.58`, or why there is none."""
    if one.trials is None:
        return "no plan of this search"
    so_far = "" if one.finished else " so far"
    if one.best is None or one.validation is None:
        return "no trial ended well" if one.finished else f"none{so_far}"
    values = ", ".join(f"{_line(name)} {v:.3g}" if isinstance(v, int | float) else f"{_line(name)} {_line(str(v))}"
                       for name, v in one.best.items())  # fmt: skip
    return f"{values}: {one.validation:.2f}{so_far}"


def _begun(status: StudyStatus) -> list[RenderableType]:
    """The runs under way and those that were stopped, each with its epoch."""
    parts: list[RenderableType] = []
    for state, title in ((State.RUNNING, "running:"), (State.STOPPED, "stopped:")):
        runs = [run for run in status.begun if run.state is state]
        if runs:
            parts.append(_listed(title, [_run(run, status.epochs_of(run)) for run in runs]))
    return parts


def _run(run: RunState, epochs: int | None) -> str:
    """`adamw seed 3: epoch 7 of 20, goes on after 6`."""
    name = f"{run.identity.optimizer} seed {run.identity.seed}" if run.identity else run.run_id
    if run.epoch is None:
        return f"{name}: its curve cannot be read"
    place = f"{name}: epoch {run.epoch}" + (f" of {epochs}" if epochs else "")
    if run.state is State.RUNNING:
        return place
    return f"{place}, goes on after {run.resumes_from}" if run.resumes_from else f"{place}, begins anew"


def _listed(title: str, lines: Sequence[str]) -> Group:
    """The title and a line each; of many, how many more."""
    shown = [Text(f"  {_line(line)}") for line in lines[:NAMED]]
    if more := len(lines) - NAMED:
        shown += [Text(f"  and {more:,} more; --json names all")] if more > 0 else []
    return Group(Text(""), Text(title), *shown)


def _notes(status: StudyStatus) -> list[str]:
    notes = []
    if failed := sum(status.totals.get(state, 0) for state in FAILED):
        notes.append(f"{counted(failed, 'run')} failed; the records say why; --retry-failed runs them again")
    if status.unplaced:
        notes.append(f"{counted(status.unplaced, 'run')} of no request that is known, named by their folders alone")
    if status.set_aside:
        notes.append(f"{counted(status.set_aside, 'record')} set aside; `bench clean` removes those made again")
    return notes


def _pace(status: StudyStatus, now: datetime) -> list[str]:
    """When the last run ended, how long runs took, and how long the rest will."""
    pace, lines = status.pace, []
    if pace.last_finished:
        ago = (now.astimezone(UTC) - datetime.fromisoformat(pace.last_finished)).total_seconds()
        lines.append(f"last run ended {pace.last_finished[:19].replace('T', ' ')} UTC, {lasting(max(0.0, ago))} ago")
    if pace.median_seconds is not None and pace.shortest_seconds is not None and pace.longest_seconds is not None:
        lines.append(f"a run took {lasting(pace.median_seconds)} (median; {lasting(pace.shortest_seconds)} to "
                     f"{lasting(pace.longest_seconds)})")  # fmt: skip
    if pace.seconds_left is not None and pace.side_by_side is not None:
        running = status.totals.get(State.RUNNING, 0)
        how = "as now" if running else "as before"
        lines.append(
            f"left: about {lasting(pace.seconds_left)} with {counted(pace.side_by_side, 'run')} at once, {how}"
        )
    return lines


def lasting(seconds: float) -> str:
    """`8.1 s`, `3 min 20 s`, `2 h 5 min`, `4 d 3 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if round(seconds, 1) < 60 else "1 min"
    for large, small, big, little in ((60, 1, "min", "s"), (3600, 60, "h", "min"), (86400, 3600, "d", "h")):
        count = round(seconds / small)
        if count * small < large * (60 if big == "min" else 24) or big == "d":
            first, second = divmod(count, large // small)
            return f"{first:,} {big} {second} {little}" if second else f"{first:,} {big}"
    raise AssertionError("unreachable")
