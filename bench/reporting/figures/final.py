"""The results at the last epoch: the primary metric of every seed, and R@1 of both directions of each pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import offset_copy

from bench.reporting.analysis import Analysis
from bench.reporting.figures.frame import (
    LOG_RANGE,
    Drawn,
    better,
    bounds_text,
    caption,
    draw_bounds,
    known_bounds,
    listed,
    mean_interval,
    optimizers_legend,
    plain_log_ticks,
    titled,
    with_unit,
)
from bench.reporting.figures.looks import GRID, INK, MUTED, Look
from bench.reporting.figures.strips import dots, draw_lost, name_rows, strip_figure
from bench.summary import PAIRS, Row, lower_is_better, metric_title

CLOSE = 0.3  # of the axes: names of lines that are closer stand one above the other


def final_figure(analysis: Analysis, look: Look) -> Drawn | None:
    """The primary metric at the last epoch, every seed a dot; None where no run is ok."""
    metric = analysis.metric
    values = {row.optimizer: _values(row, metric) for row in analysis.rows}
    if not any(values.values()):
        return None
    figure, (axes,) = strip_figure(len(values), 9)
    known = known_bounds(analysis, metric)
    _set_limits(axes, [*known.values(), *(x for of in values.values() for x in of)], lower_is_better(metric))
    grain = analysis.verdict.options.grain if analysis.verdict else 0.0
    shown = []
    for y, row in enumerate(analysis.rows):
        if values[row.optimizer]:
            found = mean_interval(values[row.optimizer], grain)
            dots(axes, y - 0.08, row.optimizer, values[row.optimizer], look)
            _draw_interval(axes, y + 0.3, found, dashed=bool(row.failed))
            shown.append((row, found))
    lines = draw_bounds(known, axes.axvline)
    several = any(len(of) > 1 for of in values.values())
    lost = {row.optimizer: len(row.failed) for row in analysis.rows}
    draw_lost(axes, lost, list(values), look, right=lower_is_better(metric))
    name_rows(axes, list(values))
    axes.set_xlabel(f"{with_unit(metric)} ({better(metric)})")
    interval, crosses = (" and its 95 % t-interval" if several else ""), any(lost.values())
    caption(figure, f"dot: a seed; below it: mean{interval} over the seeds that are ok"
            f"{'; ✕: number of runs that are not ok' if crosses else ''}")  # fmt: skip
    raised = _name_lines(axes, lines)
    axes.set_title(titled(analysis, f"Final {metric_title(metric)}"), pad=32 if raised else 20)
    return Drawn(figure, "Final result", f"Final {metric_title(metric)} of every seed, with mean and 95 % interval: "
                 f"{listed(_said(row, found) for row, found in shown)}; {bounds_text(known)}.")  # fmt: skip


def _values(row: Row, metric: str) -> list[float]:
    return [r.metrics[metric] for r in row.ok if math.isfinite(r.metrics.get(metric, math.nan))]


def _said(row: Row, found: tuple[float, float, float]) -> str:
    mean, low, high = found
    interval = f" ({low:.2f} to {high:.2f})" if len(row.ok) > 1 else ""
    return f"{row.optimizer} {mean:.2f}{interval}{f', {len(row.failed)} runs not ok' if row.failed else ''}"


def _set_limits(axes: Axes, values: Sequence[float], lower: bool) -> None:
    """From zero; logarithmic where the values are ranks over a wide range."""
    least, most = min(values), max(values)
    if lower and least > 0 and most / least > LOG_RANGE:
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis, most / least)
        axes.set_xlim(least / 1.15, most * 1.15)
    else:
        axes.set_xlim(min(0, 1.04 * least), 1.04 * most if most > 0 else 1)


def _draw_interval(axes: Axes, y: float, found: tuple[float, float, float], *, dashed: bool) -> None:
    """The mean's mark on its interval; dashed where the optimizer has failed runs, which it leaves out."""
    mean, low, high = found
    ends = np.clip([low, high], *axes.get_xlim())
    axes.plot(ends, [y, y], color=INK, linewidth=1.3, linestyle=(0, (3, 1.5)) if dashed else "-")
    axes.plot(mean, y, color=INK, marker="|", markersize=7, markeredgewidth=2)


