"""How long runs took, how many ran side by side, and from both when the rest will have ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import fmean, median
from typing import Any

from bench.status.run_state import RunState, State

LATEST = 200  # runs, by which the number side by side is judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """So many runs, or parts of one, of an optimizer under a protocol; None where that is not known."""

    protocol_hash: str | None
    optimizer: str
    runs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Times in seconds; None where no run has ended.

    last_finished: UTC, ISO 8601. side_by_side: runs at once, now or, where none is running, when the last ones ended.
    seconds_left: at that pace; None too where nothing is left.
    """

    last_finished: str | None
    median_seconds: float | None
    shortest_seconds: float | None
    longest_seconds: float | None
    side_by_side: int | None
    seconds_left: float | None

    def to_json(self) -> dict[str, Any]:
        """The pace as plain data."""
        return {
            "last_finished": self.last_finished,
            "run_seconds": {"median": self.median_seconds, "shortest": self.shortest_seconds,
                            "longest": self.longest_seconds},
            "side_by_side": self.side_by_side, "seconds_left": self.seconds_left,
        }  # fmt: skip


def pace_of(runs: Iterable[RunState], work: Sequence[Work]) -> Pace:
    """The pace of the runs that have ended, and how long the work will take at it."""
    runs = list(runs)
    ended = [(end, run) for run in runs if run.head and (end := _moment(run.head.finished))]
    if not ended:
        return Pace(last_finished=None, median_seconds=None, shortest_seconds=None, longest_seconds=None,
                    side_by_side=None, seconds_left=None)  # fmt: skip
    spans = [(end.timestamp() - run.head.seconds.total, end.timestamp()) for end, run in ended if run.head]
    whole = [run.head.seconds.total for _, run in ended if run.head and run.state is State.OK]
    now = sum(run.state is State.RUNNING for run in runs)
    at_once = now or _side_by_side(spans)
    seconds = _seconds(work, [run for _, run in ended])
    return Pace(
        last_finished=max(end for end, _ in ended).isoformat(timespec="seconds"),
        median_seconds=median(whole) if whole else None, shortest_seconds=min(whole, default=None),
        longest_seconds=max(whole, default=None), side_by_side=at_once,
        seconds_left=seconds / at_once if seconds is not None else None,
    )  # fmt: skip


def _moment(finished: str) -> datetime | None:
    """The time in a record; None where it is none. One without a zone is UTC."""
    try:
        moment = datetime.fromisoformat(finished)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _side_by_side(spans: Sequence[tuple[float, float]]) -> int:
    """In the middle of each of the latest runs, how many were under way: the median of these counts."""
    latest = sorted(spans, key=lambda span: span[1])[-LATEST:]
    middles = [(start + end) / 2 for start, end in latest]
    return max(1, round(median(sum(start <= at <= end for start, end in latest) for at in middles)))


def _seconds(work: Sequence[Work], ended: Sequence[RunState]) -> float | None:
    """The seconds of the work if it were done one after the other; None without any, or without a run to go by.

    A run takes as long as those of its optimizer that came to their end, else as those of its protocol, else as any.
    """
    if not work:
        return None
    times: dict[tuple[str | None, str | None], list[float]] = defaultdict(list)
    for run in ended:
        if run.head and run.state is State.OK:
            for key in ((run.head.protocol.hash, run.head.optimizer), (run.head.protocol.hash, None), (None, None)):
                times[key].append(run.head.seconds.total)
    if not times:
        return None
    means = {key: fmean(values) for key, values in times.items()}

    def usual(item: Work) -> float:
        for key in ((item.protocol_hash, item.optimizer), (item.protocol_hash, None)):
            if key in means:
                return means[key]
        return means[None, None]

    return sum(item.runs * usual(item) for item in work)
