"""A study's figures, as PNG and SVG with reproducible bytes. An optimizer looks the same in all of them."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import blended_transform_factory

from bench.record import CurvePoint, RunRecord
from bench.reporting.figures.looks import BOUND, CROSS, Look, label_points, plain, style
from bench.study import Study
from bench.summary import AVERAGES, PAIRS, Row, bounds, lower_is_better, metric_title, rows, unit

Value = Callable[[CurvePoint], float | None]
LINES = {"chance": (0, (1, 2)), "ceiling": (0, (6, 2)), "lowest expected": (0, (6, 2))}
LOG_RANGE = 8  # a loss that falls by more than this factor is drawn on a logarithmic axis


def write_figures(study: Study, folder: Path) -> dict[str, str]:
    """Write every figure into `folder`; returns file stem → text alternative."""
    folder.mkdir(parents=True, exist_ok=True)
    table = rows(study)
    look, texts = Look(table), {}
    with style():
        for stem, draw in FIGURES.items():
            figure, texts[stem] = draw(study, table, look)
            figure.savefig(folder / f"{stem}.png", dpi=150, metadata={"Software": None})
            figure.savefig(folder / f"{stem}.svg", metadata={"Date": None})
    return texts


def _subtitle(study: Study, table: Sequence[Row]) -> str:
    counts = sorted({len(row.seeds) for row in table})
    seeds = "–".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"protocol {plain(study.protocol.name)}, {seeds} seed{'s' if counts[-1] > 1 else ''}"


def _with_unit(metric: str) -> str:
    return f"{metric_title(metric)}, {unit(metric)}".rstrip(", ")


def _points(study: Study, record: RunRecord, value: Value) -> list[tuple[int, float]]:
    """Epoch and value where there is a finite one."""
    found = ((point.epoch, value(point)) for point in study.curves.get(record.run_id, []))
    return [(epoch, y) for epoch, y in found if y is not None and math.isfinite(y)]


def _draw_ok(axes: Axes, study: Study, table: Sequence[Row], look: Look, value: Value) -> None:
    """The ok runs: a line an optimizer through the means, with a band from the lowest to the highest seed."""
    for row in table:
        by_epoch: dict[int, list[float]] = defaultdict(list)
        for record in row.ok:
            for epoch, y in _points(study, record, value):
                by_epoch[epoch].append(y)
        if not by_epoch:
            continue
        epochs = sorted(by_epoch)
        mean, low, high = ([f(by_epoch[e]) for e in epochs] for f in (statistics.fmean, min, max))
        axes.plot(epochs, mean, **look.line(row, len(epochs)))
        axes.fill_between(epochs, low, high, color=look.colour(row), alpha=0.13, linewidth=0)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    last = max((point.epoch for curve in study.curves.values() for point in curve), default=study.protocol.epochs)
    axes.set_xlim(0.5 if last < 5 else 0, last + 0.5)


def _draw_failed(axes: Axes, study: Study, table: Sequence[Row], look: Look, value: Value, *, vanished: int) -> None:
    """Every other run: a thin line that ends in a cross, inside the limits that the ok runs have set.

    A run without any finite value has its cross at the lower (`vanished` 0) or upper (1) limit.
    """
    limits = axes.get_ylim()
    alone = not any(row.ok for row in table)
    crosses = []
    for row in table:
        for record in row.failed:
            points = _points(study, record, value)
            axes.plot(*zip(*points, strict=True), color=look.colour(row), linewidth=0.8, alpha=0.6) if points else None
            last = max((point.epoch for point in study.curves.get(record.run_id, [])), default=0)
            crosses.append((row, points[-1] if points else (last, None)))
    if alone:
        limits = axes.get_ylim()
    axes.set_ylim(limits)
    for row, (epoch, y) in crosses:
        inside = limits[vanished] if y is None else min(max(y, limits[0]), limits[1])
        axes.plot(epoch, inside, color=look.colour(row), clip_on=False, zorder=5, **CROSS)


def _draw_bounds(study: Study, metric: str, draw: Callable[..., Line2D]) -> list[Line2D]:
    """Lines at chance and ceiling of a metric as far as they are known."""
    found = zip(("chance", "ceiling"), bounds(study, metric), strict=True)
    return [
        draw(value, color=BOUND, linewidth=1.1, linestyle=LINES[name], label=name, zorder=1)
        for name, value in found
        if value is not None
    ]


def loss_figure(study: Study, table: Sequence[Row], look: Look) -> tuple[Figure, str]:
    """Training loss over epochs."""
    figure = Figure(figsize=(9, 4.8))
    axes = figure.subplots()
    _draw_ok(axes, study, table, look, lambda point: point.loss)
    best = min((r.best_loss for r in study.records if r.best_loss is not None), default=None)
    lines = []
    if best is not None:
        lines = [axes.axhline(best, color=BOUND, linewidth=1.1, linestyle=LINES["lowest expected"],
                              label=f"lowest expected, {best:.2f}", zorder=1)]  # fmt: skip
    low, high = axes.dataLim.intervaly
    if any(row.ok for row in table) and 0 < low < math.inf and high / low > LOG_RANGE:
        axes.set_yscale("log")
        _plain_log_ticks(axes.yaxis, high / low)
    _draw_failed(axes, study, table, look, lambda point: point.loss, vanished=1)
    axes.set_ylabel("training loss, mean of the epoch")
    axes.set_title(f"Training loss: {_subtitle(study, table)}", pad=12)
    look.legend(figure, table, lines)
    return figure, f"Training loss over epochs: mean over seeds, band from lowest to highest. {_ends(table, 'loss')}"


def _ends(table: Sequence[Row], what: str) -> str:
    """For readers who do not see the figure: the last values in the table's order."""
    found = [(row.optimizer, row.loss if what == "loss" else row.metrics.get(what)) for row in table]
    values = [f"{name} {value.mean:.2f}" for name, value in found if value is not None]
    name = what if what == "loss" else metric_title(what)
    return f"Mean {name} at the last epoch: {', '.join(values)}." if values else "No run is ok."


