"""Values over training, loss and retrieval: a line an optimizer through the means of its ok runs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.record import CurvePoint, RunRecord
from bench.reporting.analysis import Analysis
from bench.reporting.figures.frame import (
    LOG_RANGE,
    Drawn,
    bounds_text,
    draw_bounds,
    known_bounds,
    listed,
    mean_interval,
    optimizers_legend,
    over_panels,
    plain_log_ticks,
    titled,
)
from bench.reporting.figures.looks import CROSS, MUTED, Look
from bench.summary import HEADLINES, lower_is_better, metric_title
from bench.workload import WorkloadKind

Value = Callable[[CurvePoint], float | None]
Limits = tuple[float, float]
BANDS = 12  # optimizers up to which their intervals are drawn: more would be one grey
FAILED_LINES = 10  # of an optimizer's failed runs that are drawn in full; all have their cross
# What the metrics of a kind of workload are of, in titles.
_SAID: Mapping[WorkloadKind, tuple[str, str, str]] = {
    "retrieval": ("Retrieval", " of the test queries", ", mean of all directions"),
    "continual": ("Accuracy", "", ", means over tasks"),
}
MARGIN = 0.04  # between the data and the axes, of their span


@dataclass(frozen=True, slots=True)
class Course:
    """An optimizer's ok runs at each epoch: mean, ends of its 95 % t-interval, and the least and most of the seeds."""

    epochs: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]
    least: float
    most: float


def loss_figure(analysis: Analysis, look: Look) -> Drawn | None:
    """Training loss over epochs; None without a finite loss."""
    figure = Figure(figsize=(9, 4.8))
    axes = figure.subplots()
    best = min((r.best_loss for r in analysis.study.records if r.best_loss is not None), default=None)
    lowest = {} if best is None or not math.isfinite(best) else {f"lowest expected, {best:.2f}": best}
    lines = [axes.axhline(y, color=MUTED, linewidth=1.1, linestyle=(0, (6, 2)), label=label, zorder=1)
             for label, y in lowest.items()]  # fmt: skip
    if not _panel(axes, analysis, look, lambda point: point.loss, lowest.values(), vanished=1):
        return None
    axes.set_ylabel("training loss, mean of the epoch")
    axes.set_title(titled(analysis, "Training loss"), pad=12)
    optimizers_legend(figure, look, analysis.rows, lines)
    ends = [
        f"{row.optimizer} {row.loss.mean:.2f}" for row in analysis.rows if row.loss and math.isfinite(row.loss.mean)
    ]
    expected = f"; lowest expected loss {best:.2f}" if lowest else ""
    return Drawn(figure, "Training loss", f"Training loss over epochs: {_band(analysis)}. "
                 f"Mean loss at the last epoch: {listed(ends, 'no run is ok')}{expected}.")  # fmt: skip


def retrieval_figure(analysis: Analysis, look: Look) -> Drawn | None:
    """The study's leading metrics over epochs; None without a curve of them."""
    kind = analysis.study.protocol.workload.kind
    titles, (what, of, rest) = HEADLINES[kind], _SAID[kind]
    shown = [m for m in titles if any(m in p.metrics for curve in analysis.study.curves.values() for p in curve)]
    if not shown:
        return None
    figure = Figure(figsize=(1 + 4 * len(shown), 4.8))
    lines = {}
    for axes, metric in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        known = known_bounds(analysis, metric)
        lines |= {str(line.get_label()): line for line in draw_bounds(known, axes.axhline)}
        if not _panel(
            axes, analysis, look, partial(_metric, metric), known.values(), vanished=int(lower_is_better(metric))
        ):
            return None
        axes.set_title(f"{titles[metric]}, %{of}", fontweight="normal")
    over_panels(figure, titled(analysis, f"{what} over training{rest}"))
    optimizers_legend(figure, look, analysis.rows, list(lines.values()))
    metric = shown[0]
    ends = [f"{row.optimizer} {row.metrics[metric].mean:.2f}" for row in analysis.rows if metric in row.metrics]
    return Drawn(figure, f"{what} over training",
                 f"{', '.join(titles[m] for m in shown)} over epochs: {_band(analysis)}. Mean {metric_title(metric)} "
                 f"at the last epoch: {listed(ends, 'no run is ok')}; "
                 f"{bounds_text(known_bounds(analysis, metric))}.")  # fmt: skip


