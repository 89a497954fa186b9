"""Time to the target score: every run on three axes, and the performance profile over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.reporting.analysis import AXES, Analysis, Axis, Target
from bench.reporting.figures.frame import (
    LOG_RANGE,
    Drawn,
    caption,
    listed,
    optimizers_legend,
    over_panels,
    plain_log_ticks,
    score_text,
    titled,
)
from bench.reporting.figures.looks import INK, Look
from bench.reporting.figures.strips import dots, draw_lost, name_rows, strip_figure
from bench.statistics.intervals import FloatArray
from bench.statistics.targets import MOST_TIMES_THE_BEST, performance_profile, performance_ratios
from bench.summary import lower_is_better, metric_title
from bench.wording import percent

TITLES = {"steps": "optimizer steps", "samples": "samples", "seconds": "seconds of training"}


def targets_figure(analysis: Analysis, look: Look) -> Drawn | None:
    """When each run reached the target, by steps, samples and seconds; None where no run did."""
    target = analysis.target
    if target is None or not any(math.isfinite(t) for of in target.times["steps"].values() for t in of):
        return None
    names = [row.optimizer for row in analysis.rows if row.optimizer in target.times["steps"]]
    figure, panels = strip_figure(len(names), 13, len(AXES))
    for axes, axis in zip(panels, AXES, strict=True):
        _draw_times(axes, target, axis, names, look)
    name_rows(panels[0], names)
    for axes in panels[1:]:
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
    over_panels(figure, titled(analysis, f"Time to {_goal(analysis, target)}"))
    lost = "; ✕: number of runs that never reach it" if _missed(target, names) else ""
    caption(figure, f"dot: a run; bar: median of the runs, a miss counting as infinite{lost}")
    return Drawn(figure, f"Time to {_goal(analysis, target)}", "Time of every run to the target on three axes. Steps, "
                 f"median of the runs: {listed(_said(target, name) for name in names)}.")  # fmt: skip


def _goal(analysis: Analysis, target: Target) -> str:
    sign = "≤" if lower_is_better(analysis.metric) else "≥"
    return f"{metric_title(analysis.metric)} {sign} {score_text(target.score, analysis.metric)}"


def _missed(target: Target, names: Sequence[str]) -> dict[str, int]:
    counts = {name: target.summary["steps"][name].n - target.summary["steps"][name].reached for name in names}
    return {name: count for name, count in counts.items() if count}


def _said(target: Target, name: str) -> str:
    of = target.summary["steps"][name]
    reached = f"{of.reached} of {of.n} reached"
    return f"{name} {of.median:,.0f} ({reached})" if math.isfinite(of.median) else f"{name} missed ({reached})"


def _draw_times(axes: Axes, target: Target, axis: Axis, names: Sequence[str], look: Look) -> None:
    reached = {name: [t for t in target.times[axis][name] if math.isfinite(t)] for name in names}
    times = [t for of in reached.values() for t in of]
    if min(times) > 0 and max(times) / min(times) > LOG_RANGE:
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis, max(times) / min(times))
        axes.set_xlim(min(times) / 1.15, max(times) * 1.15)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.10g}"))
        axes.set_xlim(0, 1.04 * max(times) or 1)
    for y, name in enumerate(names):
        dots(axes, y, name, reached[name], look)
        median = target.summary[axis][name].median
        if math.isfinite(median):
            axes.plot([median, median], [y - 0.34, y + 0.34], color=INK, linewidth=1.8)
    draw_lost(axes, _missed(target, names), names, look, right=True)
    axes.set_title(TITLES[axis], fontweight="normal")


def profile_figure(analysis: Analysis, look: Look) -> Drawn | None:
    """Share of seeds in which an optimizer needs at most τ times the fewest steps to the target.

    None without two optimizers on two shared seeds in which the target was reached.
    """
    if analysis.target is None:
        return None
    names, times = analysis.target.blocks("steps")
    if min(times.shape) < 2 or not (times > 0).all():
        return None
    figure = Figure(figsize=(9, 4.8))
    axes = figure.subplots()
    order = [row for row in analysis.rows if row.optimizer in names]
    for row in order:
        at, share = _steps(times, names.index(row.optimizer))
        axes.plot(at, share, drawstyle="steps-post", **look.line(row.optimizer, len(at)))
    last = _last_rise(times)
    axes.set_xlim(1, last)
    axes.set_ylim(-0.02, 1.03)
    axes.set_xlabel("τ: times the steps of the seed's fastest optimizer")
    if last < MOST_TIMES_THE_BEST:
        caption(figure, f"from the right end to τ = {MOST_TIMES_THE_BEST:g} no line rises any more")
    axes.set_ylabel(f"share of {len(times)} seeds reached within τ")
    goal = _goal(analysis, analysis.target)
    axes.set_title(titled(analysis, f"Steps to {goal}"))
    optimizers_legend(figure, look, order, failed=False)
    at_two = performance_profile(times, [1.0, 2.0])
    said = (f"{row.optimizer} {percent(at_two[0, i])} and {percent(at_two[1, i])}"
            for row in order for i in (names.index(row.optimizer),))  # fmt: skip
    return Drawn(figure, f"Performance profile: steps to {goal}", f"Performance profile over {len(times)} seeds, share "
                 f"of them as fast as the fastest (τ = 1) and within twice its steps (τ = 2): {listed(said)}. It "
                 "depends on which optimizers take part.")  # fmt: skip


def _last_rise(times: FloatArray) -> float:
    """The end of the τ axis: a little after the last rise, at most AlgoPerf's end."""
    ratios = performance_ratios(times)
    return min(MOST_TIMES_THE_BEST, max(1.05, 1 + 1.1 * float(ratios[ratios <= MOST_TIMES_THE_BEST].max() - 1)))


def _steps(times: FloatArray, column: int) -> tuple[FloatArray, FloatArray]:
    """Where an optimizer's profile rises, from τ = 1 to its end, and its height there."""
    ratios = performance_ratios(times)[:, column]
    at = np.unique([1.0, *ratios[ratios <= MOST_TIMES_THE_BEST], MOST_TIMES_THE_BEST])
    return at, performance_profile(times, at)[:, column]