def _plain_log_ticks(axis: Axis, span: float) -> None:
    """1, 2, 5, 10 instead of powers of ten; more of them where the axis spans less than a factor of ten."""
    axis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if span < 10 else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _metric(name: str, point: CurvePoint) -> float | None:
    return point.metrics.get(name)


def retrieval_figure(study: Study, table: Sequence[Row], look: Look) -> tuple[Figure, str]:
    """R@1, R@5 and R@10 over epochs, means of all directions."""
    figure = Figure(figsize=(13, 4.8))
    panels = figure.subplots(1, len(AVERAGES))
    lines: list[Line2D] = []
    for axes, (metric, label) in zip(panels, AVERAGES.items(), strict=True):
        value = partial(_metric, metric)
        _draw_ok(axes, study, table, look, value)
        lines = _draw_bounds(study, metric, axes.axhline)
        axes.set_ylim(bottom=0)
        _draw_failed(axes, study, table, look, value, vanished=0)
        axes.set_title(f"{label}, % of the test queries", fontweight="normal")
    look.legend(figure, table, lines)
    figure.suptitle(f"Retrieval over training, mean of all directions: {_subtitle(study, table)}",
                    x=0.01, ha="left", fontsize=11, fontweight="bold")  # fmt: skip
    return figure, f"R@1, R@5 and R@10 over epochs with chance and ceiling. {_ends(table, 'avg_r1')}"


def final_figure(study: Study, table: Sequence[Row], look: Look) -> tuple[Figure, str]:
    """The primary metric at the last epoch: every seed a dot."""
    metric = study.protocol.primary_metric
    figure = Figure(figsize=(9, 1.7 + 0.4 * len(table)))
    axes = figure.subplots()
    for y, row in enumerate(table):
        values = [r.metrics[metric] for r in row.ok if metric in r.metrics]
        spread = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(len(values))
        if values:
            axes.plot([statistics.fmean(values)] * 2, [y - 0.34, y + 0.34], color="0.15", linewidth=2.2)
        axes.plot(values, y + spread, **look.dot(row, markersize=6, alpha=0.85))
    lines = _draw_bounds(study, metric, axes.axvline)
    axes.set_xlim(left=0)
    _name_lines(axes, lines)
    _draw_lost(axes, table, look)
    axes.set_yticks(range(len(table)), [plain(row.optimizer) for row in table])
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    better = "lower is better" if lower_is_better(metric) else "higher is better"
    lost = "; ✕: runs that are not ok" if any(row.failed for row in table) else ""
    axes.set_xlabel(f"{_with_unit(metric)} ({better}; dot: a seed, bar: their mean{lost})")
    axes.set_title(f"Final {metric_title(metric)}: {_subtitle(study, table)}", pad=20)
    return figure, f"Final {metric_title(metric)} of every seed, with means, chance and ceiling. {_ends(table, metric)}"


def _name_lines(axes: Axes, lines: Sequence[Line2D]) -> None:
    """Write a vertical line's name and value over it."""
    place = blended_transform_factory(axes.transData, axes.transAxes)
    middle = sum(axes.get_xlim()) / 2
    for line in lines:
        x = float(np.asarray(line.get_xdata())[0])
        axes.text(x, 1.01, f"{line.get_label()} {x:.1f}", transform=place, color=BOUND, fontsize=9, va="bottom",
                  ha="left" if x < middle else "right")  # fmt: skip