def epoch_axis(axes: Axes, last: int) -> None:
    """An x axis of whole epochs up to `last`."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.set_xlim(0.5 if last < 5 else 0, last + 0.5)


def _band(analysis: Analysis) -> str:
    band = "band: its 95 % t-interval, clipped to the axes" if _has_bands(analysis) else "no bands, for clarity"
    lost = ", a cross where a run that is not ok ends" if any(row.failed for row in analysis.rows) else ""
    return f"line: mean over the seeds that are ok, {band}{lost}"


def _has_bands(analysis: Analysis) -> bool:
    return len(analysis.rows) <= BANDS and any(len(row.ok) > 1 for row in analysis.rows)


def _metric(name: str, point: CurvePoint) -> float | None:
    return point.metrics.get(name)


def _points(analysis: Analysis, record: RunRecord, value: Value) -> list[tuple[int, float]]:
    """Epoch and value where there is a finite one."""
    found = ((point.epoch, value(point)) for point in analysis.study.curves.get(record.run_id, []))
    return [(epoch, y) for epoch, y in found if y is not None and math.isfinite(y)]


def _course(analysis: Analysis, runs: Iterable[RunRecord], value: Value) -> Course | None:
    by_epoch: dict[int, list[float]] = defaultdict(list)
    for record in runs:
        for epoch, y in _points(analysis, record, value):
            by_epoch[epoch].append(y)
    if not by_epoch:
        return None
    epochs = sorted(by_epoch)
    mean, low, high = map(list, zip(*(mean_interval(by_epoch[epoch]) for epoch in epochs), strict=True))
    return Course(epochs, mean, low, high, min(map(min, by_epoch.values())), max(map(max, by_epoch.values())))


def _panel(axes: Axes, analysis: Analysis, look: Look, value: Value, levels: Iterable[float], *, vanished: int) -> bool:
    """Draw all runs in limits that hold the ok runs and `levels`; False where there is nothing finite.

    A failed run without any finite value ends at the lower (`vanished` 0) or upper (1) limit.
    """
    found = {row.optimizer: _course(analysis, row.ok, value) for row in analysis.rows}
    courses = {name: course for name, course in found.items() if course is not None}
    span = _span(analysis, courses, value)
    if span is None:
        return False
    limits = _set_limits(
        axes, (min(span[0], *levels, span[1]), max(*span, *levels)), from_zero=not vanished and span[0] >= 0
    )
    for name, course in courses.items():
        axes.plot(course.epochs, course.mean, **look.line(name, len(course.epochs)))
        if len(analysis.rows) <= BANDS:
            low, high = (np.clip(end, *limits) for end in (course.low, course.high))
            axes.fill_between(course.epochs, low, high, color=look.colour(name), alpha=0.13, linewidth=0)
    _draw_failed(axes, analysis, look, value, limits, vanished)
    last = max((point.epoch for curve in analysis.study.curves.values() for point in curve), default=1)
    epoch_axis(axes, last)
    return True


def _span(analysis: Analysis, courses: Mapping[str, Course], value: Value) -> Limits | None:
    """Least and most of the ok runs; of the failed ones, up to where a loss counts as diverged, if all failed."""
    if courses:
        return min(c.least for c in courses.values()), max(c.most for c in courses.values())
    runs = [points for r in analysis.study.records if (points := _points(analysis, r, value))]
    if not runs:
        return None
    cap = analysis.study.protocol.diverged_loss_factor * max(abs(points[0][1]) for points in runs)
    values = [min(y, cap) for points in runs for _, y in points]
    return min(values), max(values)


def _set_limits(axes: Axes, span: Limits, *, from_zero: bool) -> Limits:
    """Limits a little wider than `span`, logarithmic where it is wide."""
    low, high = (0.0, span[1]) if from_zero else span
    if low > 0 and high / low > LOG_RANGE:
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis, high / low)
        wider = (high / low) ** MARGIN
        limits = low / wider, high * wider
    else:
        more = MARGIN * (high - low) or abs(high) * MARGIN or 1.0
        limits = low - (0 if from_zero else more), high + more
    axes.set_ylim(limits)
    return limits


def _draw_failed(axes: Axes, analysis: Analysis, look: Look, value: Value, limits: Limits, vanished: int) -> None:
    """Every run that is not ok: a thin line that ends in a cross, both inside the limits."""
    for row in analysis.rows:
        colour = look.colour(row.optimizer)
        lines, crosses = [], set()
        for record in row.failed:
            points = [(epoch, float(np.clip(y, *limits))) for epoch, y in _points(analysis, record, value)]
            last = max((point.epoch for point in analysis.study.curves.get(record.run_id, [])), default=0)
            lines += [points] if len(points) > 1 else []
            crosses.add(points[-1] if points else (last, limits[vanished]))
        axes.add_collection(LineCollection(lines[:FAILED_LINES], colors=colour, linewidths=0.8), autolim=False)
        if crosses:
            axes.plot(*zip(*sorted(crosses), strict=True), color=colour, clip_on=False, zorder=5, **CROSS)
