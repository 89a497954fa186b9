"""Time, quality and memory: who is outdone in none of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.reporting.analysis import Analysis
from bench.reporting.figures.frame import (
    Drawn,
    better,
    caption,
    legend,
    listed,
    mean_interval,
    plain_log_ticks,
    titled,
    with_unit,
)
from bench.reporting.figures.labels import Line, Point, label_points
from bench.reporting.figures.looks import GRID, INK, LINE, MUTED, Look
from bench.reporting.pareto import Candidate, candidates, pareto_front
from bench.reporting.result_table import bytes_text
from bench.summary import lower_is_better, metric_title

AREAS = (24.0, 420.0)  # square points of the least and of the largest state
HOLLOW = {"markerfacecolor": "none"}
MOST_NAMES = 20  # entries that are all named; of more, the front is


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A candidate as drawn: mean seconds of training, quality as mean and 95 % t-interval and as range, state."""

    name: str
    seconds: float
    quality: float
    interval: tuple[float, float]
    range: tuple[float, float]
    state: int
    front: bool


def pareto_figure(analysis: Analysis, look: Look) -> Drawn | None:
    """Training time against quality, the area is the optimizer's state; None where no run is ok and timed."""
    metric = analysis.metric
    entries = [_entry(candidate) for candidate in candidates(analysis.rows, metric)]
    if not entries:
        return None
    sign = -1.0 if lower_is_better(metric) else 1.0
    figure = Figure(figsize=(9, 5.4))
    axes = figure.subplots()
    _set_limits(axes, entries, lower=sign < 0)
    stairs = _staircase(entries, pareto_front([(e.seconds, sign * e.quality, 0.0) for e in entries]))
    for ends in stairs:
        axes.plot(*zip(*ends, strict=True), color=LINE, linewidth=1, zorder=1)
    largest = max(entry.state for entry in entries)
    for entry in entries:
        _draw_entry(axes, entry, look, _radius(entry.state, largest))
    axes.set_xlabel("seconds of training a run, mean over ok seeds, logarithmic")
    axes.set_ylabel(f"{with_unit(metric)}, mean over ok seeds ({better(metric)})")
    axes.set_title(titled(analysis, "Time, quality and memory"))
    _legend(figure, entries, stairs=bool(stairs))
    few = len(entries) <= MOST_NAMES
    label_points(axes, [Point(e.seconds, e.quality, e.name if few or e.front else "", _radius(e.state, largest))
                        for e in entries],
                 [*stairs, *(((e.seconds, e.interval[0]), (e.seconds, e.interval[1])) for e in entries)])  # fmt: skip
    if not few:
        caption(figure, "of so many optimizers, those on the front are named")
    said = (f"{e.name} {e.seconds:.1f} s, {e.quality:.2f}, {bytes_text(e.state)}" for e in entries)
    members = (entry.name for entry in entries if entry.front)
    return Drawn(figure, "Who is outdone",
                 f"Seconds of training, {metric_title(metric)} and optimizer state: {listed(said)}. Not outdone "
                 f"in all three, on means: {listed(members)}.")  # fmt: skip


def _entry(c: Candidate) -> _Entry:
    _, low, high = mean_interval(c.values)
    return _Entry(name=c.row.optimizer, seconds=c.seconds, quality=c.quality, interval=(low, high),
                  range=(min(c.values), max(c.values)), state=c.row.state_bytes, front=c.front)  # fmt: skip


def _radius(state: int, largest: int) -> float:
    """Points; the area grows with the state."""
    least, most = AREAS
    return math.sqrt(max(least, most * state / max(largest, 1))) / 2


def _set_limits(axes: Axes, entries: Sequence[_Entry], *, lower: bool) -> None:
    """Around all runs, with room for names; better is up."""
    seconds = [entry.seconds for entry in entries]
    span = max(seconds) / min(seconds)
    left, right = min(seconds) / (1.1 * span**0.15), max(seconds) * 1.25 * span**0.25
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    plain_log_ticks(axes.xaxis, right / left)
    low, high = min(entry.range[0] for entry in entries), max(entry.range[1] for entry in entries)
    more = 0.12 * (high - low) or 0.12 * abs(high) or 1.0
    axes.set_ylim(*((high + more, low - more) if lower else (low - more, high + more)))


def _staircase(entries: Sequence[_Entry], front: Sequence[bool]) -> list[Line]:
    """The best quality up to each time, as lines to the right and up."""
    members = sorted((e.seconds, e.quality) for e, on_front in zip(entries, front, strict=True) if on_front)
    lines: list[Line] = []
    for (x, y), (next_x, next_y) in itertools.pairwise(members):
        lines += [((x, y), (next_x, y)), ((next_x, y), (next_x, next_y))]
    return lines


def _draw_entry(axes: Axes, entry: _Entry, look: Look, radius: float) -> None:
    """The interval, clipped to the axes, and the disc: full with an outline on the front, else hollow."""
    colour = look.colour(entry.name)
    ends = np.clip(entry.interval, min(axes.get_ylim()), max(axes.get_ylim()))
    axes.plot([entry.seconds] * 2, ends, color=colour, linewidth=1)
    fill: dict[str, Any] = {"markerfacecolor": colour, "markeredgecolor": INK} if entry.front else HOLLOW
    axes.plot(entry.seconds, entry.quality, marker="o", color=colour, markersize=2 * radius, markeredgewidth=1.5,
              clip_on=False, zorder=3 if entry.front else 2, **fill)  # fmt: skip


def _legend(figure: Figure, entries: Sequence[_Entry], *, stairs: bool) -> None:
    """What outline and area mean; the areas are the least, the middle and the largest state."""

    def disc(size: float, **changes: Any) -> Line2D:
        return Line2D(
            [], [], marker="o", linestyle="none", markersize=size, markeredgewidth=1.5, color=MUTED, **changes
        )

    spread = any(low < high for low, high in (entry.interval for entry in entries))
    states = sorted(entry.state for entry in entries)
    shown = {bytes_text(state): state for state in (states[0], states[len(states) // 2], states[-1])}
    keys = {
        "on the front of\nall three": disc(9, markerfacecolor=GRID, markeredgecolor=INK),
        "outdone by another": disc(9, **HOLLOW),
        **({"front of time and\nquality alone": Line2D([], [], color=LINE, linewidth=1)} if stairs else {}),
        **(
            {"95 % t-interval": Line2D([], [], color=MUTED, marker="|", linestyle="none", markersize=14)}
            if spread
            else {}
        ),
        "area: optimizer state": Line2D([], [], linestyle="none"),
        **{text: disc(2 * _radius(state, states[-1]), **HOLLOW) for text, state in shown.items()},
    }
    legend(figure, list(keys.values()), list(keys), labelspacing=0.9, handlelength=2)