def _name_lines(axes: Axes, lines: Sequence[Line2D]) -> bool:
    """Write vertical lines' names and values over them; True where one stands above the other."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    xs = [float(np.asarray(line.get_xdata())[0]) for line in lines]
    places = axes.transAxes.inverted().transform(axes.transData.transform([(x, 0) for x in xs]))[:, 0] if xs else []
    close = len(places) > 1 and abs(places[1] - places[0]) < CLOSE
    for i, (line, x, place) in enumerate(zip(lines, xs, places, strict=True)):
        above = offset_copy(axes.get_xaxis_transform(), figure, y=15 if close and i else 3, units="points")
        axes.text(x, 1, f"{line.get_label()} {x:.1f}", transform=above, color=MUTED, fontsize=9, va="bottom",
                  ha="left" if place < 0.5 else "right")  # fmt: skip
    return bool(close)


def pairs_figure(analysis: Analysis, look: Look) -> Drawn | None:
    """R@1 by pair of modalities, a full marker for one direction and a hollow one for the other; None without any."""
    means = {row.optimizer: _means(row) for row in analysis.rows}
    shown = [row for row in analysis.rows if means[row.optimizer]]
    pairs = {name: pair for name, pair in PAIRS.items() if any(set(pair) & of.keys() for of in means.values())}
    if not pairs:
        return None
    figure = Figure(figsize=(9 + 0.12 * max(0, len(shown) - 20), 4.8))
    axes = figure.subplots()
    offsets = np.linspace(-0.36, 0.36, len(shown)) if len(shown) > 1 else np.zeros(1)
    for offset, row in zip(offsets, shown, strict=True):
        _draw_pairs(axes, offset, row.optimizer, means[row.optimizer], list(pairs.values()), look)
    for border in range(1, len(pairs)):
        axes.axvline(border - 0.5, color=GRID, linewidth=0.8)
    arrows = {name: [direction.upper().replace("2", "→") for direction in pair] for name, pair in pairs.items()}
    axes.set_xticks(range(len(pairs)), [f"{name}\n●  {a}   ○  {b}" for name, (a, b) in arrows.items()])
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.set_xlim(-0.5, len(pairs) - 0.5)
    axes.set_ylim(0, 1.08 * max(axes.dataLim.y1, 1e-9))
    axes.set_ylabel("R@1, % of the test queries, mean over ok seeds")
    axes.set_title(titled(analysis, "R@1 by pair of modalities"))
    optimizers_legend(figure, look, shown, joined=False)
    said = (f"{row.optimizer} {_directions(means[row.optimizer])}" for row in shown)
    return Drawn(figure, "R@1 in both directions", "R@1 for each pair of modalities, both directions joined by a line: "
                 f"{listed(said)}.")  # fmt: skip


def _means(row: Row) -> dict[str, float]:
    """R@1 by direction, where it is known."""
    found = {d: row.metrics.get(f"{d}_r1") for pair in PAIRS.values() for d in pair}
    return {d: value.mean for d, value in found.items() if value is not None and math.isfinite(value.mean)}


def _draw_pairs(
    axes: Axes, offset: float, name: str, means: Mapping[str, float], pairs: Sequence[tuple[str, str]], look: Look
) -> None:
    """One optimizer's directions, those of a pair joined."""
    hollow = {"markerfacecolor": "none", "markeredgewidth": 1.4}
    for side, kind in enumerate(({}, hollow)):
        shown = {x + offset: means[pair[side]] for x, pair in enumerate(pairs) if pair[side] in means}
        axes.plot(list(shown), list(shown.values()), **look.dot(name, markersize=6, **kind))
    both = {x + offset: [means[d] for d in pair] for x, pair in enumerate(pairs) if set(pair) <= means.keys()}
    low, high = [min(of) for of in both.values()], [max(of) for of in both.values()]
    axes.vlines(list(both), low, high, color=look.colour(name), linewidth=1)


def _directions(means: Mapping[str, float]) -> str:
    return ", ".join(f"{direction.upper().replace('2', '→')} {mean:.1f}" for direction, mean in means.items())