def _draw_lost(axes: Axes, table: Sequence[Row], look: Look) -> None:
    """Left of zero, a cross with the number of runs that are not ok."""
    if not any(row.failed for row in table):
        return
    right = axes.get_xlim()[1]
    axes.set_xlim(-0.09 * right, right)
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set_xticks([x for x in axes.get_xticks() if 0 <= x <= right])
    for y, row in enumerate(table):
        if row.failed:
            axes.plot(-0.06 * right, y, **CROSS, color=look.colour(row))
            axes.text(-0.04 * right, y, str(len(row.failed)), va="center", fontsize=9, color="0.2")


def pairs_figure(study: Study, table: Sequence[Row], look: Look) -> tuple[Figure, str]:
    """R@1 by pair of modalities, a full marker for one direction and a hollow one for the other."""
    shown = [row for row in table if row.ok]
    pairs = {name: pair for name, pair in PAIRS.items() if any(f"{d}_r1" in row.metrics for row in shown for d in pair)}
    figure = Figure(figsize=(9, 4.8))
    axes = figure.subplots()
    offsets = np.linspace(-0.36, 0.36, len(shown)) if len(shown) > 1 else np.zeros(1)
    for offset, row in zip(offsets, shown, strict=False):
        for x, pair in enumerate(pairs.values()):
            means = [row.metrics[f"{d}_r1"].mean if f"{d}_r1" in row.metrics else math.nan for d in pair]
            axes.plot([x + offset] * 2, means, color=look.colour(row), linewidth=1, alpha=0.7)
            hollow = {"markerfacecolor": "none", "markeredgewidth": 1.4}
            for mean, filled in zip(means, ({}, hollow), strict=True):
                axes.plot(x + offset, mean, **look.dot(row, markersize=6, **filled))
    for border in range(1, len(pairs)):
        axes.axvline(border - 0.5, color="0.85", linewidth=0.8)
    arrows = {name: [direction.upper().replace("2", "→") for direction in pair] for name, pair in pairs.items()}
    axes.set_xticks(range(len(pairs)), [f"{name}\n●  {a}   ○  {b}" for name, (a, b) in arrows.items()])
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.set_xlim(-0.5, max(len(pairs), 1) - 0.5)
    axes.set_ylim(0, 1.08 * max(axes.dataLim.y1, 1e-9) if shown else 1)
    _say_if_empty(axes, shown)
    axes.set_ylabel("R@1, % of the test queries, mean over seeds")
    axes.set_title(f"R@1 by pair of modalities: {_subtitle(study, table)}")
    look.legend(figure, shown, joined=False)
    return figure, "R@1 of every optimizer for each pair of modalities, both directions joined by a line."


def _say_if_empty(axes: Axes, content: Sequence[object]) -> None:
    if not content:
        axes.text(0.5, 0.5, "no run that is ok", transform=axes.transAxes, ha="center", color=BOUND)
        axes.set_xticks([])
        axes.set_yticks([])


def time_figure(study: Study, table: Sequence[Row], look: Look) -> tuple[Figure, str]:
    """Training time against quality."""
    metric = study.protocol.primary_metric
    figure = Figure(figsize=(9, 4.8))
    axes = figure.subplots()
    points: list[tuple[float, float, str]] = []
    for row in table:
        score, seconds = row.metrics.get(metric), row.seconds_an_epoch
        if score is None or seconds is None:
            continue
        axes.errorbar(seconds, score.mean, yerr=score.sd, capsize=3, capthick=1.2, elinewidth=1.2,
                      **look.dot(row, markersize=8))  # fmt: skip
        points.append((seconds, score.mean, row.optimizer))
    if points:
        axes.set_xscale("log")
        left, right = min(x for x, _, _ in points) / 1.3, max(x for x, _, _ in points) * 1.5
        _plain_log_ticks(axes.xaxis, right / left)
        axes.set_xlim(left, right)
        axes.set_ylim(0, 1.15 * max(axes.dataLim.y1, 1e-9))
    axes.set_xlabel("seconds of training an epoch, logarithmic")
    axes.set_ylabel(f"{_with_unit(metric)}, mean ± sd over seeds")
    axes.set_title(f"Time against quality: {_subtitle(study, table)}")
    label_points(axes, points)
    _say_if_empty(axes, points)
    shown = ", ".join(f"{name} {x:.2f} s and {y:.2f}" for x, y, name in points)
    return figure, f"Seconds of training an epoch against {metric_title(metric)}: {shown or 'no run that is ok'}."


FIGURES: Mapping[str, Callable[[Study, Sequence[Row], Look], tuple[Figure, str]]] = {
    "final": final_figure,
    "loss": loss_figure,
    "retrieval": retrieval_figure,
    "pairs": pairs_figure,
    "time": time_figure,
}
